"""Labels travel by name: however classes are missing, added or ordered, no label shifts."""

from __future__ import annotations

import csv
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from convworks.errors import ConvworksError
from convworks.flows.evaluate import EvaluateRequest, evaluate
from convworks.flows.prepare import DataRequest
from tests.flows.helpers import train_all
from tests.flows.ladders import climbed, photographs, reorder

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("by-name")
    train_all(work, photographs(work / "colours"), epochs=3)
    return work


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "work")
    return tmp_path / "work"


def test_a_hundred_arrangements_never_shift_a_label(work: Path, tmp_path: Path) -> None:
    # Missing, extra and reordered classes; folders and tables; models with their classes in any order.
    expected = climbed(work, "centre")
    paths = [Path(path).parts[-2:] for path in expected.paths]
    named = dict(zip(paths, (expected.classes[k] for k in expected.labels), strict=True))
    answers = dict(zip(paths, expected.rungs[0].probabilities, strict=True))
    draw = random.Random(0)
    model = work / "runs" / "run" / "model"
    for turn in range(100):
        order = draw.sample(["blue", "green", "red"], 3)
        reorder(model, order)
        classes = draw.sample(["blue", "green", "red"], draw.choice([1, 2, 3]))
        least = 2 - min(len(classes), 2)  # a set of one class alone is no data set (D105)
        extra = draw.sample(["aaa", "grey", "zzz"], draw.randint(least, 2))
        folder = tmp_path / f"set{turn}"
        rows = []
        for name in draw.sample([*classes, *extra], len(classes) + len(extra)):
            for i in draw.sample(range(20), 4):
                source = work / "colours" / (name if name in classes else "red") / f"{i}.png"
                target = folder / "files" / name / f"{i}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
                rows.append((f"files/{name}/{i}.png", name))
        place = folder / "files"
        if turn % 2:  # a table, in any order
            place = folder / "labels.csv"
            with place.open("w", newline="") as file:
                csv.writer(file).writerows([("path", "label"), *draw.sample(rows, len(rows))])
        base = EvaluateRequest(
            model=work / "runs" / "run",
            data=DataRequest(location=str(place), cache=work / "cache"),
        )
        if extra:
            with pytest.raises(ConvworksError, match=r"D201.*the model never saw") as caught:
                evaluate(base)
            assert caught.value.try_.startswith(f"convworks eval {work / 'runs' / 'run'} ")
        found = evaluate(replace(base, ignore_classes=tuple(extra)))
        assert found.classes == tuple(order)
        assert found.metrics.n == 4 * len(classes)
        for path, label, row in zip(found.paths, found.labels, found.probabilities, strict=True):
            key = Path(path).parts[-2:]
            assert found.classes[label] == named[key]
            by_name = dict(zip(found.classes, row, strict=True))
            known = dict(zip(expected.classes, answers[key], strict=True))
            assert by_name == pytest.approx(known, abs=1e-5)


def test_the_message_of_an_extra_class(work: Path) -> None:
    folder = work / "newset"
    shutil.copytree(work / "colours", folder)
    shutil.rmtree(folder / "green")
    shutil.copytree(work / "colours" / "red", folder / "lily")
    with pytest.raises(ConvworksError) as caught:
        climbed(work, "10-crop", data=folder)
    problem = caught.value
    assert problem.code == "D201"
    assert problem.what == f"{folder} has a class the model never saw: 'lily' (20 images)"
    absent = f"('green' is missing in {folder}: fine, scored as absent)"
    assert problem.where == f"model classes: blue, green, red {absent}"
    assert problem.try_ == f"convworks eval {work / 'runs' / 'run'} {folder} --ignore-classes lily"
    assert problem.exit_status == 3
