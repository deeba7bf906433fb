"""The seven questions: each answer on each side of its limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convworks.evaluation.metrics import Metrics, measure
from convworks.report.copies import copies
from convworks.report.lights import BAD, GOOD, LOOK, Light, gap, lights
from convworks.report.read import EpochRecord, RunRecord, StepRecord, read_run
from tests.report.helpers import fake_manifest, fake_run


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return read_run(fake_run(tmp_path_factory.mktemp("runs")))


def found(record: RunRecord, question: str) -> Light:
    known = copies(record.manifest) if record.manifest else None
    evaluation = record.evaluations[0] if record.evaluations else None
    return {each.question: each for each in lights(record, evaluation, known)}[question]


def metrics(right: int, wrong: int) -> Metrics:
    labels = np.zeros(right + wrong, dtype=np.int64)
    p = np.full((len(labels), 2), 0.1)
    p[:right, 0] = p[right:, 1] = 0.9
    return measure(p, labels, ("a", "b"))


def epochs(train: list[float | None], val: list[float]) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(i, 10 * i, t, 0.9, v, 0.9, 0.9, 0.1, False)
        for i, (t, v) in enumerate(zip(train, val, strict=True), 1)
    )


def test_all_seven_of_a_whole_run(record: RunRecord) -> None:
    rows = lights(record, record.evaluations[0], copies(fake_manifest()))
    assert [each.question for each in rows] == [
        "Enough images to judge by?",
        "Test images unseen in training?",
        "Classes of similar size?",
        "Learned, and not by heart?",
        "Trained long enough?",
        "Learning rate low enough?",
        "Probabilities to be believed?",
    ]
    assert {each.mark for each in rows} <= {"good", "look", "bad"}


def test_a_run_without_anything_is_asked_nothing(record: RunRecord) -> None:
    empty = replace(record, epochs=(), steps=(), manifest=None, evaluations=())
    assert lights(empty, None, None) == []


@pytest.mark.parametrize(
    ("train", "right", "answer", "word"),
    [
        (0.99, 80, LOOK, "overfitting"),
        (0.85, 82, LOOK, "underfitting"),
        (0.95, 92, GOOD, "agree well enough"),
        (0.91, 95, GOOD, "augmented images"),
    ],
)
def test_the_gap_is_diagnosed(train: float, right: int, answer: str, word: str) -> None:
    light = gap(train, metrics(right, 100 - right), where="validation")
    assert light.answer == answer
    assert word in light.words
    assert f"gap {train - right / 100:+.3f}" in light.words


def test_copies_in_training_are_leakage(record: RunRecord) -> None:
    question = "Test images unseen in training?"
    assert found(record, question).answer == GOOD
    manifest = record.manifest
    assert manifest is not None
    train = next(each for each in manifest.samples if each.split == "train")
    val = next(place for place, each in enumerate(manifest.samples) if each.split == "val")
    samples = list(manifest.samples)
    samples[val] = samples[val]._replace(pixels=train.pixels, label="tulip")
    leaking = replace(record, manifest=replace(manifest, samples=tuple(samples)))
    light = found(leaking, question)
    assert light.answer == BAD
    assert "1 image lies in training too (1 of validation, 0.8 % of those behind the accuracy)" in light.words
    known = copies(replace(manifest, samples=tuple(samples)))
    assert (known.count, known.images, known.across_splits, known.two_labels) == (1, 2, 1, 1)
    assert {path for path, _, _ in known.groups[0]} == {train.path, samples[val].path}


@pytest.mark.parametrize(("sizes", "answer"), [((40, 30), GOOD), ((40, 10), LOOK), ((44, 4), BAD)])
def test_uneven_classes(record: RunRecord, sizes: tuple[int, int], answer: str) -> None:
    manifest = fake_manifest(("a", "b"), sizes=sizes)
    assert found(replace(record, manifest=manifest), "Classes of similar size?").answer == answer


@pytest.mark.parametrize(
    ("losses", "answer"),
    [
        ([1.0, 0.9], LOOK),
        ([1.0, 0.8, 0.7, 0.6, 0.5], LOOK),
        ([1.0, 0.8, 0.7, 0.5, 0.5], GOOD),
        ([1.0, 0.5, 0.6, 0.7, 0.8], GOOD),
    ],
)
def test_whether_it_converged(record: RunRecord, losses: list[float], answer: str) -> None:
    course = epochs([1.0] * len(losses), losses)
    assert found(replace(record, epochs=course), "Trained long enough?").answer == answer


@pytest.mark.parametrize(
    ("losses", "answer", "word"),
    [
        ([1.0, 0.5], GOOD, "without a jump"),
        ([1.0, 1.5], BAD, "rose from 1.000 to 1.500"),
        ([2.4, 2.29], BAD, "that of a guess (2.303)"),
        ([1.0, None], BAD, "not finite"),
    ],
)
def test_a_learning_rate_that_is_too_high(
    record: RunRecord, losses: list[float | None], answer: str, word: str
) -> None:
    light = found(replace(record, epochs=epochs(losses, [1.0, 1.0]), steps=()), "Learning rate low enough?")
    assert light.answer == answer
    assert word in light.words


def test_steps_that_jump(record: RunRecord) -> None:
    steps = (StepRecord(11, 2.9, 0.1, 1.0), StepRecord(12, 3.1, 0.1, 1.0), StepRecord(3, 9.0, 0.1, 1.0))
    light = found(
        replace(record, epochs=epochs([1.0, 0.5], [1, 1]), steps=steps[:2]), "Learning rate low enough?"
    )
    assert light.answer == LOOK
    assert "1 step had a loss above 3 times" in light.words


def test_lights_do_not_need_a_folder(tmp_path: Path, record: RunRecord) -> None:
    assert lights(replace(record, path=tmp_path), record.evaluations[0], None)
