"""Temperature scaling: one number, fitted on validation images, that makes probabilities mean what they say.

    p'_k = p_k^(1/T) / sum_j p_j^(1/T),   T = argmin of the mean of -ln p'_label

which is softmax(logits / T), written with the stored probabilities (Guo et al. 2017, section 4.2). With
b = 1/T the loss is convex, so Newton's method with bisection finds its only minimum. The order of the
classes of an image does not change, so no answer does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.evaluation.metrics import log_loss, predict
from convworks.evaluation.reliability import expected_calibration_error

Probabilities = NDArray[np.floating]
LOWEST, HIGHEST = 0.05, 20.0  # temperatures beyond are those of a set on which nothing is wrong, or all
FEWEST = 50  # images: fewer say too little about a temperature
_FLOOR = float(np.finfo(np.float32).tiny)  # a stored probability of 0 is smaller than this


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted temperature, and what it did on the images that it was fitted on."""

    temperature: float
    n: int
    split: str
    loss_before: float
    loss_after: float
    ece_before: float
    ece_after: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibration_from_dict(tree: Any) -> Calibration | None:
    """The stored temperature of a model; None where it has none. Raises A475 where the record is damaged."""
    if tree is None:
        return None
    try:
        found = Calibration(
            temperature=float(tree["temperature"]),
            n=int(tree["n"]),
            split=str(tree["split"]),
            loss_before=float(tree["loss_before"]),
            loss_after=float(tree["loss_after"]),
            ece_before=float(tree["ece_before"]),
            ece_after=float(tree["ece_after"]),
        )
    except (TypeError, ValueError, KeyError) as problem:
        raise _damaged(str(problem)) from problem
    if not LOWEST <= found.temperature <= HIGHEST:
        raise _damaged(f"a temperature of {found.temperature:g}")
    return found


def _damaged(why: str) -> ConvworksError:
    return ConvworksError(
        "A475",
        f"the model's calibration is damaged: {why}",
        why="its probabilities cannot be corrected",
        try_="leave --calibrated out",
    )


def scaled(probabilities: Probabilities, temperature: float) -> NDArray[np.float64]:
    """(N, K) probabilities at another temperature, in float64; T above 1 makes them less sure."""
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"a temperature must be above 0, not {temperature}")
    logs = _logs(probabilities) / temperature
    raised = np.exp(logs - logs.max(axis=1, keepdims=True, initial=-np.inf))
    found: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return found


def calibrated(probabilities: Probabilities, temperature: float) -> NDArray[np.float32]:
    """`scaled` as float32, with every answer kept even where rounding makes two probabilities equal."""
    found = scaled(probabilities, temperature).astype(np.float32)
    answers = predict(probabilities)
    moved = np.flatnonzero(predict(found) != answers) if len(found) else np.zeros(0, dtype=np.int64)
    found[moved, answers[moved]] = np.nextafter(found[moved].max(axis=1), np.float32(2))
    return found


def fit_temperature(probabilities: Probabilities, labels: NDArray[np.int64]) -> float:
    """The temperature between LOWEST and HIGHEST at which (N, K) probabilities have the lowest log-loss."""
    logs = _logs(probabilities)
    true = np.take_along_axis(logs, np.asarray(labels)[:, None], axis=1)[:, 0]

    def slopes(b: float) -> tuple[float, float]:
        """First and second derivative of the mean loss in b = 1/T."""
        raised = np.exp(b * logs - (b * logs).max(axis=1, keepdims=True))
        weights = raised / raised.sum(axis=1, keepdims=True)
        mean = (weights * logs).sum(axis=1)
        variance = (weights * (logs - mean[:, None]) ** 2).sum(axis=1)
        return float((mean - true).mean()), float(variance.mean())

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slopes(low)[0] >= 0:
        return HIGHEST
    if slopes(high)[0] <= 0:
        return LOWEST
    b = 1.0
    for _ in range(200):
        slope, curvature = slopes(b)
        low, high = (b, high) if slope < 0 else (low, b)
        step = b - slope / curvature if curvature > 0 else np.nan
        new = step if low < step < high else (low + high) / 2
        if abs(new - b) <= 1e-12 * b:
            break
        b = new
    return 1 / b


def fit_calibration(
    probabilities: Probabilities, labels: NDArray[np.int64], *, split: str
) -> Calibration | None:
    """The temperature of a set of images that training did not learn from, with what it changes there.

    None where the set cannot say it: fewer than FEWEST images, or all of them right (or so many that the
    temperature runs to a bound).
    """
    if len(labels) < FEWEST:
        return None
    temperature = fit_temperature(probabilities, labels)
    if not LOWEST < temperature < HIGHEST:
        return None
    after = scaled(probabilities, temperature)
    return Calibration(
        temperature=temperature,
        n=len(labels),
        split=split,
        loss_before=log_loss(probabilities, labels),
        loss_after=log_loss(after, labels),
        ece_before=expected_calibration_error(probabilities, labels),
        ece_after=expected_calibration_error(after, labels),
    )


def _logs(probabilities: Probabilities) -> NDArray[np.float64]:
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _FLOOR))
