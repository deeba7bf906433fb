"""Learning curves: nested parts, equal steps, the same validation images, and the picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from convworks.data.manifest import Manifest
from convworks.errors import ConvworksError
from convworks.flows.learning_curve import CurveRequest, LearningCurve, learning_curve
from convworks.report.read import read_run
from tests.flows.helpers import StopAfter, request
from tests.flows.several import noisy, outcome

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve")
    noisy(folder / "data")
    return folder


def curve(work: Path, *fractions: float, **options: object) -> LearningCurve:
    changes = {"model": "mlp128", "epochs": 2, "ema": None, "optimizer.lr": 0.05}
    base = request(work, work / "data", name=str(options.pop("name", "curve")), **changes)
    _, found = outcome(learning_curve(CurveRequest(base=base, fractions=fractions, **options)))  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.fixture(scope="module")
def found(work: Path) -> LearningCurve:
    return curve(work, 0.25, 0.5, 1.0, seeds=2)


def test_the_parts_are_nested_and_validate_with_the_same_images(found: LearningCurve) -> None:
    manifests = [Manifest.load(path / "manifest.jsonl") for path in found.runs]
    train = [{s.path for s in each.samples if s.split == "train"} for each in manifests]
    val = [{s.path for s in each.samples if s.split == "val"} for each in manifests]
    assert train[0] == train[1] < train[2] == train[3] < train[4]
    assert all(each == val[0] for each in val)
    assert [each.images for each in found.points] == [24, 48, 96]
    assert len(val[0]) == found.measured == 24


def test_every_part_takes_as_many_steps(found: LearningCurve) -> None:
    assert [each.epochs for each in found.points] == [8, 4, 2]
    steps = [read_run(path).epochs[-1].step for path in found.runs]
    assert max(steps) - min(steps) <= 4
    assert read_run(found.runs[0]).sources["epochs"].startswith("auto, as many steps")


def test_the_fit_is_that_of_the_means(found: LearningCurve) -> None:
    means = [np.mean(each.errors) for each in found.points]
    slope, intercept = np.polyfit(np.log([24, 48, 96]), means, 1)
    assert found.line.slope == pytest.approx(slope)
    assert found.line.intercept == pytest.approx(intercept)
    tree = json.loads((found.picture.parent / "summary.json").read_text())
    assert tree["for_a_doubling"] == pytest.approx(slope * np.log(2))
    assert tree["at_twice_the_images"]["images"] == 192
    assert any("3 points" in note for note in found.notes)
    assert any("2 seeds" in note for note in found.notes)


def test_the_picture_is_a_whole_svg_file(found: LearningCurve) -> None:
    root = ET.fromstring(found.picture.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "24 images" in root.attrib["aria-label"]
    assert "var(--" in found.picture.read_text()


def test_equal_epochs_on_demand(work: Path) -> None:
    other = curve(work, 0.5, 1.0, budget="epochs", name="epochs")
    assert [each.epochs for each in other.points] == [2, 2]
    assert any("fewer steps" in note for note in other.notes)
    assert other.line.slope_interval is None


def test_a_curve_that_was_stopped_continues(work: Path, tmp_path: Path) -> None:
    base = request(tmp_path, work / "data", name=None, model="mlp128", epochs=1)
    wanted = CurveRequest(base=base, fractions=(0.5, 1.0))
    _, nothing = outcome(learning_curve(wanted, should_stop=StopAfter(40, armed=True)))
    _, found = outcome(learning_curve(wanted))
    assert found is not None
    assert nothing is None or nothing.runs != found.runs
    assert [path.name for path in found.runs][-1].endswith("-1000-s0")


@pytest.mark.parametrize("fractions", [(), (0.5,), (0.5, 0.5), (0.0, 1.0), (0.5, 1.5)])
def test_fractions_that_make_no_sense(work: Path, fractions: tuple[float, ...]) -> None:
    with pytest.raises(ConvworksError, match="fractions must be") as problem:
        curve(work, *fractions)
    assert problem.value.code == "U275"


def test_seeds_that_make_no_sense(work: Path) -> None:
    with pytest.raises(ConvworksError, match="makes no sense") as problem:
        curve(work, 0.5, 1.0, seeds=0)
    assert problem.value.code == "U267"
