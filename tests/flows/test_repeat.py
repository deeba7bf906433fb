"""Several runs of one training: what differs between them, what is kept, and stopping in the middle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from convworks.data.manifest import Manifest
from convworks.errors import ConvworksError
from convworks.flows.events import Note, Stopped, Will
from convworks.flows.repeat import Repeated, RepeatRequest, repeat
from convworks.flows.train import ResumeRequest, resume
from convworks.report.read import read_run
from tests.flows.helpers import StopAfter, fingerprint, request, train_all, write_images
from tests.flows.several import outcome, train_group

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeat")
    write_images(folder / "data")
    return folder


@pytest.fixture(scope="module")
def groups(work: Path) -> dict[str, Repeated]:
    return {kind: train_group(work, work / "data", kind) for kind in ("seeds", "folds", "bags")}


def manifests(found: Repeated) -> list[Manifest]:
    return [Manifest.load(path / "manifest.jsonl") for path in found.runs]


def rows_of(manifest: Manifest, split: str) -> set[int]:
    return {i for i, sample in enumerate(manifest.samples) if sample.split == split}


def test_seeds_share_the_split_and_nothing_else(groups: dict[str, Repeated]) -> None:
    found = groups["seeds"]
    assert [path.name for path in found.runs] == ["seeds-s0", "seeds-s1", "seeds-s2"]
    assert len({each.sha256 for each in manifests(found)}) == 1
    assert [read_run(path).recipe["seed"] for path in found.runs] == [0, 1, 2]
    weights = {(path / "model" / "weights.safetensors").read_bytes() for path in found.runs}
    assert len(weights) == 3
    mean, deviation = found.accuracy("val")
    each = [metrics.top1 for metrics in found.scores["val"]]
    assert mean == pytest.approx(np.mean(each))
    assert deviation == pytest.approx(np.std(each, ddof=1))


def test_every_image_validates_in_one_fold(groups: dict[str, Repeated]) -> None:
    found = groups["folds"]
    held = [rows_of(each, "val") for each in manifests(found)]
    assert set.union(*held) == set(range(60))
    assert sum(map(len, held)) == 60
    assert {read_run(path).recipe["seed"] for path in found.runs} == {0}
    assert {read_run(path).recipe["keep"] for path in found.runs} == {"last"}
    assert "choose nothing" in read_run(found.runs[0]).sources["keep"]
    assert found.notes == ()


def test_out_of_fold_answers_are_kept(groups: dict[str, Repeated]) -> None:
    found = groups["folds"]
    kept = load_file(found.folder / "out-of-fold.safetensors")
    assert kept["rows"].tolist() == list(range(60))
    assert set(kept["runs"].tolist()) == {1}
    assert found.together is not None
    right = kept["probabilities"].argmax(axis=1) == kept["labels"]
    assert found.together.top1 == pytest.approx(right.mean())
    for path, manifest in zip(found.runs, manifests(found), strict=True):
        own = load_file(path / "evaluation" / "val.safetensors")
        np.testing.assert_allclose(kept["probabilities"][own["rows"]], own["probabilities"])
        assert set(own["rows"].tolist()) == rows_of(manifest, "val")


def test_bags_draw_with_replacement_and_validate_with_the_rest(groups: dict[str, Repeated]) -> None:
    found = groups["bags"]
    parts = [rows_of(each, "train") for each in manifests(found)]
    assert len({frozenset(each) for each in parts}) == 3
    assert all(30 <= len(each) < 50 for each in parts)
    kept = load_file(found.folder / "out-of-fold.safetensors")
    for row, runs in zip(kept["rows"], kept["runs"], strict=True):
        assert runs == sum(int(row) not in each for each in parts)
    record = read_run(found.runs[0])
    assert record.manifest is not None
    assert record.manifest.split_rule == "bag 1: drawn with replacement, the others validate, seed 0"


def test_a_group_that_was_stopped_continues_to_the_same_bits(work: Path, tmp_path: Path) -> None:
    def begin(stop: StopAfter | None) -> tuple[list, Repeated | None]:
        base = request(tmp_path, work / "data", name="bags")
        events = repeat(RepeatRequest(base=base, kind="bags", count=2), should_stop=stop or (lambda: False))
        seen = []
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return seen, end.value
            seen.append(event)
            if stop is not None and isinstance(event, Will) and event.run.name == "bags-b1":
                stop.armed = True

    events, nothing = begin(StopAfter(3, armed=False))
    assert nothing is None
    assert isinstance(events[-1], Stopped)
    assert not (tmp_path / "runs" / "bags" / "summary.json").exists()
    events, found = begin(None)
    assert found is not None
    assert any(isinstance(each, Note) and "finished already" in each.text for each in events)
    other = tmp_path / "other"
    base = request(other, work / "data", name="bags")
    outcome(repeat(RepeatRequest(base=base, kind="bags", count=2)))
    assert fingerprint(tmp_path, "bags-b1") == fingerprint(other, "bags-b1")
    assert json.loads((found.folder / "summary.json").read_text())["kind"] == "bags"


@pytest.mark.usefixtures("with_page")
def test_a_fold_is_resumed_by_itself_too(work: Path, tmp_path: Path) -> None:
    base = request(tmp_path, work / "data", name="folds")
    stop = StopAfter(3, armed=False)
    events = repeat(RepeatRequest(base=base, kind="folds", count=2), should_stop=stop)
    for event in events:
        stop.armed = stop.armed or isinstance(event, Will)
    for _ in resume(ResumeRequest(run=tmp_path / "runs" / "folds-f0", cache=tmp_path / "cache")):
        pass
    whole = tmp_path / "whole"
    outcome(repeat(RepeatRequest(base=request(whole, work / "data", name="folds"), kind="folds", count=2)))
    assert fingerprint(tmp_path, "folds-f0") == fingerprint(whole, "folds-f0")


def test_without_a_name_the_next_group_is_found(work: Path, tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        base = request(tmp_path, work / "data", name=None, epochs=1)
        _, found = outcome(repeat(RepeatRequest(base=base, kind="seeds", count=2)))
        assert found is not None
        names.append(found.folder.name)
    assert names == ["data-tutorial_cnn-01", "data-tutorial_cnn-02"]


def test_a_finished_member_of_another_training_is_refused(work: Path, tmp_path: Path) -> None:
    train_group(tmp_path, work / "data", "seeds", 2, epochs=1, name="group")
    with pytest.raises(ConvworksError, match="trained with other settings: epochs was 1, is 2") as problem:
        train_group(tmp_path, work / "data", "seeds", 2, epochs=2, name="group")
    assert problem.value.code == "U131"


def test_the_name_of_a_single_run_is_refused(work: Path, tmp_path: Path) -> None:
    train_all(tmp_path, work / "data", epochs=1)
    with pytest.raises(ConvworksError, match="'run' is the name of a single run") as problem:
        train_group(tmp_path, work / "data", "seeds", 2, name="run")
    assert problem.value.code == "U268"


@pytest.mark.parametrize("count", [1, 0, 101])
def test_a_number_of_runs_that_makes_no_sense(work: Path, tmp_path: Path, count: int) -> None:
    with pytest.raises(ConvworksError, match="makes no sense") as problem:
        train_group(tmp_path, work / "data", "folds", count)
    assert problem.value.code == "U267"


def test_what_the_validating_images_decided_is_said(work: Path, tmp_path: Path) -> None:
    found = train_group(
        tmp_path, work / "data", "folds", 2, epochs=1, early_stopping=3, keep="best", name="noted"
    )
    assert "early_stopping, keep=best" in found.notes[0]
