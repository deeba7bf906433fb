"""The traffic lights of the verdict: seven questions, each with one of three answers and a sentence.

The answer is a word as well as a colour. A question is left out where the run does not have its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convworks.evaluation.metrics import Metrics
from convworks.report.copies import Copies
from convworks.report.notes import FALLING, GAP, LONG_ENOUGH, WIDE, split_name
from convworks.report.read import EpochRecord, Evaluation, RunRecord
from convworks.report.text import count, listing, share

GOOD, LOOK, BAD = "in order", "look here", "a problem"
MARKS = {GOOD: "good", LOOK: "look", BAD: "bad"}  # CSS classes
UNEVEN = (3.0, 10.0)  # images of the largest class for one of the smallest
OFF = (0.05, 0.15)  # calibration error
LEARNED = 0.90  # training accuracy below which a network has not learned its own images
LEVEL = 0.05  # gap up to which training and evaluation agree
SPIKE = 3.0  # a step's loss as a multiple of the epoch's before
STUCK = 0.95  # of ln K, the loss of a guess


@dataclass(frozen=True, slots=True)
class Light:
    question: str
    answer: str  # GOOD, LOOK or BAD
    words: str

    @property
    def mark(self) -> str:
        return MARKS[self.answer]


def lights(run: RunRecord, evaluation: Evaluation | None, found: Copies | None) -> list[Light]:
    """The questions that the run can answer."""
    return list(_all(run, evaluation, found))


def _all(run: RunRecord, evaluation: Evaluation | None, found: Copies | None) -> Iterator[Light]:
    kept = run.epochs[run.kept_epoch] if run.kept_epoch is not None else None
    if evaluation is not None and evaluation.metrics.n:
        yield _enough(evaluation)
    if found is not None:
        yield _leakage(found, evaluation)
    if run.manifest is not None and any(run.manifest.count("train").values()):
        yield _balance(run.manifest.count("train"))
    if evaluation is not None and kept is not None and kept.train_accuracy is not None:
        yield gap(kept.train_accuracy, evaluation.metrics, where=split_name(evaluation.split))
    if run.epochs:
        yield from _converged(run.epochs)
        yield from _learning_rate(run, classes=len(run.manifest.classes) if run.manifest else 0)
    if evaluation is not None and evaluation.metrics.ece is not None:
        yield _calibration(evaluation.metrics.ece)


def _enough(evaluation: Evaluation) -> Light:
    low, high = evaluation.metrics.top1_ci
    width, where = high - low, split_name(evaluation.split)
    answer = GOOD if width <= WIDE else LOOK if width <= 2 * WIDE else BAD
    words = f"{count(evaluation.metrics.n, where + ' image')}: the interval is {100 * width:.1f} points wide."
    return Light("Enough images to judge by?", answer, words)


def _leakage(found: Copies, evaluation: Evaluation | None) -> Light:
    question = "Test images unseen in training?"
    leaked = sum(found.leaked.values())
    if not leaked:
        words = "No image outside training is an exact copy of one inside. Near copies: convworks check."
        return Light(question, GOOD, words)
    where = ", ".join(f"{n:,} of {split_name(split)}" for split, n in found.leaked.items())
    more = ""
    if evaluation is not None and evaluation.metrics.n and evaluation.split in found.leaked:
        part = found.leaked[evaluation.split] / evaluation.metrics.n
        more = f", {100 * part:.1f} % of those behind the accuracy"
    return Light(
        question, BAD, f"{count(leaked, 'image lies', 'images lie')} in training too ({where}{more})."
    )


def _balance(counts: dict[str, int]) -> Light:
    question = "Classes of similar size?"
    empty = [name for name, n in counts.items() if not n]
    if empty:
        return Light(question, BAD, f"No training image of {listing(empty)}.")
    largest, smallest = max(counts.values()), min(counts.values())
    ratio = largest / smallest
    answer = GOOD if ratio <= UNEVEN[0] else LOOK if ratio <= UNEVEN[1] else BAD
    hint = "" if answer == GOOD else " --set class_weights=balanced gives small classes more weight."
    words = f"{smallest:,} to {largest:,} training images in a class, {ratio:.1f} to 1."
    return Light(question, answer, words + hint)


def gap(train_accuracy: float, metrics: Metrics, *, where: str) -> Light:
    """What the distance between training and evaluation says: by heart, not learned, or neither."""
    difference = train_accuracy - metrics.top1
    numbers = f"Training {share(train_accuracy)}, {where} {share(metrics.top1)}, gap {difference:+.3f}. "
    question = "Learned, and not by heart?"
    if difference > GAP:
        more = "Part is learned by heart (overfitting): more images, augmentation or weight decay may help."
        return Light(question, LOOK, numbers + more)
    if train_accuracy < LEARNED and difference <= LEVEL:
        more = (
            "The training images themselves are not learned (underfitting, or strong augmentation): more "
            "epochs, a larger network or less regularisation may help."
        )
        return Light(question, LOOK, numbers + more)
    more = "" if difference >= 0 else (
        "Training is lower because it is measured on augmented images while the weights still change."
    )  # fmt: skip
    return Light(question, GOOD, numbers + (more or "The two agree well enough."))


def _converged(epochs: Sequence[EpochRecord]) -> Iterator[Light]:
    question = "Trained long enough?"
    losses = [each.val_loss for each in epochs if each.val_loss is not None]
    if not losses:
        return
    if len(losses) < LONG_ENOUGH:
        yield Light(question, LOOK, f"{count(len(losses), 'epoch')} are too few to see a trend.")
        return
    before = losses[-1 - max(1, len(losses) // 10)]
    if losses[-1] == min(losses) and before - losses[-1] > FALLING * before:
        words = (
            f"The validation loss was still falling, from {before:.3f} to {losses[-1]:.3f}: not converged."
        )
        yield Light(question, LOOK, words)
    else:
        best = losses.index(min(losses)) + 1
        yield Light(question, GOOD, f"The validation loss was lowest after epoch {best} of {len(losses)}.")


def _learning_rate(run: RunRecord, *, classes: int) -> Iterator[Light]:
    question = "Learning rate low enough?"
    means = [each.train_loss for each in run.epochs]
    known = [each for each in means if each is not None]
    if not known:
        return
    rate = run.recipe.get("optimizer")
    lr = rate.get("lr") if isinstance(rate, dict) else None
    hint = f" Try a third of {lr:g}; convworks lr-find searches." if isinstance(lr, int | float) else ""
    if len(known) < len(means):
        yield Light(question, BAD, f"The training loss was not finite.{hint}")
        return
    guess = math.log(classes) if classes > 1 else 0.0
    if len(known) > 1 and known[-1] > known[0]:
        yield Light(question, BAD, f"The training loss rose from {known[0]:.3f} to {known[-1]:.3f}.{hint}")
    elif guess and len(known) > 1 and known[-1] > STUCK * guess:
        words = f"The training loss stays at {known[-1]:.3f}, that of a guess ({guess:.3f}).{hint}"
        yield Light(question, BAD, words)
    elif spikes := _spikes(run):
        steps = f"{count(spikes, 'step')} had a loss above {SPIKE:g} times that of the epoch before."
        yield Light(question, LOOK, steps + hint)
    else:
        words = f"The training loss fell without a jump, to {known[-1]:.3f}."
        yield Light(question, GOOD, words if len(known) > 1 else f"One epoch, training loss {known[0]:.3f}.")


def _spikes(run: RunRecord) -> int:
    """Steps whose loss is far above the mean of the epoch before."""
    found, place, before = 0, 0, math.inf
    for step in run.steps:
        while place < len(run.epochs) and step.step > run.epochs[place].step:
            before = run.epochs[place].train_loss or math.inf
            place += 1
        found += step.loss is not None and step.loss > SPIKE * before
    return found


def _calibration(ece: float) -> Light:
    answer = GOOD if ece <= OFF[0] else LOOK if ece <= OFF[1] else BAD
    hint = "" if answer == GOOD else " predict --calibrated corrects it where a temperature is stored."
    words = f"Confidence and accuracy differ by {100 * ece:.1f} points in the mean (ECE).{hint}"
    return Light("Probabilities to be believed?", answer, words)
