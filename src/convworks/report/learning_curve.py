"""Error against the number of training images as a picture of its own, with the fitted line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convworks.evaluation.trend import Line
from convworks.report.charts import INK, MUTED, RULE, SIZE, TRAIN, VAL, to_svg

# A file has no page around it that sets the colours.
_COLOURS = "--ink:#1a1a1a;--rule:#d8d8d8;--train:#b35900;--val:#005a9c;--muted:#5f5f5f;background:#fff"
_HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" style="{_COLOURS}" '
)


def draw_learning_curve(
    images: Sequence[int], errors: Sequence[Sequence[float]], line: Line, *, split: str
) -> str:
    """A whole SVG file: a dot for each run, the means, the line, and dashed where it is a guess."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=72, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for n, each in zip(images, errors, strict=True):
        axes.plot([n] * len(each), each, "o", color=MUTED, ms=3, label="runs" if n == images[0] else "")
    means = [float(np.mean(each)) for each in errors]
    axes.plot(images, means, "o", color=VAL, ms=6, label="mean")
    inside = np.geomspace(images[0], images[-1], 50)
    beyond = np.geomspace(images[-1], 2 * images[-1], 20)
    axes.plot(inside, [line.at(float(np.log(n))) for n in inside], color=TRAIN, lw=1.6, label="a + b ln n")
    axes.plot(
        beyond,
        [max(0.0, line.at(float(np.log(n)))) for n in beyond],
        color=TRAIN,
        lw=1.2,
        linestyle=(0, (3, 2)),
        label="if it goes on",
    )
    axes.set_xscale("log")
    axes.set_xticks(list(images), labels=[f"{n:,}" for n in images])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("training images", color=MUTED, fontsize=9)
    axes.set_ylabel(f"error on {split}", color=MUTED, fontsize=9)
    axes.set_title("Learning curve", color=INK, fontsize=10, loc="left", fontweight="bold")
    axes.grid(True, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=RULE, labelcolor=MUTED, labelsize=8.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(RULE)
    axes.legend(fontsize=8, labelcolor=INK, frameon=False, handlelength=1.6)
    story = ", ".join(f"{n:,} images {mean:.3f}" for n, mean in zip(images, means, strict=True))
    text = to_svg(figure, name="learning-curve", alt=f"Error on {split}: {story}.")
    return _HEAD + text.removeprefix("<svg ")
