"""What a careful reader would add to the number: how sure it is, whether it flatters, what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from convworks.evaluation.metrics import Metrics
from convworks.report.read import EpochRecord
from convworks.report.text import count, listing, printable, share

WIDE = 0.05  # width of the interval from which a set counts as small
FEW = 20  # images of a class below which its recall is rough
GAP = 0.10  # training accuracy above this one
UNBALANCED = 0.05  # accuracy above balanced accuracy
FALLING = 0.02  # relative fall of the validation loss over the last tenth of the epochs
RISEN = 0.20  # relative rise of the validation loss above its lowest
LONG_ENOUGH = 5  # epochs from which a trend is one

SPLIT_NAMES = {"val": "validation", "test": "test", "train": "training"}


def split_name(split: str) -> str:
    """'validation' for val; other names as they are."""
    return SPLIT_NAMES.get(split, printable(split))


def result_notes(
    metrics: Metrics, *, split: str, chosen_here: bool, train_accuracy: float | None = None
) -> list[str]:
    """Notes on one evaluation. `chosen_here`: the epoch was picked by its score on these same images."""
    where, notes = split_name(split), []
    low, high = metrics.top1_ci
    if high - low > WIDE:
        notes.append(
            f"Small {where} set: with {count(metrics.n, 'image')} the accuracy is known only to within about "
            f"{100 * (high - low) / 2:.0f} points. A run that differs by less may be no better and no worse."
        )
    if chosen_here:
        notes.append(
            "The best epoch was chosen on these same images, so the numbers are a little too kind. "
            "Images in a folder named test, which training never looks at, give the honest ones."
        )
    largest = max(metrics.classes, key=lambda each: each.n)
    if low <= largest.n / metrics.n and len(metrics.classes) > 1:
        notes.append(
            f"Not shown to be better than a guess: always answering {printable(largest.name, limit=60)} "
            f"scores {share(largest.n / metrics.n)}."
        )
    if train_accuracy is not None and train_accuracy - metrics.top1 > GAP:
        notes.append(
            f"Accuracy on the training images is {share(train_accuracy)}, "
            f"{100 * (train_accuracy - metrics.top1):.0f} points higher: the network has learned part "
            "of them by heart. More images, or more augmentation, may help."
        )
    return notes + _class_notes(metrics, where=where)


def _class_notes(metrics: Metrics, *, where: str) -> list[str]:
    notes = []
    if metrics.top1 - metrics.balanced_accuracy > UNBALANCED:
        notes.append(
            f"Small classes do worse than large ones: the mean over classes is "
            f"{share(metrics.balanced_accuracy)}, {100 * (metrics.top1 - metrics.balanced_accuracy):.0f} "
            "points below the accuracy."
        )
    few = sorted((each for each in metrics.classes if 0 < each.n < FEW), key=lambda each: each.n)
    if few:
        notes.append(
            f"{count(len(few), 'class has', 'classes have')} fewer than {FEW} {where} images, so the recall "
            f"there is rough: {listing([f'{each.name} ({each.n})' for each in few])}."
        )
    absent = [each.name for each in metrics.classes if each.n == 0]
    if absent:
        notes.append(f"There is no {where} image of {listing(absent)}, so nothing is known there.")
    never = [each.name for each in metrics.classes if each.n and each.precision is None]
    if never:
        notes.append(f"Never answered: {listing(never)}.")
    return notes


def training_notes(epochs: Sequence[EpochRecord], *, planned: int | None, run: str) -> list[str]:
    """Notes on the course of the training. `planned` is the recipe's number of epochs."""
    notes = []
    if planned and len(epochs) < planned:
        notes.append(
            f"{len(epochs)} of {planned} epochs are done. To continue a run that was interrupted: "
            f"convworks resume {run}"
        )
    losses = [each.val_loss for each in epochs if each.val_loss is not None]
    if len(losses) < LONG_ENOUGH:
        return notes
    lowest = min(losses)
    before = losses[-1 - max(1, len(losses) // 10)]
    if losses[-1] == lowest and before - lowest > FALLING * before:
        notes.append("The validation loss was still falling at the end: more epochs may help.")
    if losses[-1] - lowest > RISEN * lowest:
        notes.append(
            f"The validation loss was lowest ({lowest:.3f}) after epoch {losses.index(lowest) + 1} and rose "
            f"to {losses[-1]:.3f}: from there on the network grew more sure than right."
        )
    return notes
