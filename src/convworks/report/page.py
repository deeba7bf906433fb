"""From a run folder to report.html: one file, no request to anywhere, readable without scripts.

The same run folder gives the same bytes. Every text that came from the data passes two gates: `printable`,
which shows control characters as escapes, and the template engine's HTML escaping. A section without facts is
left out, and the others keep their numbers.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convworks.durable import write_atomic
from convworks.evaluation.metrics import Metrics
from convworks.report.charts import curves, units
from convworks.report.colours import colours
from convworks.report.copies import copies
from convworks.report.exports import downloads
from convworks.report.heat import Heats, with_heat
from convworks.report.inside import inside, model_of
from convworks.report.latency import speed
from convworks.report.lights import lights
from convworks.report.notes import result_notes, split_name, training_notes
from convworks.report.pictures import Augmented, Mistake, Thumbnail, mistakes, small_copy
from convworks.report.protocol_table import evaluations, protocols
from convworks.report.provenance import checkpoints, next_steps, paper, where_printed
from convworks.report.read import Evaluation, RunRecord, read_run
from convworks.report.slices import slices
from convworks.report.sureness import sureness
from convworks.report.suspects import suspects
from convworks.report.tables import (
    class_rows,
    command_line,
    confused_pairs,
    confusion_cells,
    data_table,
    environment,
    facts,
    plan_table,
    settings,
    size,
)
from convworks.report.text import count, interval, printable, share, weakest, weakest_words
from convworks.report.warned import warned

LARGEST = 5_000_000  # bytes of a report
SUSPECT_PICTURES = 24

SECTIONS = (
    "Verdict",
    "Data",
    "Curves",
    "Errors",
    "Label suspects",
    "Slices",
    "Calibration and thresholds",
    "Inside the model",
    "Recipe and deviations",
    "Reproduce",
)
IDS = (
    *("verdict", "data", "curves", "errors", "suspects", "slices", "calibration", "inside", "recipe"),
    "reproduce",
)


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of the mistakes is shown."""

    pictures: int
    listed: int
    heats: int = 0  # mistakes with Grad-CAM, among those with pictures


# Tried in this order until the page is small enough.
AMOUNTS = (
    *(Amount(40, 400, 40), Amount(40, 400, 12), Amount(40, 400), Amount(40, 40), Amount(20, 20)),
    *(Amount(0, 40), Amount(0, 0)),
)


@dataclass(frozen=True, slots=True)
class Extras:
    """What the run folder does not hold."""

    thumbnail: Thumbnail | None = None
    augmented: tuple[Augmented, ...] = ()
    human_error: float | None = None  # a share


def write_report(
    run: Path,
    *,
    thumbnail: Thumbnail | None = None,
    augmented: Sequence[Augmented] = (),
    human_error: float | None = None,
) -> Path:
    """Write `report.html` into a run folder and return its path.

    `thumbnail` gives the pixels (H, W, 1 or 3) of a path of the manifest, or None where there are none;
    without it the report has no pictures of images. `augmented` are some training images as the network saw
    them, `human_error` the share of images that people get wrong, for comparison. What the run does not have
    yet is left out. Raises A401, A410, A440-A442, A460, A462, A463, A475 or A495 where the folder is
    damaged, and OSError where the report cannot be written.
    """
    record = read_run(run)
    path = record.path / "report.html"
    text = render(record, thumbnail=thumbnail, augmented=augmented, human_error=human_error)
    write_atomic(path, text.encode("utf-8"))
    return path


def render(
    run: RunRecord,
    *,
    thumbnail: Thumbnail | None = None,
    augmented: Sequence[Augmented] = (),
    human_error: float | None = None,
) -> str:
    """The page as text, with as many mistakes as fit into LARGEST bytes."""
    template = templates().get_template("page.html")
    extras = Extras(thumbnail, tuple(augmented), human_error)
    evaluation = next((each for each in run.evaluations if each.plain), None)
    wrong: list[Mistake] = []
    heats: Heats | None = None
    bundle = model_of(run)
    if evaluation is not None:
        most = AMOUNTS[0]
        wrong = mistakes(
            evaluation, run.manifest, most=most.listed, pictures=most.pictures, thumbnail=thumbnail
        )
        wrong, heats = with_heat(wrong, bundle, evaluation.metrics.names, thumbnail=thumbnail)
    page = ""
    context = _context(run, evaluation, extras)
    context["inside"] = inside(bundle, run, evaluation, thumbnail=thumbnail)
    for amount in AMOUNTS:
        parts = context if amount.pictures else _without_pictures(context)
        parts = parts | _errors(evaluation, _reduced(wrong, amount), heats)
        page = template.render(**parts, sections=_sections(parts))
        if len(page.encode("utf-8")) <= LARGEST:
            break
    return page


def _sections(parts: dict[str, Any]) -> list[tuple[int, str, str]]:
    """(number, id, title) of the sections that have something to say."""
    there = {
        "verdict": True,
        "reproduce": bool(parts["command"] or parts["facts"] or parts["environment"] or parts["warned"]),
        "curves": bool(parts["charts"]),
        "recipe": bool(parts["settings"] or parts["plan"]),
    }
    return [
        (number, name, title)
        for number, (name, title) in enumerate(zip(IDS, SECTIONS, strict=True), 1)
        if there.get(name, bool(parts.get(name)))
    ]


def _without_pictures(context: dict[str, Any]) -> dict[str, Any]:
    found, within = context["suspects"], context["inside"]
    rows = () if found is None else tuple(replace(row, picture=None) for row in found.rows)
    return context | {
        "batch": [],
        "inside": None if within is None else replace(within, looks=None),
        "suspects": None if found is None else replace(found, rows=rows),
    }


@cache
def templates() -> Environment:
    """Those of all pages; each is compiled once in a process."""
    environment = Environment(
        loader=PackageLoader("convworks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"share": share, "interval": interval, "cut": _cut}
    environment.globals["count"] = count
    return environment


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _cut(text: str, limit: int = 80) -> str:
    return printable(text, limit=limit)


def _reduced(wrong: list[Mistake], amount: Amount) -> list[Mistake]:
    kept = wrong[: amount.listed]
    return [
        replace(
            each,
            picture=each.picture if place < amount.pictures else None,
            heats=each.heats if place < amount.heats else (),
        )
        for place, each in enumerate(kept)
    ]


def _context(run: RunRecord, evaluation: Evaluation | None, extras: Extras) -> dict[str, Any]:
    found = copies(run.manifest) if run.manifest else None
    printed = where_printed(run)
    return {
        "title": run.name,
        "lead": _lead(run),
        "score": _score(evaluation, run, extras.human_error) if evaluation else None,
        "ladder": evaluations(run),
        "protocols": protocols(run),
        "speed": speed(run),
        "so_far": _so_far(run),
        "lights": lights(run, evaluation, found),
        "notes": _notes(run, evaluation),
        "data": data_table(run.manifest) if run.manifest else None,
        "colours": colours(run.manifest, extras.thumbnail) if run.manifest else None,
        "copies": found,
        "batch": [(each, small_copy(each.pixels)) for each in extras.augmented],
        "charts": _charts(run, extras.human_error),
        "downloads": downloads(run),
        "suspects": suspects(
            run.evaluations, run.manifest, pictures=SUSPECT_PICTURES, thumbnail=extras.thumbnail
        ),
        "slices": slices(evaluation, run.manifest, thumbnail=extras.thumbnail) if evaluation else [],
        "calibration": sureness(run, evaluation) if evaluation else None,
        "settings": [(row, printed(row.key)) for row in settings(run)],
        "compliance": run.compliance,
        "paper": paper(run),
        "plan": plan_table(run.plan),
        "command": command_line(run),
        "facts": facts(run),
        "checkpoints": checkpoints(run),
        "next_steps": next_steps(run),
        "warned": warned(run),
        "environment": environment(run),
    }


def _charts(run: RunRecord, human_error: float | None) -> list[tuple[str, list[tuple[Markup, str]]]]:
    """(unit of the horizontal axis, its charts); the same charts for each unit."""
    found = [
        (unit, [(Markup(each.svg), each.caption) for each in curves(run, unit=unit, human_error=human_error)])
        for unit in units(run)
    ]
    return [each for each in found if each[1]]


def _lead(run: RunRecord) -> list[str]:
    parts = [f"{run.recipe['model']}"] if "model" in run.recipe else []
    if run.manifest is not None:
        ready = sum(run.manifest.count().values())
        parts += [count(ready, "image"), count(len(run.manifest.classes), "class", "classes")]
    if run.epochs:
        parts.append(count(len(run.epochs), "epoch"))
    return parts


def _score(evaluation: Evaluation, run: RunRecord, human_error: float | None) -> dict[str, Any]:
    """The result in numbers, for the head of the page."""
    metrics, place = evaluation.metrics, run.kept_epoch
    train = None if place is None else run.epochs[place].train_accuracy
    weights = "averaged weights" if evaluation.weights == "average" else "weights"
    after = "" if place is None else f" after epoch {place + 1} of {len(run.epochs)}"
    return {
        "metrics": metrics,
        "split": split_name(evaluation.split),
        "weights": f"the {weights}{after}",
        "train_accuracy": train,
        "gap": None if train is None else train - metrics.top1,
        "weakest": weakest(metrics),
        "sentence": _sentence(metrics),
        "basis": _basis(run, evaluation),
        "people": "" if human_error is None else _people(metrics, human_error),
        "size": _model_size(run),
        "speed": _speed(run),
    }


def _basis(run: RunRecord, evaluation: Evaluation) -> str:
    """Whose number this is: protocol, one network or several, other people's data or not."""
    words = f"Protocol {evaluation.protocol}: one view of each image, one network. "
    external = run.recipe.get("pretrained")
    if external:
        return words + f"Training began from the weights {printable(str(external), limit=60)}: external data."
    return words + "No external data."


def _people(metrics: Metrics, human_error: float) -> str:
    """The error beside that of people."""
    low, high = (1 - each for each in reversed(metrics.top1_ci))
    error = 1 - metrics.top1
    if low <= human_error <= high:
        words = "which the interval holds: no difference is shown"
    else:
        words = "which is fewer than people" if error < human_error else "which is more than people"
    return (
        f"People get {100 * human_error:.2f} % of such images wrong (given with --human-error); this network "
        f"{100 * error:.2f} % ({100 * low:.2f} to {100 * high:.2f}), {words}."
    )


def _model_size(run: RunRecord) -> str:
    weights = run.path / "model" / "weights.safetensors"
    return size(weights.stat().st_size) if weights.is_file() else ""


def _speed(run: RunRecord) -> str:
    rate = run.plan.get("images_per_second")
    return f"{rate:,.0f} images/s" if isinstance(rate, int | float) and rate else ""


def _sentence(metrics: Metrics) -> str:
    worst = weakest_words(metrics)
    return 'The weakest class is "{}": {}.'.format(*worst) if worst else "Every image was answered rightly."


def _so_far(run: RunRecord) -> str:
    """What is known of a run that was not evaluated yet."""
    known = [
        (each.val_accuracy, place)
        for place, each in enumerate(run.epochs, 1)
        if each.val_accuracy is not None
    ]
    if not known:
        return f"{count(len(run.epochs), 'epoch')} done, not evaluated yet."
    accuracy, place = max(known, key=lambda each: each[0])
    return (
        f"{count(len(run.epochs), 'epoch')} done, not evaluated yet. Best validation accuracy so far: "
        f"{share(accuracy)}, after epoch {place}."
    )


def _notes(run: RunRecord, evaluation: Evaluation | None) -> list[str]:
    notes: list[str] = []
    if run.overrides:
        changed = ", ".join(run.overrides)
        notes.append(f"Changed while the run was stopped: {changed}. No single recipe gives this result.")
    if evaluation is not None:
        chosen = evaluation.split == "val" and run.recipe.get("keep") != "last" and len(run.epochs) > 1
        notes += result_notes(
            evaluation.metrics,
            split=evaluation.split,
            chosen_here=chosen,
        )
    epochs, finished = run.recipe.get("epochs"), (run.path / "finished.json").is_file()
    open_ended = finished or run.recipe.get("early_stopping") is not None
    planned = epochs if isinstance(epochs, int) and not open_ended else None
    return notes + training_notes(run.epochs, planned=planned, run=shlex.quote(str(run.path)))


def _errors(evaluation: Evaluation | None, wrong: list[Mistake], heats: Heats | None) -> dict[str, Any]:
    """Confusion, classes and mistakes: the parts whose size depends on how many mistakes are shown."""
    if evaluation is None:
        return {"errors": None}
    metrics: Metrics = evaluation.metrics
    anchors = {each.anchor for each in wrong}
    pictured = [each for each in wrong if each.picture]
    return {
        "errors": {
            "names": metrics.names,
            "split": split_name(evaluation.split),
            "cells": confusion_cells(metrics, anchors=anchors),
            "pairs": confused_pairs(metrics, anchors=anchors),
            "classes": class_rows(metrics),
            "unlisted": len(metrics.classes) - len(class_rows(metrics)),
            "pictured": pictured,
            "heats": heats,
            "heated": sum(1 for each in wrong if each.heats),
            "listed": [each for each in wrong if not each.picture],
            "shown": len(wrong),
            "total": metrics.n - int(metrics.confusion.trace()),
        }
    }
