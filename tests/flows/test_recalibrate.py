"""A run recalibrated: statistics of its own training images, both models kept, and nothing half written."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convworks.bundle import load_bundle
from convworks.data.manifest import Manifest
from convworks.data.preprocess import centre_crop
from convworks.data.store import ScanInterrupted
from convworks.errors import ConvworksError
from convworks.evaluation.inference import StoppedEarlyError
from convworks.flows.evaluate import EvaluateRequest, evaluate
from convworks.flows.predict import load, predict_paths
from convworks.flows.prepare import DataRequest
from convworks.flows.recalibrate import RecalibrateRequest, recalibrate_run
from convworks.runs import Run
from convworks.training.checkpoint import read_tensors
from convworks.training.recalibrate import StoppedRecalibrationError
from tests.flows.helpers import StopAfter, train_all, write_images

pytestmark = pytest.mark.usefixtures("no_pages")

FASTNET = {"model": "fastnet", "size": 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    train_all(work, write_images(work / "colours"), **FASTNET)
    return work


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run; the images stay where they are."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path


def request(work: Path, trained: Path) -> RecalibrateRequest:
    return RecalibrateRequest(run=work / "runs" / "run", cache=trained / "cache")


def hashes(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_first_layer_has_the_statistics_of_all_training_images(work: Path, trained: Path) -> None:
    """From the files of the images, as the run's manifest splits them, in float64 and all at once."""
    found = recalibrate_run(request(work, trained))
    bundle = load_bundle(found.model)
    training = [
        s for s in Manifest.load(Run(work / "runs" / "run").manifest_file).samples if s.split == "train"
    ]
    stored = Run(work / "runs" / "run")
    kept = json.loads(stored.recipe_file.read_text())["data"]["location"]
    assert found.images == len(training) == 48

    geometry = bundle.preprocess.geometry
    pixels = [
        centre_crop(
            geometry.fitted(np.asarray(Image.open(Path(kept) / s.path))), geometry.height, geometry.width
        )
        for s in training
    ]
    x = (np.stack(pixels).transpose(0, 3, 1, 2) / 255 - bundle.preprocess.mean) / bundle.preprocess.std
    stem = bundle.network.get_submodule("stem.conv")
    norm = bundle.network.get_submodule("stem.norm")
    assert isinstance(stem, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        y = stem.double()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(norm.running_mean.numpy(), y.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    m = y.size // y.shape[1]
    np.testing.assert_allclose(norm.running_var.numpy(), y.var(axis=(0, 2, 3)) * m / (m - 1), rtol=1e-4)
    assert found.layers[0].values == m


def test_only_running_statistics_differ_between_the_two_models(work: Path, trained: Path) -> None:
    run = Run(work / "runs" / "run")
    files = hashes(run.path)
    found = recalibrate_run(request(work, trained))
    after = hashes(run.path)
    assert {
        name: value for name, value in after.items() if not name.startswith("model-recalibrated/")
    } == files
    old = read_tensors(run.model / "weights.safetensors")
    new = read_tensors(found.model / "weights.safetensors")
    assert old.keys() == new.keys()
    for name, value in old.items():
        same = bool((value == new[name]).all())
        assert same is ("running" not in name), name
    facts, earlier = (json.loads((p / "model.json").read_text()) for p in (found.model, run.model))
    assert facts.pop("recalibrated") == {"images": 48, "augmented": False}
    assert facts["metrics"] == found.scores["val"].after.to_dict()
    assert {k: v for k, v in facts.items() if k != "metrics"} == {
        k: v for k, v in earlier.items() if k != "metrics"
    }


def test_accuracy_before_and_after_is_what_eval_says(work: Path, trained: Path) -> None:
    run = Run(work / "runs" / "run")
    found = recalibrate_run(request(work, trained))
    assert list(found.scores) == ["val"]
    score = found.scores["val"]
    kept = json.loads((run.evaluation / "val.json").read_text())
    assert (score.before.n, score.before.top1, score.before.top1_ci) == (
        12,
        kept["top1"],
        tuple(kept["top1_ci"]),
    )
    assert score.before.loss == pytest.approx(kept["loss"], rel=1e-5)
    assert score.after.loss != score.before.loss
    data = DataRequest(location=str(trained / "colours"), cache=trained / "cache")
    by_old = evaluate(EvaluateRequest(model=run.path, data=data, split="all"))
    by_new = evaluate(EvaluateRequest(model=found.model, data=data, split="all"))
    rows = [
        position
        for position, path in enumerate(by_new.paths)
        if path in {s.path for s in Manifest.load(run.manifest_file).samples if s.split == "val"}
    ]
    answers = [each.probabilities[rows].argmax(axis=1) for each in (by_old, by_new)]
    assert int((answers[0] != answers[1]).sum()) == score.changed
    assert float((answers[1] == by_new.labels[rows]).mean()) == score.after.top1


def test_the_new_model_predicts(work: Path, trained: Path) -> None:
    found = recalibrate_run(request(work, trained))
    rows = list(predict_paths(load(found.model), [trained / "colours" / "red" / "0.png"]))
    assert len(rows) == 1


def test_again_gives_the_same_bytes(work: Path, trained: Path) -> None:
    found = recalibrate_run(request(work, trained))
    first = hashes(found.model)
    done: list[tuple[int, int]] = []
    recalibrate_run(request(work, trained), progress=lambda n, of: done.append((n, of)))
    assert hashes(found.model) == first
    assert done == [(n, 7) for n in range(8)]


def test_a_model_without_batch_norm(trained: Path, tmp_path: Path) -> None:
    train_all(tmp_path, trained / "colours", model="mlp128", size=12, epochs=1)
    with pytest.raises(ConvworksError, match="mlp128 has no batch norm") as caught:
        recalibrate_run(RecalibrateRequest(run=tmp_path / "runs" / "run", cache=tmp_path / "cache"))
    assert caught.value.code == "U161"
    assert not (tmp_path / "runs" / "run" / "model-recalibrated").exists()


@pytest.mark.parametrize(
    ("asked", "scanning", "stopped"),
    [
        (1, True, ScanInterrupted),
        (1, False, StoppedRecalibrationError),
        (4, False, StoppedRecalibrationError),
        (8, False, StoppedEarlyError),  # seven layers are done, and evaluation begins
    ],
)
def test_stopped_it_writes_nothing(
    work: Path, trained: Path, asked: int, scanning: bool, stopped: type[Exception]
) -> None:
    files = hashes(work / "runs" / "run")
    stop = StopAfter(asked, armed=scanning)

    def arm(done: int, layers: int) -> None:
        stop.armed = True

    with pytest.raises(stopped):
        recalibrate_run(request(work, trained), should_stop=stop, progress=arm)
    assert hashes(work / "runs" / "run") == files


def test_other_images_are_refused(work: Path, trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "colours"
    shutil.copytree(trained / "colours", moved)
    shutil.copy(moved / "red" / "0.png", moved / "blue" / "0.png")
    run = Run(work / "runs" / "run")
    record = run.record()
    record["data"]["location"] = str(moved)
    run.write_json(run.recipe_file, record)
    with pytest.raises(ConvworksError) as caught:
        recalibrate_run(request(work, trained))
    assert caught.value.code == "D145"
    assert not (run.path / "model-recalibrated").exists()


def test_a_run_that_is_not_finished_or_in_use(work: Path, trained: Path) -> None:
    run = Run(work / "runs" / "run")
    with run.locked(), pytest.raises(ConvworksError) as caught:
        recalibrate_run(request(work, trained))
    assert caught.value.code == "R510"
    shutil.rmtree(run.model)
    with pytest.raises(ConvworksError, match="has no model yet") as caught:
        recalibrate_run(request(work, trained))
    assert caught.value.code == "A411"


def test_a_disk_that_refuses(work: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convworks.flows.recalibrate.save_bundle", full)
    with pytest.raises(ConvworksError, match="No space left on device") as caught:
        recalibrate_run(request(work, trained))
    assert caught.value.code == "R505"
