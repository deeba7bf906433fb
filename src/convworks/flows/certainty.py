"""What a finished model knows about its own certainty: its temperature, and the curve of thresholds.

Both come from images that the weights were not fitted on, and are kept in model.json or ensemble.json:

    "calibration": {"temperature": 1.31, "n": 500, "split": "val", "ece_before": ..., ...}
    "abstention":  {"split": "val", "raw": {...}, "calibrated": {...}}

Neither changes what the network answers by itself: `predict --calibrated` and `predict --threshold` use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.evaluation.calibration import calibration_from_dict, fit_calibration, scaled
from convworks.evaluation.selective import Curve, Point, coverage_curve, curve_from_dict, threshold_for


def certainty(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, split: str
) -> dict[str, Any]:
    """The two records, from (N, K) probabilities of images of a split; empty where there is no image."""
    if not len(labels):
        return {}
    found = fit_calibration(probabilities, labels, split=split)
    raw = coverage_curve(probabilities, labels).to_dict()
    even = None
    if found is not None:
        even = coverage_curve(scaled(probabilities, found.temperature), labels).to_dict()
    return {
        "calibration": None if found is None else found.to_dict(),
        "abstention": {"split": split, "raw": raw, "calibrated": even},
    }


def temperature_of(info: Mapping[str, Any], *, where: Path) -> float:
    """The stored temperature. Raises U270 where there is none, A475 where it is damaged."""
    found = calibration_from_dict(info.get("calibration"))
    if found is None:
        raise ConvworksError(
            "U270",
            "this model has no calibration",
            where=str(where),
            why="it was made without images to fit one on, or they were too few or all answered right",
            try_="leave --calibrated out",
        )
    return found.temperature


def threshold_of(
    info: Mapping[str, Any], *, error: float, calibrated: bool, where: Path
) -> tuple[Curve, Point]:
    """The stored curve and the point with at most `error` among the answered images.

    Raises U271 where no curve is stored, U272 where no threshold reaches the wanted error, A476 for damage.
    """
    kept = info.get("abstention")
    curve = curve_from_dict(
        kept.get("calibrated" if calibrated else "raw") if isinstance(kept, dict) else None
    )
    if curve is None:
        raise ConvworksError(
            "U271",
            "this model has no stored curve of thresholds",
            where=str(where),
            why="it was made without images that its weights were not fitted on",
            try_="--threshold 0.9",
        )
    point = threshold_for(curve, error=error)
    if point is None:
        best = min(curve.points, key=lambda each: each.error)
        raise ConvworksError(
            "U272",
            f"no threshold brings the error down to {error:g}",
            where=f"lowest on {curve.n:,} images: {best.error:.3f}, with {curve.coverage(best):.0%} answered",
            try_=f"--max-error {max(best.error, 0.001):.3f}",
        )
    return curve, point
