"""The curves of a training run as SVG text: loss, accuracy, learning rate, gradient norm over the epochs.

Figures are drawn without pyplot. Their texts stay text, and their colours are replaced by the page's CSS
variables, so that one drawing serves light, dark and print. No name from the data enters a drawing.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convworks.report.read import EpochRecord, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = NDArray[np.float64]
POINTS = 600  # drawn for a curve of steps; more are averaged
SIZE = (4.6, 2.9)  # inches of 72 dots

# Drawn with these colours, shown with the page's variables. No other colour is drawn.
INKS = {
    "#010101": "--ink",
    "#020202": "--rule",
    "#030303": "--train",
    "#040404": "--val",
    "#050505": "--muted",
}
INK, RULE, TRAIN, VAL, MUTED = INKS

_LONG = re.compile(r"(\.\d\d)\d+")  # a hundredth of a dot is exact enough for a coordinate

# What matplotlib writes and a page does not need. Its <style> would apply to the whole page.
_TIDY = (
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),
    (r"font-family: [^;]*; ", ""),  # the page's own
    (r' transform="rotate\(-0 [^)]*\)"', ""),
    (r"\s+", " "),
    (r"> <", "><"),
    (r"<g>(<g ?/>)*</g>|<g ?/>", ""),
)


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing: `svg` holds no text that came from the data."""

    title: str
    svg: str
    caption: str = ""


class Axis:
    """Steps as epochs done, from the step at which each epoch ended; steps while no epoch has ended."""

    def __init__(self, epochs: Sequence[EpochRecord]) -> None:
        self.unit = "epoch" if epochs else "step"
        self._steps = np.array([0.0, *(each.step for each in epochs)] if epochs else [0.0, 1.0])
        self._places = np.arange(len(self._steps), dtype=np.float64)
        self.ends = self._places[1:] if epochs else self._places[:0]

    def place(self, steps: Sequence[int]) -> Curve:
        """Where steps lie on the axis; beyond the last epoch at that epoch's pace."""
        at = np.array(steps, dtype=np.float64)
        pace = 1 / (self._steps[-1] - self._steps[-2])
        places: Curve = np.interp(at, self._steps, self._places) + np.maximum(at - self._steps[-1], 0) * pace
        return places


def curves(run: RunRecord) -> list[Chart]:
    """The charts for which the run has numbers."""
    axis = Axis(run.epochs)
    marks = axis.place(run.timing.resumed_at) if run.timing else np.empty(0)
    charts = (draw(run, axis, marks) for draw in (_loss, _accuracy, _learning_rate, _gradient_norm))
    return [each for each in charts if each is not None]


def _loss(run: RunRecord, axis: Axis, marks: Curve) -> Chart | None:
    train = _column([each.train_loss for each in run.epochs])
    val = _column([each.val_loss for each in run.epochs])
    steps, per_point = thin(axis.place([s.step for s in run.steps]), _column([s.loss for s in run.steps]))
    plot = Plot(axis, marks)
    plot.faint(
        steps, label="training, each step" if per_point == 1 else f"training, means of {per_point} steps"
    )
    plot.line(axis.ends, train, label="training, epoch", colour=TRAIN, width=1.1)
    plot.line(axis.ends, val, label="validation", colour=VAL, width=2.2)
    plot.mark(axis.ends, val, place=run.kept_epoch)
    alt = "Loss. " + " ".join([_story("Training", train), _story("Validation", val)])
    return plot.chart("Loss", alt=alt)


def _accuracy(run: RunRecord, axis: Axis, marks: Curve) -> Chart | None:
    train = _column([each.train_accuracy for each in run.epochs])
    val = _column([each.val_accuracy for each in run.epochs])
    balanced = _column([each.val_balanced_accuracy for each in run.epochs])
    plot = Plot(axis, marks)
    plot.line(axis.ends, train, label="training", colour=TRAIN, width=1.1)
    plot.line(axis.ends, balanced, label="validation, balanced", colour=VAL, width=1.1, style=(0, (3, 2)))
    plot.line(axis.ends, val, label="validation", colour=VAL, width=2.2)
    plot.mark(axis.ends, val, place=run.kept_epoch)
    alt = "Accuracy. " + " ".join([_story("Training", train), _story("Validation", val)])
    return plot.chart("Accuracy", alt=alt)


def _learning_rate(run: RunRecord, axis: Axis, marks: Curve) -> Chart | None:
    at, values = axis.place([each.step for each in run.steps]), _column([each.lr for each in run.steps])
    if not np.isfinite(values).any():
        at, values = axis.ends, _column([each.lr for each in run.epochs])
    (x, y), _ = thin(at, values)
    plot = Plot(axis, marks)
    plot.line(x, y, label="", colour=INK, width=1.4)
    return plot.chart("Learning rate", alt=f"Learning rate. {_story('It', y)}")


def _gradient_norm(run: RunRecord, axis: Axis, marks: Curve) -> Chart | None:
    norms = _column([each.gradient_norm for each in run.steps])
    (x, y), per_point = thin(axis.place([each.step for each in run.steps]), norms)
    plot = Plot(axis, marks)
    plot.line(x, y, label="", colour=INK, width=0.9)
    caption = "" if per_point == 1 else f"Means of {per_point} steps."
    return plot.chart("Gradient norm", alt=f"Gradient norm. {_story('It', y)}", caption=caption)


def _column(values: Sequence[float | None]) -> Curve:
    return np.array([np.nan if each is None else each for each in values], dtype=np.float64)


def thin(x: Curve, y: Curve) -> tuple[tuple[Curve, Curve], int]:
    """At most POINTS points, each the mean of equally many neighbours; and how many that is."""
    per_point = max(1, -(-len(x) // POINTS))
    if per_point == 1:
        return (x, y), 1
    starts = np.arange(0, len(x), per_point)
    counts = np.diff([*starts, len(x)])
    return (np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts), per_point


def _story(name: str, values: Curve) -> str:
    """A curve in words, for those who do not see it."""
    known = values[np.isfinite(values)]
    if not len(known):
        return ""
    ends = f"from {known[0]:.3g} to {known[-1]:.3g}"
    return f"{name} goes {ends}, lowest {known.min():.3g}, highest {known.max():.3g}."


class Plot:
    """One small figure. Nothing is drawn for a curve without numbers, and no chart comes of no curves."""

    def __init__(self, axis: Axis, marks: Curve) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=SIZE, dpi=72, layout="constrained")
        FigureCanvasSVG(self._figure)
        self._axes = self._figure.add_subplot()
        self._axis, self._marks, self._curves, self._labelled = axis, marks, 0, False

    def line(self, x: Curve, y: Curve, *, label: str, colour: str, width: float, style: Any = "-") -> None:
        if not np.isfinite(y).any():
            return
        self._curves, self._labelled = self._curves + 1, self._labelled or bool(label)
        dot = "o" if np.isfinite(y).sum() == 1 else ""  # one epoch is no line
        self._axes.plot(x, y, label=label, color=colour, linewidth=width, linestyle=style, marker=dot, ms=3)

    def faint(self, curve: tuple[Curve, Curve], *, label: str) -> None:
        self.line(*curve, label=label, colour=MUTED, width=0.5)

    def mark(self, x: Curve, y: Curve, *, place: int | None) -> None:
        """A ring around the kept epoch."""
        if place is not None and place < len(y) and np.isfinite(y[place]):
            (ring,) = self._axes.plot([x[place]], [y[place]], "o", color=VAL, ms=8, label="kept weights")
            ring.set_markerfacecolor("none")

    def chart(self, title: str, *, alt: str, caption: str = "") -> Chart | None:
        """Finish the figure; None where nothing was drawn."""
        if not self._curves:
            return None
        for number, at in enumerate(self._marks):
            label = "" if number or not self._labelled else "run resumed"
            self._axes.axvline(at, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label=label)
        self._dress(title)
        name = title.lower().replace(" ", "-")
        return Chart(title, to_svg(self._figure, name=name, alt=" ".join(alt.split())), caption)

    def _dress(self, title: str) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = self._axes
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(left=0)
        axes.set_xlabel(self._axis.unit, color=MUTED, fontsize=9)
        axes.set_title(title, color=INK, fontsize=10, loc="left", fontweight="bold")
        axes.grid(True, color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=RULE, labelcolor=MUTED, labelsize=8.5, length=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(RULE)
        labelled = [each for each in axes.get_legend_handles_labels()[1] if each]
        if labelled:
            axes.legend(fontsize=8, labelcolor=INK, frameon=False, handlelength=1.6)


def to_svg(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as an <svg> element for an HTML page: the same bytes for the same numbers, no fixed size.

    `name` keeps the ids of several drawings on one page apart.
    """
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "convworks"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib writes a viewBox"
    body = text[text.index(">", box.end()) + 1 :]
    used = set(re.findall(r"#([pm][0-9a-f]{10})", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"#([pm][0-9a-f]{10})", rf"#{name}-\1", body)
    for pattern, new in _TIDY:
        body = re.sub(pattern, new, body)
    body = re.sub(r' (?:d|x|y|width|height)="[^"]*"', lambda m: _LONG.sub(r"\1", m[0]), body)
    for ink, variable in INKS.items():
        body = body.replace(ink, f"var({variable})")
    return f'<svg {box[0]} role="img" aria-label="{html.escape(alt)}">{body}'
