"""Run folders: names, locks, logs that are cut on resume, disks that refuse."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from convworks.errors import ConvworksError
from convworks.runs import (
    MetricsLog,
    Run,
    append_timing,
    create_run,
    list_runs,
    open_run,
    read_records,
    require_space,
    state_of,
)


def test_names_count_up(tmp_path: Path) -> None:
    names = [create_run(tmp_path, "photos-fastnet").name for _ in range(3)]
    assert names == ["photos-fastnet-01", "photos-fastnet-02", "photos-fastnet-03"]


def _create(out: str) -> str:
    return create_run(Path(out), "x").name


def test_simultaneous_starts_get_distinct_folders(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        names = pool.map(_create, [str(tmp_path)] * 50)
    assert len(set(names)) == 50


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0b", "x" * 300])
def test_a_name_is_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConvworksError, match="U130.*cannot be the name of a run"):
        create_run(tmp_path, "x", name=name)


def test_a_taken_name_is_refused_unless_it_holds_nothing(tmp_path: Path) -> None:
    create_run(tmp_path, "x", name="mine")
    run = create_run(tmp_path, "x", name="mine")  # what a kill in the first moment leaves is taken over
    (run.path / "recipe.json").write_text("{}")
    with pytest.raises(ConvworksError, match="U130.*there is a run called 'mine' already"):
        create_run(tmp_path, "x", name="mine")


def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConvworksError, match="is a file, not a folder"):
        create_run(tmp_path / "runs", "x")


def test_a_lock_holds_off_others_and_says_who(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    with run.locked():
        with pytest.raises(ConvworksError, match=r"R510.*in use by pid \d+ on .* since \d{4}-") as caught:
            with Run(run.path).locked():
                pass
        assert caught.value.exit_status == 5
    with run.locked():  # free again
        pass
    assert not (run.path / "owner.json").exists()


def test_a_dead_owner_does_not_hold_the_lock(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    (run.path / ".lock").write_text("")
    (run.path / "owner.json").write_text(json.dumps({"pid": 1, "host": "gone", "since": "long ago"}))
    with run.locked():
        pass


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    run = create_run(tmp_path, "photos")
    (run.path / "recipe.json").write_text("{}")
    assert open_run(run.path).name == open_run(run.model).name == "photos-01"
    assert [each.name for each in list_runs(tmp_path)] == ["photos-01"]
    with pytest.raises(ConvworksError, match=r"A410.*there is no run '.*photos-1'[\s\S]*photos-01"):
        open_run(tmp_path / "photos-1")
    with pytest.raises(ConvworksError, match="has no recipe.json"):
        open_run(tmp_path)


def test_the_log_is_cut_to_its_recorded_length(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.append({"a": 1})
    log.flush()
    kept = log.length
    log.append({"a": 2})
    log.flush()
    again = MetricsLog(path, length=kept)
    again.append({"a": 3})
    again.flush()
    assert read_records(path) == [{"a": 1}, {"a": 3}]
    assert MetricsLog(path, length=10**6).length == path.stat().st_size  # never filled up with zeros


def test_a_full_disk_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"a": 1})

    def full(*args: object, **kwargs: object) -> object:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            log.flush()
    log.append({"a": 2})
    log.flush()
    assert read_records(log.path) == [{"a": 1}, {"a": 2}]


def test_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "timing.jsonl"
    path.write_text('{"a": 1}\n{"a": ')
    assert read_records(path) == [{"a": 1}]
    assert read_records(tmp_path / "none") == []


def test_too_little_space_is_said_before_computing(tmp_path: Path) -> None:
    with pytest.raises(ConvworksError, match=r"R504.*MB free; this run needs 1,000,000,000 MB"):
        require_space(tmp_path, 10**15)


@pytest.mark.parametrize(
    ("finished", "hint"), [(False, "--name mine-3, or convworks resume "), (True, "--name mine-3")]
)
def test_a_taken_name_says_which_is_free_and_what_can_be_continued(
    tmp_path: Path, finished: bool, hint: str
) -> None:
    run = create_run(tmp_path, "x", name="mine")
    (run.path / "recipe.json").write_text("{}")
    (tmp_path / "mine-2").mkdir()
    if finished:
        run.finished_file.write_text("{}")
    with pytest.raises(ConvworksError, match="U130") as caught:
        create_run(tmp_path, "x", name="mine")
    expected = hint if finished else f"{hint}{run.path}"
    assert caught.value.try_ == expected
    assert "none is ever replaced" in caught.value.why


def test_how_a_run_stands(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    assert state_of(run) == "not finished"
    append_timing(run, event="start")
    append_timing(run, event="diverged", epoch=2, step=17)
    assert state_of(run) == "diverged at step 17"
    append_timing(run, event="resume", epoch=2, step=12)  # with another rate, say
    assert state_of(run) == "not finished"
    append_timing(run, event="diverged")  # a line that lacks a part
    assert state_of(run) == "diverged"
    run.finished_file.write_text("{}")
    assert state_of(run) == "finished"
