"""The page of several runs: what was set differently, what came out, if it is chance, and where they part.

The numbers are those of `convworks compare`; this lays them out, and adds the curves over equal steps and the
images on which two runs disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from convworks.evaluation.metrics import predict
from convworks.report.charts import INK, MUTED, SIZE, TRAIN, VAL, Chart, dress, to_svg
from convworks.report.page import LARGEST, templates
from convworks.report.pictures import Picture, Thumbnail, small_copy
from convworks.report.read import RunRecord
from convworks.report.tables import literal
from convworks.report.text import count

MOST_SHOWN = 60  # disagreements
MOST_CURVES = 8
STYLES = [(colour, dash) for dash in ("-", (0, (4, 2))) for colour in (VAL, TRAIN, INK, MUTED)]


@dataclass(frozen=True, slots=True)
class Parting:
    """An image that one of two runs has right."""

    path: str
    label: str
    answers: tuple[str, str]
    probabilities: tuple[float, float]
    right: int  # 0 or 1: the run that has it right
    picture: Picture | None


@dataclass(frozen=True, slots=True)
class Gallery:
    a: str
    b: str
    shown: tuple[Parting, ...]
    found: int


def render_comparison(
    comparison: Mapping[str, Any], records: Sequence[RunRecord], *, thumbnail: Thumbnail | None = None
) -> str:
    """The page as text. `comparison` is `flows.compare.Comparison.to_dict()` of these runs, in order."""
    template = templates().get_template("comparison.html")
    names = [row["name"] for row in comparison["runs"]]
    split = comparison["split"]
    text = ""
    for source, pictures in ((thumbnail, MOST_SHOWN), (thumbnail, 20), (None, 0)):
        gallery = partings(
            records[0], records[1], split=split, names=names, thumbnail=source, pictures=pictures
        )
        text = template.render(
            title=" and ".join(names) if len(names) == 2 else count(len(names), "run"),
            comparison=comparison,
            changes=[(key, [literal(v) for v in values]) for key, values in comparison["changes"].items()],
            names=names,
            seeds=[row for row in comparison["settings"] if len(row["runs"]) > 1],
            charts=[Markup(each.svg) for each in over_steps(records)],
            gallery=gallery,
        )
        if len(text.encode("utf-8")) <= LARGEST:
            break
    return text


def over_steps(records: Sequence[RunRecord]) -> list[Chart]:
    """Validation accuracy and loss of the first runs over optimizer steps, numbered as in the table."""
    found = []
    for title, key in (("Validation accuracy", "val_accuracy"), ("Validation loss", "val_loss")):
        chart = _over_steps(records[:MOST_CURVES], title, key)
        if chart is not None:
            found.append(chart)
    return found


def _over_steps(records: Sequence[RunRecord], title: str, key: str) -> Chart | None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=72, layout="constrained")
    FigureCanvasSVG(figure)
    axes, told = figure.add_subplot(), []
    for number, (record, (colour, dash)) in enumerate(zip(records, STYLES, strict=False), 1):
        points = [(e.step, getattr(e, key)) for e in record.epochs if getattr(e, key) is not None]
        if points:
            x, y = np.array(points, dtype=np.float64).T
            dot = "o" if len(points) == 1 else ""
            axes.plot(
                x, y, color=colour, linestyle=dash, marker=dot, ms=3, linewidth=1.6, label=f"run {number}"
            )
            told.append(f"Run {number} ends at {y[-1]:.3f} after {int(x[-1]):,} steps.")
    if not told:
        return None
    axes.set_xlim(left=0)
    dress(axes, title=title, across="optimizer steps")
    name = title.lower().replace(" ", "-")
    return Chart(title, to_svg(figure, name=name, alt=" ".join([f"{title}.", *told])))


def _answers(record: RunRecord, split: str) -> dict[tuple[str, str, int], tuple[str, str, float]]:
    """(pixels, label, number among copies) -> (path, answer, its probability)."""
    answers: dict[tuple[str, str, int], tuple[str, str, float]] = {}
    copies: dict[tuple[str, str], int] = defaultdict(int)
    for each in record.evaluations:
        if each.split != split or each.probabilities is None or each.rows is None or each.labels is None:
            continue
        if record.manifest is None:
            continue
        names, given = each.metrics.names, predict(each.probabilities)
        for place, row in enumerate(each.rows):
            sample = record.manifest.samples[int(row)]
            key = (sample.pixels, names[int(each.labels[place])])
            probability = float(each.probabilities[place, given[place]])
            answers[*key, copies[key]] = sample.path, names[int(given[place])], probability
            copies[key] += 1
    return answers


def partings(
    a: RunRecord,
    b: RunRecord,
    *,
    split: str,
    names: Sequence[str],
    thumbnail: Thumbnail | None,
    pictures: int,
) -> Gallery:
    """Images that exactly one of two runs has right, the surest wrong answer first."""
    one, two = _answers(a, split), _answers(b, split)
    found = []
    for key, (path, first, p) in one.items():
        if key not in two:
            continue
        _, second, q = two[key]
        if (first == key[1]) != (second == key[1]):
            found.append((-(q if first == key[1] else p), path, key[1], (first, second), (p, q)))
    found.sort()
    shown = tuple(
        Parting(
            path,
            label,
            answers,
            probabilities,
            0 if answers[0] == label else 1,
            small_copy(thumbnail(path)) if thumbnail is not None and place < pictures else None,
        )
        for place, (_, path, label, answers, probabilities) in enumerate(found[:MOST_SHOWN])
    )
    return Gallery(names[0], names[1], shown, len(found))
