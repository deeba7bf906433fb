"""Section 7: whether a probability means what it says, and from which one on an answer should be given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.evaluation.calibration import Calibration, calibration_from_dict, scaled
from convworks.evaluation.reliability import Reliability, brier, reliability
from convworks.evaluation.selective import Curve, coverage_curve, suggestions
from convworks.report.charts import INK, MUTED, SIZE, VAL, Chart, dress, to_svg
from convworks.report.notes import split_name
from convworks.report.read import Evaluation, RunRecord
from convworks.report.text import count

BINS = 10  # drawn; the stored error has 15
WANTED = 0.05


@dataclass(frozen=True, slots=True)
class Sureness:
    split: str
    n: int
    ece: float
    largest: float
    brier: float
    calibration: Calibration | None
    same_images: bool  # the temperature was fitted on the images of this very table
    ece_calibrated: float | None
    charts: tuple[Chart, ...]
    thresholds: tuple[dict[str, Any], ...]
    area: float


def sureness(run: RunRecord, evaluation: Evaluation) -> Sureness | None:
    """The section's numbers; None where the answers were not kept. Raises A475 for a damaged temperature."""
    p, labels = evaluation.probabilities, evaluation.labels
    if p is None or labels is None or not len(labels):
        return None
    stored = calibration_from_dict(run.model.get("calibration"))
    table = reliability(p, labels)
    even = None if stored is None else reliability(scaled(p, stored.temperature), labels)
    curve = coverage_curve(p, labels)
    where = split_name(evaluation.split)
    return Sureness(
        split=where,
        n=len(labels),
        ece=table.expected,
        largest=table.largest,
        brier=brier(p, labels),
        calibration=stored,
        same_images=stored is not None and stored.split == evaluation.split,
        ece_calibrated=None if even is None else even.expected,
        charts=(_diagram(p, labels, stored, where), _coverage(curve, where)),
        thresholds=tuple(suggestions(curve)),
        area=curve.area,
    )


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=72, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _diagram(
    p: NDArray[np.floating], labels: NDArray[np.int64], stored: Calibration | None, where: str
) -> Chart:
    """Accuracy by confidence; on the diagonal a probability means what it says."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)), label="as it should be")
    table = reliability(p, labels, bins=BINS)
    known = table.counts > 0
    axes.plot(
        table.confidence[known],
        table.accuracy[known],
        "o-",
        color=VAL,
        ms=4,
        linewidth=1.6,
        label="as trained",
    )
    if stored is not None:
        even = reliability(scaled(p, stored.temperature), labels, bins=BINS)
        full = even.counts > 0
        label = f"at temperature {stored.temperature:.2f}"
        axes.plot(
            even.confidence[full], even.accuracy[full], "s--", color=INK, ms=3.5, linewidth=1, label=label
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    dress(axes, title="Reliability", across=f"confidence, {where} images", up="accuracy")
    return Chart("Reliability", to_svg(figure, name="reliability", alt=_told(table)))


def _told(table: Reliability) -> str:
    parts = [
        f"confidence {c:.2f}, accuracy {a:.2f}, {count(int(n), 'image')}"
        for n, c, a in zip(table.counts, table.confidence, table.accuracy, strict=True)
        if n
    ]
    return "Reliability diagram. " + "; ".join(parts) + "."


def _coverage(curve: Curve, where: str) -> Chart:
    """The error among the answered images, by the share that is answered."""
    figure, axes = _figure()
    coverage = [curve.coverage(point) for point in curve.points]
    errors = [point.error for point in curve.points]
    at = np.unique(np.linspace(0, len(errors) - 1, 300).round().astype(int))
    axes.plot([coverage[i] for i in at], [errors[i] for i in at], color=VAL, linewidth=1.8)
    good = [i for i, error in enumerate(errors) if error <= WANTED]
    if good and good[0]:
        axes.plot([coverage[good[0]]], [errors[good[0]]], "o", color=INK, ms=6, label=f"error {WANTED:g}")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    dress(axes, title="Answering only when sure", across=f"share of {where} images answered", up="error")
    alt = (
        f"Error against coverage. Answering all images the error is {errors[0]:.3f}; the mean error over all "
        f"coverages is {curve.area:.4f}."
    )
    return Chart("Answering only when sure", to_svg(figure, name="coverage", alt=alt))
