"""Whether a probability means what it says: reliability tables and calibration errors.

Shapes: N images, K classes. The confidence of an answer is the largest of its probabilities. numpy, float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of Guo et al. 2017, "On calibration of modern neural networks", section 4
Kind = Literal["width", "mass"]


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Answers by confidence; bin m is (edges[m], edges[m + 1]]. Means of an empty bin are NaN."""

    kind: Kind
    edges: NDArray[np.float64]  # (M + 1,)
    counts: NDArray[np.int64]  # (M,)
    confidence: NDArray[np.float64]  # (M,) mean confidence
    accuracy: NDArray[np.float64]  # (M,) share of right answers

    @property
    def gaps(self) -> NDArray[np.float64]:
        """(M,) |accuracy - confidence|, 0 where a bin is empty."""
        return np.nan_to_num(np.abs(self.accuracy - self.confidence))

    @property
    def expected(self) -> float:
        """Expected calibration error: the gaps, weighted by the number of images."""
        return float(self.gaps @ self.counts / max(self.counts.sum(), 1))

    @property
    def largest(self) -> float:
        """Maximum calibration error."""
        return float(self.gaps.max(initial=0.0))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a mean that does not exist is None."""
        rows = zip(self.counts, self.confidence, self.accuracy, strict=True)
        return {
            "kind": self.kind,
            "edges": self.edges.tolist(),
            "bins": [
                {"n": int(n), "confidence": float(c) if n else None, "accuracy": float(a) if n else None}
                for n, c, a in rows
            ],
            "ece": self.expected,
            "mce": self.largest,
        }


def reliability(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    bins: int = BINS,
    kind: Kind = "width",
) -> Reliability:
    """The reliability table of (N, K) probabilities.

    `width`: bins of equal width in (0, 1]. `mass`: bins of equally many images, equal confidences together,
    so that their number may be smaller.
    """
    if bins < 1:
        raise ValueError(f"a reliability table needs a bin, not {bins}")
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1, initial=0.0)
    confidence = np.minimum(confidence, 1.0)  # rounded rows may sum to a little more
    right = np.asarray(probabilities).argmax(axis=1) == labels if len(labels) else np.zeros(0, dtype=bool)
    edges = np.linspace(0, 1, bins + 1)
    if kind == "mass" and len(confidence):
        ordered = np.sort(confidence)
        ends = (
            ordered[np.arange(1, bins) * len(ordered) // bins - 1] if len(ordered) >= bins else ordered[:-1]
        )
        edges = np.unique(np.concatenate([[0.0], ends, [max(1.0, ordered[-1])]]))
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, len(edges) - 2)
    counts = np.bincount(place, minlength=len(edges) - 1)
    with np.errstate(invalid="ignore"):
        means = np.bincount(place, confidence, minlength=len(edges) - 1) / counts
        shares = np.bincount(place, right, minlength=len(edges) - 1) / counts
    return Reliability(kind, edges, counts.astype(np.int64), means, shares)


def expected_calibration_error(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    bins: int = BINS,
    kind: Kind = "width",
) -> float:
    """Mean distance of confidence and accuracy over bins, weighted by their images (Naeini et al. 2015)."""
    return reliability(probabilities, labels, bins=bins, kind=kind).expected


def brier(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean over images of sum_k (p_k - [k = label])^2, from 0 to 2 (Brier 1950, of several classes).

    For two classes this is twice the score of scikit-learn's `brier_score_loss` with one probability.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    true = np.take_along_axis(p, np.asarray(labels)[:, None], axis=1)[:, 0]
    return float(np.clip(np.mean((p * p).sum(axis=1) - 2 * true + 1), 0, 2))
