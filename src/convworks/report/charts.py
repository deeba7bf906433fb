"""The curves of a training run as SVG text: loss, accuracy, learning rate, gradient norm and speed.

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

from convworks.report.read import EpochRecord, RunRecord, Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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

# Groups of lines that the page's script works on get these as classes; all their points are written.
SMOOTHED, READ_OFF = "smoothed", "read-off"
_CLASSES = re.compile(rf' id="({SMOOTHED}|{READ_OFF})"')

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


UNITS = ("epoch", "step", "minute")


class Axis:
    """Where steps lie: in epochs done, in steps, or in minutes of work without the stops between.

    Epochs are those at whose ends the log has a step; while none has ended the unit is the step. Minutes need
    the recorded times of the epochs.
    """

    def __init__(
        self, epochs: Sequence[EpochRecord], *, unit: str = "epoch", timing: Timing | None = None
    ) -> None:
        self.unit = unit if epochs else "step"
        ends = [float(each.step) for each in epochs]
        self._steps = np.array([0.0, *ends] if epochs else [0.0, 1.0])
        self._places = np.arange(len(self._steps), dtype=np.float64)
        if self.unit == "step":
            self._places = self._steps
        elif unit == "minute":
            known = timing.epochs if timing is not None else ()
            steps, seconds = [0.0, *(each[0] for each in known)], [0.0, *(each[2] for each in known)]
            self._places = np.interp(self._steps, steps, seconds) / 60
        self.ends = self._places[1:] if epochs else self._places[:0]

    def place(self, steps: Sequence[int]) -> Curve:
        """Where steps lie on the axis; beyond the last epoch at that epoch's pace."""
        at = np.array(steps, dtype=np.float64)
        pace = (self._places[-1] - self._places[-2]) / (self._steps[-1] - self._steps[-2])
        places: Curve = np.interp(at, self._steps, self._places) + np.maximum(at - self._steps[-1], 0) * pace
        return places


def units(run: RunRecord) -> tuple[str, ...]:
    """The axes that the run has numbers for."""
    if not run.epochs:
        return ("step",)
    timed = {step for step, _, _ in run.timing.epochs} if run.timing else set()
    return UNITS if {each.step for each in run.epochs} <= timed else UNITS[:2]


def curves(run: RunRecord, *, unit: str = "epoch", human_error: float | None = None) -> list[Chart]:
    """The charts for which the run has numbers, over epochs, steps or minutes.

    `human_error`, a share, is drawn as a level in the chart of the accuracy.
    """
    axis = Axis(run.epochs, unit=unit, timing=run.timing)
    marks = axis.place(run.timing.resumed_at) if run.timing else np.empty(0)
    charts = [draw(run, axis, marks) for draw in (_loss, _learning_rate, _gradient_norm, _throughput)]
    charts.insert(1, _accuracy(run, axis, marks, human_error))
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


def _accuracy(run: RunRecord, axis: Axis, marks: Curve, human_error: float | None) -> Chart | None:
    train = _column([each.train_accuracy for each in run.epochs])
    val = _column([each.val_accuracy for each in run.epochs])
    balanced = _column([each.val_balanced_accuracy for each in run.epochs])
    plot = Plot(axis, marks)
    plot.line(axis.ends, train, label="training", colour=TRAIN, width=1.1)
    plot.line(axis.ends, balanced, label="validation, balanced", colour=VAL, width=1.1, style=(0, (3, 2)))
    plot.line(axis.ends, val, label="validation", colour=VAL, width=2.2)
    plot.mark(axis.ends, val, place=run.kept_epoch)
    if human_error is not None and len(axis.ends):
        ends = np.array([0.0, axis.ends[-1]])
        plot.line(
            ends,
            1 - human_error + 0 * ends,
            label="people",
            colour=INK,
            width=1.0,
            style=(0, (1, 2)),
            noisy=False,
        )
    alt = "Accuracy. " + " ".join([_story("Training", train), _story("Validation", val)])
    return plot.chart("Accuracy", alt=alt)


def _learning_rate(run: RunRecord, axis: Axis, marks: Curve) -> Chart | None:
    at, values = axis.place([each.step for each in run.steps]), _column([each.lr for each in run.steps])
    if not np.isfinite(values).any():
        at, values = axis.ends, _column([each.lr for each in run.epochs])
    (x, y), _ = thin(at, values)
    plot = Plot(axis, marks)
    plot.line(x, y, label="", colour=INK, width=1.4, noisy=False)
    return plot.chart("Learning rate", alt=f"Learning rate. {_story('It', y)}")


def _gradient_norm(run: RunRecord, axis: Axis, marks: Curve) -> Chart | None:
    norms = _column([each.gradient_norm for each in run.steps])
    (x, y), per_point = thin(axis.place([each.step for each in run.steps]), norms)
    plot = Plot(axis, marks)
    plot.line(x, y, label="", colour=INK, width=0.9)
    caption = "" if per_point == 1 else f"Means of {per_point} steps."
    return plot.chart("Gradient norm", alt=f"Gradient norm. {_story('It', y)}", caption=caption)


def _throughput(run: RunRecord, axis: Axis, marks: Curve) -> Chart | None:
    """Images a second of each epoch, its evaluation included."""
    batch, timed = run.recipe.get("batch"), run.timing.epochs if run.timing else ()
    if type(batch) is not int or not run.epochs:
        return None
    starts = dict(zip([e.step for e in run.epochs], [0, *(e.step for e in run.epochs)], strict=False))
    resumed = run.timing.resumed_at if run.timing else ()
    rates = [
        (step, (step - max([starts[step], *(r for r in resumed if r < step)])) * batch / seconds)
        for step, seconds, _ in timed
        if step in starts and seconds > 0
    ]
    plot = Plot(axis, marks)
    y = np.array([rate for _, rate in rates])
    plot.line(axis.place([step for step, _ in rates]), y, label="", colour=INK, width=1.4)
    caption = "Training steps by the wall clock of each epoch."
    return plot.chart("Images a second", alt=f"Images a second. {_story('It', y)}", caption=caption, floor=0)


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

    def line(
        self,
        x: Curve,
        y: Curve,
        *,
        label: str,
        colour: str,
        width: float,
        style: Any = "-",
        noisy: bool = True,
    ) -> None:
        """Draw a curve; a `noisy` one can be smoothed on the page."""
        if not np.isfinite(y).any():
            return
        self._curves, self._labelled = self._curves + 1, self._labelled or bool(label)
        dot = "o" if np.isfinite(y).sum() == 1 else ""  # one epoch is no line
        (drawn,) = self._axes.plot(
            x, y, label=label, color=colour, linewidth=width, linestyle=style, marker=dot, ms=3
        )
        if noisy and np.isfinite(y).sum() > 2:
            name_line(drawn, SMOOTHED)

    def faint(self, curve: tuple[Curve, Curve], *, label: str) -> None:
        self.line(*curve, label=label, colour=MUTED, width=0.5)

    def mark(self, x: Curve, y: Curve, *, place: int | None) -> None:
        """A ring around the kept epoch."""
        if place is not None and place < len(y) and np.isfinite(y[place]):
            (ring,) = self._axes.plot([x[place]], [y[place]], "o", color=VAL, ms=8, label="kept weights")
            ring.set_markerfacecolor("none")

    def chart(self, title: str, *, alt: str, caption: str = "", floor: float | None = None) -> Chart | None:
        """Finish the figure; None where nothing was drawn."""
        if not self._curves:
            return None
        for number, at in enumerate(self._marks):
            label = "" if number or not self._labelled else "run resumed"
            self._axes.axvline(at, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label=label)
        self._axes.set_ylim(bottom=floor)
        self._dress(title)
        name = f"{title.lower().replace(' ', '-')}-{self._axis.unit}"
        return Chart(title, to_svg(self._figure, name=name, alt=" ".join(alt.split())), caption)

    def _dress(self, title: str) -> None:
        from matplotlib.ticker import MaxNLocator

        self._axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=self._axis.unit != "minute"))
        self._axes.set_xlim(left=0)
        dress(self._axes, title=title, across=self._axis.unit)


def lay_out(figure: Figure) -> None:
    """Place the axes among their labels now: `savefig` would draw it all once more to do so."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def dress(axes: Axes, *, title: str, across: str, up: str = "") -> None:
    """The look of every chart of a report: quiet frame, muted numbers, a legend where lines have names."""
    axes.set_xlabel(across, color=MUTED, fontsize=9)
    axes.set_ylabel(up, color=MUTED, fontsize=9)
    axes.set_title(title, color=INK, fontsize=10, loc="left", fontweight="bold")
    axes.grid(True, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=RULE, labelcolor=MUTED, labelsize=8.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(RULE)
    if [each for each in axes.get_legend_handles_labels()[1] if each]:
        axes.legend(fontsize=8, labelcolor=INK, frameon=False, handlelength=1.6)


def name_line(line: Line2D, name: str) -> None:
    """Let the page's script find a line, with every point of it, also where it is nearly straight."""
    line.set_gid(name)
    line.get_path().should_simplify = False


def to_svg(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as an <svg> element for an HTML page: the same bytes for the same numbers, no fixed size.

    `name` keeps the ids of several drawings on one page apart.
    """
    import matplotlib

    lay_out(figure)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "convworks"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None, "matplotlib writes a viewBox"
    body = text[text.index(">", box.end()) + 1 :]
    body = _CLASSES.sub(r' class="\1"', body)
    used = set(re.findall(r"#([pm][0-9a-f]{10})", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"#([pm][0-9a-f]{10})", rf"#{name}-\1", body)
    for pattern, new in _TIDY:
        body = re.sub(pattern, new, body)
    body = re.sub(r' (?:d|x|y|width|height)="[^"]*"', lambda m: _LONG.sub(r"\1", m[0]), body)
    for ink, variable in INKS.items():
        body = body.replace(ink, f"var({variable})")
    return f'<svg {box[0]} role="img" aria-label="{html.escape(alt)}">{body}'
