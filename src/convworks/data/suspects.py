"""Labels that are probably wrong, from probabilities of a model that never saw the image.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
Labels", 2021, section 3.1): the threshold of a class is the mean probability that the images of that label
get for it. An image whose likeliest class among those over their threshold is not its label is a suspect:
these are the entries of the confident joint off its diagonal. They are ranked by the margin, p(label) - max
of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Suspect:
    """An image, by its row, whose label is probably wrong."""

    row: int
    label: int
    answer: int  # what it probably is
    label_probability: float
    answer_probability: float
    margin: float  # from -1, as sure as can be, to 0 and a little above


def label_suspects(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> list[Suspect]:
    """Suspects among (N, K) probabilities and labels (N,), the worst margin first.

    The probabilities must be out of sample. Raises ValueError where the arrays do not fit each other.
    """
    count, classes = probabilities.shape
    if labels.shape != (count,) or (count and not 0 <= labels.min() <= labels.max() < classes):
        raise ValueError(f"labels {labels.shape} do not fit probabilities {probabilities.shape}")
    if count == 0:
        return []
    chances = probabilities.astype(np.float64)
    thresholds = class_thresholds(chances, labels)
    confident = np.where(chances >= thresholds, chances, -1.0)
    answers = confident.argmax(axis=1)
    rows = np.flatnonzero((confident.max(axis=1) >= 0) & (answers != labels))
    margins = margins_of(chances, labels)
    order = rows[np.argsort(margins[rows], kind="stable")]
    return [
        Suspect(
            int(row),
            int(labels[row]),
            int(answers[row]),
            float(chances[row, labels[row]]),
            float(chances[row, answers[row]]),
            float(margins[row]),
        )
        for row in order
    ]


def class_thresholds(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(K,): mean probability of a class over the images labelled so; infinite for a class without images."""
    classes = chances.shape[1]
    number = np.bincount(labels, minlength=classes)
    total = np.bincount(labels, weights=chances[np.arange(len(labels)), labels], minlength=classes)
    return np.where(number > 0, total / np.maximum(number, 1), np.inf)


def margins_of(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(N,): probability of the label less the largest probability of another class."""
    rows = np.arange(len(labels))
    others = chances.copy()
    others[rows, labels] = -np.inf
    found: NDArray[np.float64] = chances[rows, labels] - others.max(axis=1)
    return found
