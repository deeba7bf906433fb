"""From a run folder to report.html: one file, no request to anywhere, readable without scripts.

The same run folder gives the same bytes. Every text that came from the data passes two gates: `printable`,
which shows control characters as escapes, and the template engine's HTML escaping.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convworks.durable import write_atomic
from convworks.evaluation.metrics import Metrics
from convworks.report.charts import curves
from convworks.report.notes import result_notes, split_name, training_notes
from convworks.report.pictures import Mistake, Thumbnail, mistakes
from convworks.report.read import EpochRecord, Evaluation, RunRecord, read_run
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
)
from convworks.report.text import count, interval, printable, share, weakest, weakest_words

LARGEST = 5_000_000  # bytes of a report


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of the mistakes is shown."""

    pictures: int
    listed: int


# Tried in this order until the page is small enough.
AMOUNTS = (Amount(40, 400), Amount(40, 40), Amount(20, 20), Amount(0, 40), Amount(0, 0))


def write_report(run: Path, *, thumbnail: Thumbnail | None = None) -> Path:
    """Write `report.html` into a run folder and return its path.

    `thumbnail` gives the pixels (H, W, 1 or 3) of a path of the manifest, or None where there are none;
    without it the report has no pictures. What the run does not have yet is left out. Raises A401, A410,
    A440-A442, A460, A462 or A463 where the folder is damaged, and OSError where the report cannot be written.
    """
    record = read_run(run)
    path = record.path / "report.html"
    write_atomic(path, render(record, thumbnail=thumbnail).encode("utf-8"))
    return path


def render(run: RunRecord, *, thumbnail: Thumbnail | None = None) -> str:
    """The page as text, with as many mistakes as fit into LARGEST bytes."""
    template = templates().get_template("page.html")
    evaluation = run.evaluations[0] if run.evaluations else None
    wrong: list[Mistake] = []
    if evaluation is not None:
        most = AMOUNTS[0]
        wrong = mistakes(
            evaluation, run.manifest, most=most.listed, pictures=most.pictures, thumbnail=thumbnail
        )
    page = ""
    context = _context(run, evaluation)
    for amount in AMOUNTS:
        page = template.render(**context, **_errors(evaluation, _reduced(wrong, amount)))
        if len(page.encode("utf-8")) <= LARGEST:
            break
    return page


def templates() -> Environment:
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
        each if place < amount.pictures else replace(each, picture=None) for place, each in enumerate(kept)
    ]


def _context(run: RunRecord, evaluation: Evaluation | None) -> dict[str, Any]:
    kept = run.epochs[run.kept_epoch] if run.kept_epoch is not None else None
    return {
        "title": run.name,
        "lead": _lead(run),
        "score": _score(evaluation, run) if evaluation else None,
        "others": [(split_name(each.split), each.metrics) for each in run.evaluations[1:]],
        "so_far": _so_far(run),
        "notes": _notes(run, evaluation, kept),
        "data": data_table(run.manifest) if run.manifest else None,
        "charts": [(chart.title, Markup(chart.svg), chart.caption) for chart in curves(run)],
        "settings": settings(run),
        "plan": plan_table(run.plan),
        "command": command_line(run),
        "facts": facts(run),
        "environment": environment(run),
    }


def _lead(run: RunRecord) -> list[str]:
    parts = [f"{run.recipe['model']}"] if "model" in run.recipe else []
    if run.manifest is not None:
        ready = sum(run.manifest.count().values())
        parts += [count(ready, "image"), count(len(run.manifest.classes), "class", "classes")]
    if run.epochs:
        parts.append(count(len(run.epochs), "epoch"))
    return parts


def _score(evaluation: Evaluation, run: RunRecord) -> dict[str, Any]:
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
    }


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


def _notes(run: RunRecord, evaluation: Evaluation | None, kept: EpochRecord | None) -> list[str]:
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
            train_accuracy=kept.train_accuracy if kept else None,
        )
    epochs, finished = run.recipe.get("epochs"), (run.path / "finished.json").is_file()
    open_ended = finished or run.recipe.get("early_stopping") is not None
    planned = epochs if isinstance(epochs, int) and not open_ended else None
    return notes + training_notes(run.epochs, planned=planned, run=shlex.quote(str(run.path)))


def _errors(evaluation: Evaluation | None, wrong: list[Mistake]) -> dict[str, Any]:
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
            "listed": [each for each in wrong if not each.picture],
            "shown": len(wrong),
            "total": metrics.n - int(metrics.confusion.trace()),
        }
    }
