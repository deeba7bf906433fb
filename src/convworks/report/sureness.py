"""Section 7: whether a probability means what it says, and from which one on an answer should be given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.evaluation.calibration import Calibration, calibration_from_dict, scaled
from convworks.evaluation.reliability import Reliability, brier, reliability
from convworks.evaluation.selective import Curve, Point, coverage_curve, suggestions, threshold_for
from convworks.report.charts import INK, MUTED, READ_OFF, SIZE, VAL, Chart, dress, name_line, to_svg
from convworks.report.notes import split_name
from convworks.report.read import Evaluation, RunRecord
from convworks.report.text import count, share

BINS = 10  # drawn; the stored error has 15
POINTS = 200  # of the curve that is drawn and read off
WANTED = (0.05, 0.02, 0.01)  # errors; a threshold is suggested for the first that is not reached without one
SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1)  # answered, of the table


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
    error: float  # of answering all images
    suggested: Suggestion | None
    table: tuple[Row, ...]
    points: str  # of the curve, for the page's script
    start: int  # the one that the slider begins with


@dataclass(frozen=True, slots=True)
class Suggestion:
    wanted: float
    point: Point
    coverage: float


@dataclass(frozen=True, slots=True)
class Row:
    """What a threshold does."""

    point: Point
    coverage: float


def sureness(run: RunRecord, evaluation: Evaluation) -> Sureness | None:
    """The section's numbers; None where the answers were not kept. Raises A475 for a damaged temperature."""
    p, labels = evaluation.probabilities, evaluation.labels
    if p is None or labels is None or not len(labels):
        return None
    stored = calibration_from_dict(run.model.get("calibration"))
    table = reliability(p, labels)
    even = None if stored is None else reliability(scaled(p, stored.temperature), labels)
    curve = coverage_curve(p, labels)
    suggested = suggestion(curve)
    shown = _shown(curve, suggested)
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
        charts=(_diagram(p, labels, stored, where), _coverage(curve, shown, suggested, where)),
        thresholds=tuple(suggestions(curve)),
        area=curve.area,
        error=curve.points[0].error,
        suggested=suggested,
        table=tuple(rows(curve)),
        points=" ".join(_written(curve.points[i]) for i in shown),
        start=0 if suggested is None else shown.index(curve.points.index(suggested.point)),
    )


def suggestion(curve: Curve) -> Suggestion | None:
    """The threshold for the largest wanted error that answering all images exceeds; None where none helps."""
    for wanted in WANTED:
        if curve.points[0].error > wanted:
            point = threshold_for(curve, error=wanted)
            return None if point is None else Suggestion(wanted, point, curve.coverage(point))
    return None


def rows(curve: Curve) -> list[Row]:
    """The lowest threshold for each of SHARES, where at most that share is answered; each one once."""
    found = [next((p for p in curve.points if curve.coverage(p) <= each), None) for each in SHARES]
    return [Row(point, curve.coverage(point)) for point in dict.fromkeys(found) if point is not None]


def _shown(curve: Curve, suggested: Suggestion | None) -> list[int]:
    """Numbers of the points that are drawn: both ends, the suggested one, and evenly between."""
    last = len(curve.points) - 1
    chosen = set(np.linspace(0, last, min(POINTS, last + 1)).round().astype(int).tolist())
    return sorted(chosen | ({curve.points.index(suggested.point)} if suggested else set()))


def _written(point: Point) -> str:
    """threshold:answered:wrong:low:high, the last two the interval of the error."""
    low, high = point.interval
    return f"{point.threshold:.6g}:{point.answered}:{point.wrong}:{low:.5f}:{high:.5f}"


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


def _coverage(curve: Curve, shown: list[int], suggested: Suggestion | None, where: str) -> Chart:
    """The error among the answered images, by the share that is answered; one vertex for each point shown."""
    figure, axes = _figure()
    points = [curve.points[i] for i in shown]
    (line,) = axes.plot(
        [curve.coverage(each) for each in points], [each.error for each in points], color=VAL, linewidth=1.8
    )
    name_line(line, READ_OFF)
    if suggested is not None:
        at = [suggested.coverage], [suggested.point.error]
        axes.plot(*at, "D", color=INK, ms=6, label=f"suggested: from {share(suggested.point.threshold)} on")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(bottom=0)
    dress(axes, title="Answering only when sure", across=f"share of {where} images answered", up="error")
    alt = (
        f"Error against coverage. Answering all images the error is {points[0].error:.3f}; the mean error "
        f"over all coverages is {curve.area:.4f}."
    )
    return Chart("Answering only when sure", to_svg(figure, name="coverage", alt=alt))
