"""Labels that a run doubts: only images outside its training split are judged, and mistakes come first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from convworks.data.manifest import Manifest
from convworks.errors import ConvworksError
from convworks.flows.check import CheckOptions, CheckReport, check
from convworks.flows.check_labels import Doubts
from convworks.flows.prepare import DataRequest
from tests.flows.helpers import train_all, write_images

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures of three colours, and a run of a few epochs."""
    work = tmp_path_factory.mktemp("doubts")
    train_all(work, write_images(work / "photos", each=20), epochs=6)
    return work


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "work")
    return tmp_path / "work"


def doubt(work: Path, *models: Path, location: Path | None = None) -> CheckReport:
    request = DataRequest(location=str(location or work / "photos"), cache=work / "cache")
    return check(request, options=CheckOptions(models=models or (work / "runs" / "run",)))


def found(report: CheckReport) -> Doubts:
    assert report.labels is not None
    return report.labels


def manifest_of(work: Path) -> Manifest:
    return Manifest.load(work / "runs" / "run" / "manifest.jsonl")


def set_probabilities(work: Path, answers: dict[str, str], *, sure: float = 0.9) -> None:
    """Stored validation probabilities as a good network gives them, with other answers for some paths."""
    file = work / "runs" / "run" / "evaluation" / "val.safetensors"
    arrays: dict[str, Any] = dict(load_file(file))
    manifest = manifest_of(work)
    classes = manifest.classes
    for place, row in enumerate(arrays["rows"].tolist()):
        sample = manifest.samples[row]
        answer = answers.get(sample.path, sample.label or "")
        rest = (1 - sure) / (len(classes) - 1)
        arrays["probabilities"][place] = [sure if name == answer else rest for name in classes]
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, file)


def val_paths(work: Path) -> list[str]:
    return [sample.path for sample in manifest_of(work).samples if sample.split == "val"]


def test_only_images_out_of_sample_are_judged(work: Path) -> None:
    doubts = found(doubt(work))
    assert doubts.judged == len(val_paths(work)) == 12
    assert doubts.trained_on == 48
    assert doubts.unknown == 0
    assert any("48 images were trained on" in note for note in doubts.notes)


def test_stored_probabilities_name_the_suspect(work: Path) -> None:
    path = val_paths(work)[3]
    label = path.split("/")[0]
    other = next(name for name in ("blue", "green", "red") if name != label)
    set_probabilities(work, {path: other})
    report = doubt(work)
    (suspect,) = found(report).suspects
    assert (suspect.path, suspect.label, suspect.answer) == (path, label, other)
    assert suspect.margin == pytest.approx(0.05 - 0.9, abs=1e-6)
    finding = next(each for each in report.findings if each.kind == "label-suspect")
    assert (finding.count, finding.look) == (1, True)
    assert finding.examples == (f"{path} ({label}, looks like {other})",)
    json.dumps(report.to_dict())


def test_a_mistake_in_training_images_is_not_accused(work: Path) -> None:
    """A network repeats what it was taught, so a training image is left alone whatever it says."""
    set_probabilities(work, {})
    assert found(doubt(work)).suspects == ()


def test_new_images_are_judged_by_the_model(work: Path) -> None:
    """Pictures that the run never saw, some of them in the wrong folder."""
    new = work / "new"
    generator = np.random.default_rng(77)
    for k, name in enumerate(("blue", "green", "red")):
        (new / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 120, (12, 12, 3), dtype=np.uint8)
            pixels[3:9, 3:9, 2 - k] += 100
            Image.fromarray(pixels).save(new / name / f"{i}.png")
    (new / "red" / "0.png").rename(new / "blue" / "wrong.png")
    doubts = found(doubt(work, location=new))
    assert (doubts.judged, doubts.trained_on) == (60, 0)
    assert "blue/wrong.png" in [suspect.path for suspect in doubts.suspects[:3]]


def test_a_copy_of_a_training_image_is_not_out_of_sample(work: Path) -> None:
    trained_on = next(sample.path for sample in manifest_of(work).samples if sample.split == "train")
    new = work / "new"
    for path in (*val_paths(work), trained_on):
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / "photos" / path, new / path)
    doubts = found(doubt(work, location=new))
    assert (doubts.judged, doubts.trained_on) == (12, 1)


def test_two_runs_judge_what_one_of_them_may(work: Path) -> None:
    train_all(work, work / "photos", name="other", epochs=1, seed=5)
    both = found(doubt(work, work / "runs" / "run", work / "runs" / "other"))
    other = Manifest.load(work / "runs" / "other" / "manifest.jsonl")
    mine = set(val_paths(work))
    theirs = {sample.path for sample in other.samples if sample.split == "val"}
    assert both.judged == len(mine | theirs) > 12


def test_classes_that_the_run_does_not_know(work: Path) -> None:
    (work / "photos" / "red").rename(work / "photos" / "pink")
    doubts = found(doubt(work))
    assert doubts.unknown == 20
    assert doubts.judged == 8


def refused(work: Path, *models: Path, location: Path | None = None) -> ConvworksError:
    with pytest.raises(ConvworksError) as caught:
        doubt(work, *models, location=location)
    return caught.value


def test_what_cannot_judge(work: Path) -> None:
    assert refused(work, work / "nothing").code == "A410"
    moved = work / "moved"
    shutil.copytree(work / "runs" / "run" / "model", moved)
    problem = refused(work, moved)
    assert problem.code == "D223"
    assert "which images" in problem.what
    for label in ("red", "green", "blue"):
        (work / "photos" / label).rename(work / "photos" / f"new-{label}")
    assert refused(work).code == "D222"


def test_nothing_but_training_images(work: Path) -> None:
    for path in val_paths(work):
        (work / "photos" / path).unlink()
    problem = refused(work)
    assert problem.code == "D222"
    assert "48 of 48 images were trained on" in problem.where


def test_runs_of_other_classes(work: Path) -> None:
    train_all(work, write_images(work / "two", classes=("blue", "cyan"), each=8), name="two", epochs=1)
    problem = refused(work, work / "runs" / "run", work / "runs" / "two")
    assert problem.code == "D224"
    assert "'cyan'" in problem.what
