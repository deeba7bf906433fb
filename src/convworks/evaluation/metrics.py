"""What the probabilities of N images say about a classifier: accuracy with an interval, loss, confusion.

Shapes: N images, K classes. numpy only, in float64. Every number is finite; a number that does not exist
(the recall of a class without images, the precision of a class that was never answered) is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.evaluation.reliability import brier, expected_calibration_error

Interval = tuple[float, float]

# A probability below this counts as this in the logarithm, so that one impossible image costs at most 36.04.
LOG_CLIP = float(np.finfo(np.float64).eps)
SUM_TOLERANCE = 1e-2  # bfloat16 rows of many classes sum to one only roughly


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: `n` images have it as their label."""

    name: str
    n: int
    recall: float | None  # None where n = 0
    recall_ci: Interval  # Wilson, 95 %
    precision: float | None  # None where the class was never answered
    f1: float | None  # None where there is neither an image nor an answer


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """The scores of one set of images."""

    n: int
    top1: float
    top1_ci: Interval  # Wilson, 95 %
    top5: float | None  # None with five classes or fewer, where it would be 1
    top5_ci: Interval | None
    loss: float  # mean of -ln(probability of the true class)
    balanced_accuracy: float  # mean recall of the classes that have images
    classes: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]  # (K, K), rows are the true classes
    brier: float | None = None  # see `reliability.brier`; None in records of before it was kept
    ece: float | None = None  # expected calibration error, 15 bins of equal width

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.classes)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have an image or an answer."""
        return float(np.mean([each.f1 for each in self.classes if each.f1 is not None]))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        tree = {each: getattr(self, each) for each in ("n", "top1", "top5", "loss", "balanced_accuracy")}
        tree |= {"macro_f1": self.macro_f1, "brier": self.brier, "ece": self.ece}
        tree["top1_ci"] = list(self.top1_ci)
        tree["top5_ci"] = None if self.top5_ci is None else list(self.top5_ci)
        tree["classes"] = [{**asdict(each), "recall_ci": list(each.recall_ci)} for each in self.classes]
        tree["confusion"] = self.confusion.tolist()
        return tree

    @classmethod
    def from_dict(cls, tree: Any) -> Metrics:
        """The inverse of `to_dict`; further keys are ignored. Raises A460 where the record is damaged."""
        try:
            return _parse(tree)
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            reason = f"{problem.args[0]!r} is missing" if isinstance(problem, KeyError) else str(problem)
            raise ConvworksError(
                "A460",
                f"this is not a record of an evaluation: {reason}",
                why="its numbers cannot be trusted",
                try_="evaluate the model again to write a new record",
            ) from problem


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion; with n = 0 nothing is known and it is (0, 1).

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    Raises ValueError unless 0 <= successes <= n and 0 < confidence < 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n = {n}, not {successes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def predict(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """(N, K) -> (N,) the most probable class; of equal ones, the one with the lowest index."""
    best: NDArray[np.int64] = np.argmax(probabilities, axis=1).astype(np.int64)
    return best


def true_ranks(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) how many classes come before the true one; 0 means right.

    The order is by falling probability, and by rising index among equal ones, which agrees with `predict`.
    """
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)  # (N, 1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]  # (N, K)
    before = (probabilities > true) | ((probabilities == true) & earlier)
    ranks: NDArray[np.int64] = before.sum(axis=1).astype(np.int64)
    return ranks


def top_k(probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, k: int) -> float:
    """Share of the images whose true class is among the k most probable; ties as in `true_ranks`."""
    return float(np.mean(true_ranks(probabilities, labels) < k))


def log_loss(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean of -ln p(true class) in nats, p clipped to [LOG_CLIP, 1]."""
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return float(-np.mean(np.log(np.clip(true, LOG_CLIP, 1.0)))) + 0.0  # + 0.0: no negative zero


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], *, classes: int
) -> NDArray[np.int64]:
    """(K, K) counts; the row is the true class, the column the answer."""
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def class_scores(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassScore, ...]:
    """Recall with its interval, precision and F1 of every class, from the (K, K) counts."""
    scores = []
    for index, name in enumerate(names):
        right = int(confusion[index, index])
        n, answered = int(confusion[index].sum()), int(confusion[:, index].sum())
        scores.append(
            ClassScore(
                name=name,
                n=n,
                recall=right / n if n else None,
                recall_ci=wilson(right, n),
                precision=right / answered if answered else None,
                f1=2 * right / (n + answered) if n + answered else None,
            )
        )
    return tuple(scores)


def measure(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], classes: Sequence[str]
) -> Metrics:
    """All scores of (N, K) probabilities against (N,) true class numbers.

    Raises U160 where the shapes, the labels or the probabilities do not fit, D205 where there is no image
    and N620 where a probability is not a number.
    """
    labels = _checked(probabilities, labels, classes)
    ranks = true_ranks(probabilities, labels)
    predicted = predict(probabilities)
    confusion = confusion_matrix(labels, predicted, classes=len(classes))
    scores = class_scores(confusion, classes)
    n, right, in_five = len(labels), int(np.sum(ranks == 0)), int(np.sum(ranks < 5))
    assert right == int(np.trace(confusion)), "the two ways to break ties differ"
    many = len(classes) > 5
    return Metrics(
        n=n,
        top1=right / n,
        top1_ci=wilson(right, n),
        top5=in_five / n if many else None,
        top5_ci=wilson(in_five, n) if many else None,
        loss=log_loss(probabilities, labels),
        balanced_accuracy=float(np.mean([each.recall for each in scores if each.recall is not None])),
        classes=scores,
        confusion=confusion,
        brier=brier(probabilities, labels),
        ece=expected_calibration_error(probabilities, labels),
    )


def _checked(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], classes: Sequence[str]
) -> NDArray[np.int64]:
    labels = np.asarray(labels)
    expected = (len(labels), len(classes)) if labels.ndim == 1 else None
    if probabilities.shape != expected:
        raise _unfit(
            f"probabilities of shape {probabilities.shape} do not fit labels of shape {labels.shape} "
            f"and {len(classes)} classes"
        )
    if not len(labels):
        raise ConvworksError("D205", "there is no image to measure", try_="convworks check DATA")
    if not np.issubdtype(labels.dtype, np.integer):
        raise _unfit(f"labels must be whole numbers, not {labels.dtype}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise _unfit(f"labels must lie between 0 and {len(classes) - 1}")
    if not np.isfinite(probabilities).all():
        raise ConvworksError(
            "N620",
            "the network's probabilities are not numbers (NaN or infinite)",
            why="the training diverged: these weights cannot be used",
            try_="train again with a lower learning rate, for example --set optimizer.lr=0.01",
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise _unfit("rows of probabilities must be positive and sum to one; these are not probabilities")
    return labels.astype(np.int64)


def _unfit(what: str) -> ConvworksError:
    return ConvworksError("U160", what, try_="give one row of class probabilities (softmax) for each label")


def _share(value: Any, *, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value!r}")
    return float(value)


def _maybe(value: Any, *, name: str) -> float | None:
    return None if value is None else _share(value, name=name)


def _interval(value: Any, *, name: str) -> Interval:
    low, high = value
    return _share(low, name=name), _share(high, name=name)


def _parse(tree: Any) -> Metrics:
    if not isinstance(tree, Mapping):
        raise TypeError("it is not a table of values")
    confusion = np.array(tree["confusion"])
    k, loss, n = len(tree["classes"]), tree["loss"], tree["n"]
    if confusion.shape != (k, k) or not np.issubdtype(confusion.dtype, np.integer) or confusion.min() < 0:
        raise ValueError(f"confusion must be {k} x {k} counts")
    if isinstance(loss, bool) or not isinstance(loss, (int, float)) or not math.isfinite(loss):
        raise ValueError(f"loss must be a number, not {loss!r}")
    if n != confusion.sum() or [each["n"] for each in tree["classes"]] != confusion.sum(axis=1).tolist():
        raise ValueError("the numbers of images do not add up")
    return Metrics(
        n=int(n),
        top1=_share(tree["top1"], name="top1"),
        top1_ci=_interval(tree["top1_ci"], name="top1_ci"),
        top5=_maybe(tree["top5"], name="top5"),
        top5_ci=None if tree["top5_ci"] is None else _interval(tree["top5_ci"], name="top5_ci"),
        loss=float(loss),
        balanced_accuracy=_share(tree["balanced_accuracy"], name="balanced_accuracy"),
        classes=tuple(
            ClassScore(
                name=str(each["name"]),
                n=int(each["n"]),
                recall=_maybe(each["recall"], name="recall"),
                recall_ci=_interval(each["recall_ci"], name="recall_ci"),
                precision=_maybe(each["precision"], name="precision"),
                f1=_maybe(each["f1"], name="f1"),
            )
            for each in tree["classes"]
        ),
        confusion=confusion.astype(np.int64),
        brier=None if tree.get("brier") is None else 2 * _share(tree["brier"] / 2, name="brier"),
        ece=_maybe(tree.get("ece"), name="ece"),
    )
