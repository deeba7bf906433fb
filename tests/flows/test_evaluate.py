"""Evaluation: labels by name, honest about images that were trained on, never dropping one silently."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from convworks.errors import ConvworksError
from convworks.flows.evaluate import EvaluateRequest, Evaluation, evaluate
from convworks.flows.predict import load, predict_paths
from convworks.flows.prepare import DataRequest
from convworks.runs import Run
from tests.flows.helpers import train_all, write_images


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    train_all(work, write_images(work / "colours"), epochs=6)
    return work


def run_on(work: Path, data: Path, **options: object) -> Evaluation:
    request = DataRequest(location=str(data), cache=work / "cache")
    return evaluate(EvaluateRequest(model=work / "runs" / "run", data=request, **options))  # type: ignore[arg-type]


def test_the_runs_own_validation_images_give_the_runs_own_figure(work: Path) -> None:
    found = run_on(work, work / "colours", split="val")
    kept = json.loads((work / "runs" / "run" / "evaluation" / "val.json").read_text())
    assert found.metrics.n == kept["n"] == 12
    assert found.metrics.top1 == kept["top1"]
    assert found.metrics.loss == pytest.approx(kept["loss"], rel=1e-6)
    assert found.split == "val"
    assert found.warnings == ()


def test_images_that_were_trained_on_are_counted(work: Path) -> None:
    found = run_on(work, work / "colours")
    assert found.split == "all"
    assert found.warnings[0].startswith("the network was trained on 48 of these 60 images")


def test_classes_are_matched_by_name_in_any_arrangement(work: Path, tmp_path: Path) -> None:
    # Promise P7: 20 random sets of missing and reordered class folders; no image changes its label.
    expected = run_on(work, work / "colours")
    by_content = dict(zip((Path(p).parts[-2:] for p in expected.paths), expected.labels, strict=True))
    draw = random.Random(0)
    for turn in range(20):
        names = draw.sample(["blue", "green", "red"], draw.choice([2, 3]))
        folder = tmp_path / f"set{turn}"
        for name in names:
            shutil.copytree(work / "colours" / name, folder / name)
        found = run_on(work, folder)
        assert found.metrics.n == 20 * len(names)
        for path, label in zip(found.paths, found.labels, strict=True):
            assert label == by_content[Path(path).parts[-2:]]


def test_a_class_that_the_model_never_saw(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    shutil.copytree(work / "colours", folder)
    shutil.copytree(work / "colours" / "red", folder / "lily")
    with pytest.raises(
        ConvworksError, match=r"D201.*never saw: 'lily' \(20 images\)[\s\S]*--ignore-classes lily"
    ):
        run_on(work, folder)
    assert run_on(work, folder, ignore_classes=("lily",)).metrics.n == 60


def test_unreadable_images_are_never_dropped_silently(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(work / "colours", folder)
    (folder / "red" / "0.png").write_bytes(b"")
    with pytest.raises(ConvworksError, match=r"D149.*1 of 60 images") as caught:
        run_on(work, folder)
    assert caught.value.exit_status == 3
    found = run_on(work, folder, skip_unreadable=True)
    assert found.metrics.n == 59
    assert [path for path, _ in found.left_out] == ["red/0.png"]


def test_predictions_equal_the_evaluation(work: Path) -> None:
    found = run_on(work, work / "colours")
    predictor = load(work / "runs" / "run")
    assert predictor.classes_ == found.classes
    paths = [work / "colours" / path for path in found.paths]
    np.testing.assert_allclose(predictor.predict_proba(paths), found.probabilities, rtol=1e-5, atol=1e-6)
    rows = list(predict_paths(predictor, [work / "colours"], top=3))
    assert [row.label for row in rows] == [found.classes[k] for k in found.probabilities.argmax(1)]
    assert all(sum(p for _, p in row.top) == pytest.approx(1, abs=1e-5) for row in rows)


def test_a_prediction_does_not_depend_on_its_neighbours(work: Path) -> None:
    predictor = load(work / "runs" / "run")
    paths = sorted((work / "colours").rglob("*.png"))[:7]
    together = predictor.predict_proba(paths)
    alone = np.concatenate([predictor.predict_proba([path]) for path in paths])
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)


def test_images_in_memory(work: Path) -> None:
    from PIL import Image

    predictor = load(work / "runs" / "run")
    path = work / "colours" / "red" / "3.png"
    image = Image.open(path)
    array = np.asarray(image)
    expected = predictor.predict_proba([path])
    for each in (array, image, path.read_bytes(), str(path)):
        np.testing.assert_array_equal(predictor.predict_proba([each]), expected)
    for bad in (array.astype(float), array.transpose(2, 0, 1), 3.0, np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(ConvworksError, match="D210.*cannot use"):
            predictor.predict_proba([bad])
    assert predictor.predict_proba([]).shape == (0, 3)


def test_an_unreadable_file_is_a_row_with_an_error(work: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>")
    rows = load(work / "runs" / "run").predict([work / "colours" / "red" / "0.png", tmp_path / "a.jpg"])
    assert rows[0].error == ""
    assert rows[1].label is None
    assert "HTML" in rows[1].error


def test_the_model_can_be_moved(work: Path, tmp_path: Path) -> None:
    target = tmp_path / "my model"
    shutil.copytree(work / "runs" / "run" / "model", target)
    path = work / "colours" / "red" / "0.png"
    np.testing.assert_array_equal(
        load(target).predict_proba([path]), load(work / "runs" / "run").predict_proba([path])
    )


HOSTILE_MODELS = {
    "other classes": {"classes": ["a", "b"]},
    "other model": {"model": "mlp128"},
    "unknown model": {"model": "os.system"},
    "dotted model": {"model": "torch.hub.load"},
    "newer format": {"format": 99},
    "no classes": {"classes": []},
    "twice": {"classes": ["a", "a", "b"]},
    "numbers for names": {"classes": [1, 2, 3]},
    "huge input": {"input": {"channels": 3, "height": 10**9, "width": 10**9}},
    "negative input": {"input": {"channels": 3, "height": -1, "width": 5}},
    "options that name code": {"options": {"build": "os.system"}},
    "nested options": {"options": {"a": {"__class__": "x"}}},
}


@pytest.mark.parametrize("name", HOSTILE_MODELS)
def test_a_changed_description_is_refused(work: Path, tmp_path: Path, name: str) -> None:
    # Faults L2, L4: also where the manifest of hashes was made to fit.
    from convworks.durable import write_folder

    source = work / "runs" / "run" / "model"
    info = {**json.loads((source / "model.json").read_text()), **HOSTILE_MODELS[name]}
    files = {p.name: p.read_bytes() for p in source.iterdir() if p.name != "MANIFEST.json"}
    files["model.json"] = json.dumps(info).encode()
    write_folder(tmp_path / "model", files.items())
    with pytest.raises(ConvworksError) as caught:
        load(tmp_path / "model")
    assert caught.value.exit_status in {2, 4}


def test_weights_that_are_not_finite_are_refused(work: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save

    from convworks.durable import write_folder

    source = work / "runs" / "run" / "model"
    weights = load_file(source / "weights.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    files = {p.name: p.read_bytes() for p in source.iterdir() if p.name != "MANIFEST.json"}
    write_folder(tmp_path / "model", {**files, "weights.safetensors": save(weights)}.items())
    with pytest.raises(ConvworksError, match="A415.*not finite"):
        load(tmp_path / "model")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt"])
def test_a_pickle_is_never_opened(tmp_path: Path, suffix: str) -> None:
    # Fault L5: the canary would be created by loading the file.
    canary = tmp_path / "canary"
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    with pytest.raises(ConvworksError, match="A412.*can run code") as caught:
        load(path)
    assert caught.value.exit_status == 4
    assert not canary.exists()


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_bundle_is_never_loaded(work: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    shutil.copytree(work / "runs" / "run" / "model", tmp_path / "model")
    file = draw.choice([p for p in sorted((tmp_path / "model").iterdir()) if p.name != "MANIFEST.json"])
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    with pytest.raises(ConvworksError, match="A414.*damaged: .*was changed"):
        load(tmp_path / "model")


def test_a_run_without_a_model_says_how_to_get_one(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "runs" / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    with pytest.raises(ConvworksError, match=r"A411[\s\S]*convworks resume"):
        load(tmp_path / "run")
    with pytest.raises(ConvworksError, match="A411.*there is no run or model"):
        load(tmp_path / "nothing")


def test_loading_does_not_touch_the_random_state(work: Path) -> None:
    before = torch.random.get_rng_state()
    load(work / "runs" / "run")
    torch.testing.assert_close(torch.random.get_rng_state(), before)
    assert Run(work / "runs" / "run").finished
