"""Training from a folder of files: what it says, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from convworks import durable
from convworks.errors import ConvworksError
from convworks.flows import session
from convworks.flows.events import EpochDone, Finished, Found, Note, Will
from convworks.runs import Run, create_run, read_records, state_of
from tests.flows.helpers import fingerprint, resume_all, train_all, train_until, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(folder)): (p.read_bytes() if p.is_file() else b"", p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
    }


@pytest.mark.usefixtures("drawn_page")
def test_a_run_from_files_to_report(tmp_path: Path, data: Path) -> None:
    before = tree(data)
    events = train_all(tmp_path, data)
    found, will, *_, finished = [e for e in events if not isinstance(e, Note)]
    assert isinstance(found, Found)
    assert (found.images, found.classes) == (60, ("blue", "green", "red"))
    assert found.splits == {"train": 48, "val": 12}
    assert found.counts == {"blue": 20, "green": 20, "red": 20}
    assert isinstance(will, Will)
    assert (will.model, will.input, will.steps_per_epoch) == ("tutorial_cnn", (3, 28, 28), 3)
    assert will.settings["epochs"] == (2, "flag")
    assert [e.epoch for e in events if isinstance(e, EpochDone)] == [1, 2]
    assert isinstance(finished, Finished)
    assert finished.metrics["n"] == 12
    assert tree(data) == before

    run = Run(tmp_path / "runs" / "run")
    assert run.finished
    assert run.report.stat().st_size > 10_000
    record = run.record()
    assert record["command"][:2] == ["convworks", "train"]
    assert record["provenance"]["epochs"] == "flag"
    records = read_records(run.metrics_file)
    assert [r["epoch"] for r in records if r["kind"] == "epoch"] == [1, 2]
    assert [r["step"] for r in records if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    scores = load_file(run.evaluation / "val.safetensors")
    assert scores["probabilities"].shape == (12, 3)
    np.testing.assert_allclose(scores["probabilities"].sum(1), 1, rtol=1e-6)
    accuracy = float((scores["probabilities"].argmax(1) == scores["labels"]).mean())
    assert accuracy == pytest.approx(finished.metrics["top1"])
    info = json.loads((run.model / "model.json").read_text())
    assert info["classes"] == ["blue", "green", "red"]
    assert str(tmp_path) not in (run.model / "model.json").read_text()  # a bundle can be moved


def test_the_same_command_twice_ends_in_the_same_bits(tmp_path: Path, data: Path) -> None:
    train_all(tmp_path, data, name="a")
    train_all(tmp_path, data, name="b")
    assert fingerprint(tmp_path, "a") == fingerprint(tmp_path, "b")


def test_another_seed_ends_in_other_bits(tmp_path: Path, data: Path) -> None:
    train_all(tmp_path, data, name="a")
    train_all(tmp_path, data, name="c", seed=1)
    a, c = fingerprint(tmp_path, "a"), fingerprint(tmp_path, "c")
    assert all(a[key] != c[key] for key in a if key.endswith("network.safetensors"))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batch_threads_change_nothing(tmp_path: Path, data: Path, workers: int) -> None:
    train_all(tmp_path, data, name="a")
    train_all(tmp_path, data, name="b", workers=workers)
    assert fingerprint(tmp_path, "a") == fingerprint(tmp_path, "b")


@pytest.mark.usefixtures("drawn_page")
def test_runs_without_a_name_count_up(tmp_path: Path, data: Path) -> None:
    for _ in range(2):
        train_all(tmp_path, data, name=None, epochs=1)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [
        "colours-tutorial_cnn-01",
        "colours-tutorial_cnn-02",
    ]


def test_an_unknown_model_offers_the_closest(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConvworksError, match="U101.*'lenet'[\\s\\S]*did you mean 'lenet5'"):
        train_all(tmp_path, data, model="lenet")
    assert not (tmp_path / "runs").exists()


def test_a_failed_start_leaves_no_run_behind(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "one", classes=("a", "b"), each=6)
    for path in (folder / "a").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ConvworksError, match="D14"):
        train_all(tmp_path, folder)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "code"), [({"device": "cuda:99"}, "R520"), ({"model": "lenet5", "size": 8}, "U122")]
)
def test_a_device_or_size_that_does_not_fit_leaves_no_run_behind(
    tmp_path: Path, data: Path, settings: dict[str, object], code: str
) -> None:
    with pytest.raises(ConvworksError, match=code):
        train_all(tmp_path, data, **settings)
    assert not list((tmp_path / "runs").glob("*"))


def test_a_read_only_place_is_said_before_anything_is_computed(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConvworksError, match="R503.*cannot write to") as caught:
        train_all(tmp_path, data)
    assert caught.value.exit_status == 5


def test_divergence_names_files_and_keeps_the_last_good_checkpoint(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConvworksError, match=r"N601.*not finite at step \d+[\s\S]*batch: .*\.png") as caught:
        train_all(tmp_path, data, epochs=20, **{"optimizer.lr": 1e20, "checkpoint_every": 1, "ema": None})
    assert caught.value.exit_status == 6
    step = caught.value.what.split(" step ")[1].split()[0]
    assert state_of(Run(tmp_path / "runs" / "run")) == f"diverged at step {step}"
    checkpoints = tmp_path / "runs" / "run" / "checkpoints"
    for path in checkpoints.glob("step-*/network.safetensors"):
        assert all(np.isfinite(v).all() for v in load_file(path).values())
    assert not (tmp_path / "runs" / "run" / "model").exists()


def test_a_full_disk_in_a_checkpoint_costs_a_warning(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, original = 0, session.save_checkpoint

    def sometimes(*args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        if count in {1, 3}:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "save_checkpoint", sometimes)
    events = train_all(tmp_path, data)
    warnings = [e.text for e in events if isinstance(e, Note) and e.level == "warning"]
    assert len(warnings) == 2
    assert all("No space left on device" in text for text in warnings)
    assert isinstance(events[-1], Finished)


def test_a_model_that_cannot_be_saved_is_offered_a_rescue(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = durable.write_folder

    def refuse(target: Path, files: object) -> None:
        if target.parent.name == "run":
            raise OSError(28, "No space left on device")
        original(target, files)  # type: ignore[arg-type]

    monkeypatch.setattr("convworks.bundle.write_folder", refuse)
    with pytest.raises(ConvworksError, match="R505.*No space left") as caught:
        train_all(tmp_path, data, rescue=tmp_path / "elsewhere")
    assert caught.value.exit_status == 5
    assert (tmp_path / "elsewhere" / "run" / "weights.safetensors").is_file()
    monkeypatch.undo()
    assert isinstance(resume_all(tmp_path)[-1], Finished)  # nothing of the training is lost


@pytest.mark.usefixtures("drawn_page")
def test_early_stopping_and_plateau(tmp_path: Path, data: Path) -> None:
    events = train_all(
        tmp_path,
        data,
        epochs=40,
        early_stopping=2,
        **{"schedule.name": "plateau", "schedule.patience": 0, "optimizer.lr": 1e-6},
    )
    epochs = [e for e in events if isinstance(e, EpochDone)]
    assert len(epochs) < 40
    assert not epochs[-1].best
    assert epochs[-1].lr < epochs[0].lr


def test_balanced_class_weights_and_keep_last(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "few", each=12)
    for path in sorted((folder / "red").iterdir())[4:]:
        path.unlink()
    events = train_all(
        tmp_path, folder, class_weights="balanced", keep="last", clip_norm=1.0, label_smoothing=0.1
    )
    done = [e for e in events if isinstance(e, EpochDone)]
    assert [e.best for e in done] == [True, True]
    assert isinstance(events[-1], Finished)
    assert events[-1].epoch == 2


def test_an_unreadable_file_is_left_out_and_listed(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "mixed", each=40)
    (folder / "red" / "broken.png").write_bytes(b"<html>not here</html>")
    found = train_all(tmp_path, folder, epochs=1)[0]
    assert isinstance(found, Found)
    assert [path for path, _ in found.left_out] == ["red/broken.png"]
    assert "HTML" in found.left_out[0][1]


def test_two_processes_do_not_share_a_run(tmp_path: Path, data: Path) -> None:
    train_until(tmp_path, data, 4)
    run = Run(tmp_path / "runs" / "run")
    with run.locked(), pytest.raises(ConvworksError, match=f"R510.*in use by pid {os.getpid()}"):
        resume_all(tmp_path)


def test_losing_the_lock_removes_nothing(tmp_path: Path, data: Path) -> None:
    run = create_run(tmp_path / "runs", "x", name="run")  # another process, in its first moment
    with run.locked():
        with pytest.raises(ConvworksError, match="R510"):
            train_all(tmp_path, data)
        assert (run.path / ".lock").exists()


def test_grey_and_colour_of_any_size_train_together(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "odd", each=8)
    Image.fromarray(np.zeros((5, 40), np.uint8)).save(folder / "red" / "grey.png")
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(folder / "blue" / "dot.png")
    assert isinstance(train_all(tmp_path, folder, epochs=1)[-1], Finished)
