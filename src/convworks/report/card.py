"""A model card in Markdown, from the facts of a run alone: a part without facts has no heading.

The form follows Mitchell et al., "Model cards for model reporting", FAT* 2019, as far as a run folder knows
it. What a network is meant for, and for whom it is not, only its maker knows; nothing is made up here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from convworks.evaluation.calibration import calibration_from_dict
from convworks.report.copies import copies
from convworks.report.lights import GOOD, lights
from convworks.report.notes import split_name
from convworks.report.provenance import paper
from convworks.report.read import Evaluation, RunRecord
from convworks.report.tables import command_line, data_table, environment, facts, settings
from convworks.report.text import count, interval, printable, share, verdict

MOST_CLASSES = 100
WEAKEST = 10


def model_card(run: RunRecord) -> str:
    """The card as text: the same run gives the same bytes."""
    evaluation = next((each for each in run.evaluations if each.plain), None)
    found = list(_front(run, evaluation))
    found += [f"# {_inline(run.name)}", ""]
    for title, lines in (
        ("Model", _model(run)),
        ("Results", _results(run)),
        ("Weakest classes", _weakest(evaluation)),
        ("Look here", _lights(run, evaluation)),
        ("Data", _data(run)),
        ("Training", _training(run)),
        ("Reproduce", _reproduce(run)),
    ):
        body = list(lines)
        if body:
            found += [f"## {title}", "", *body, ""]
    return "\n".join(found).rstrip("\n") + "\n"


def _front(run: RunRecord, evaluation: Evaluation | None) -> Iterator[str]:
    """Front matter: YAML whose strings are JSON strings, which YAML reads as they are."""
    rows: dict[str, Any] = {"name": run.name}
    if "model" in run.recipe:
        rows["model"] = run.recipe["model"]
    rows |= {key: run.model[key] for key in ("parameters",) if key in run.model}
    if run.manifest is not None:
        rows |= {"data": run.manifest.name, "manifest_sha256": run.manifest.sha256}
        rows["classes"] = len(run.manifest.classes)
    if evaluation is not None:
        m = evaluation.metrics
        rows |= {"split": evaluation.split, "protocol": evaluation.protocol, "images": m.n}
        rows |= {"accuracy": round(m.top1, 6), "accuracy_95": [round(each, 6) for each in m.top1_ci]}
        rows["balanced_accuracy"] = round(m.balanced_accuracy, 6)
    if "seed" in run.recipe:
        rows["seed"] = run.recipe["seed"]
    yield "---"
    for key, value in rows.items():
        text = (
            json.dumps(printable(value), ensure_ascii=False) if isinstance(value, str) else json.dumps(value)
        )
        yield f"{key}: {text}"
    yield "---"
    yield ""


def _inline(text: Any) -> str:
    """A name as Markdown shows it literally."""
    shown = printable(str(text), limit=200)
    return "".join(f"\\{each}" if each in "\\`*_[]<>#|!&~" else each for each in shown).replace("\n", " ")


def _code(text: str) -> str:
    """Inline code whatever is in it."""
    shown = printable(text)
    fence = "`" * (
        max([len(run) for run in "".join(c if c == "`" else " " for c in shown).split()] or [0]) + 1
    )
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield f"| {' | '.join(heads)} |"
        yield f"|{'---|' * len(heads)}"
        for row in rows:
            yield f"| {' | '.join(row)} |"


def _model(run: RunRecord) -> Iterator[str]:
    if "model" in run.recipe:
        yield f"- architecture: {_inline(run.recipe['model'])}"
    if isinstance(run.model.get("parameters"), int):
        yield f"- parameters: {run.model['parameters']:,}"
    shape = run.model.get("input")
    if isinstance(shape, dict) and {"height", "width", "channels"} <= set(shape):
        yield f"- input: {shape['height']} x {shape['width']} pixels, {count(shape['channels'], 'channel')}"
    classes = run.model.get("classes")
    if isinstance(classes, list) and classes:
        shown = ", ".join(_inline(each) for each in classes[:MOST_CLASSES])
        more = f" and {len(classes) - MOST_CLASSES} more" if len(classes) > MOST_CLASSES else ""
        yield f"- classes ({len(classes)}): {shown}{more}"
    if run.recipe.get("pretrained"):
        yield f"- began from the weights {_inline(run.recipe['pretrained'])}: external data"
    stored = calibration_from_dict(run.model.get("calibration"))
    if stored is not None:
        of = f"{count(stored.n, 'image')} of {_inline(stored.split)}"
        yield f"- temperature {stored.temperature:.4f}, fitted on {of}"


def _results(run: RunRecord) -> Iterator[str]:
    rows = [
        (
            _inline(split_name(each.split.partition(", ")[0])),
            _inline(each.protocol),
            f"{each.metrics.n:,}",
            share(each.metrics.top1),
            interval(each.metrics.top1_ci),
            share(each.metrics.balanced_accuracy),
            f"{each.metrics.loss:.4f}",
            "-" if each.metrics.ece is None else share(each.metrics.ece),
        )
        for each in run.evaluations
    ]
    heads = ("set", "protocol", "images", "accuracy", "95 %", "balanced", "loss", "ECE")
    yield from _table(heads, rows)
    if run.evaluations:
        yield ""
        yield f"{_inline('; '.join(verdict(run.evaluations[0].metrics)))}."
        if run.evaluations[0].split == "val" and run.recipe.get("keep") != "last" and len(run.epochs) > 1:
            yield "The best epoch was chosen on these same images, so the numbers are a little too kind."


def _weakest(evaluation: Evaluation | None) -> Iterator[str]:
    if evaluation is None:
        return
    missed = [each for each in evaluation.metrics.classes if each.recall is not None and each.recall < 1]
    missed.sort(key=lambda each: (each.recall or 0.0, -each.n))
    yield from _table(
        ("class", "images", "recall", "95 %", "precision"),
        [
            (
                _inline(each.name),
                f"{each.n:,}",
                share(each.recall or 0.0),
                interval(each.recall_ci),
                "-" if each.precision is None else share(each.precision),
            )
            for each in missed[:WEAKEST]
        ],
    )


def _lights(run: RunRecord, evaluation: Evaluation | None) -> Iterator[str]:
    for light in lights(run, evaluation, copies(run.manifest) if run.manifest else None):
        if light.answer != GOOD:
            yield f"- {light.question} {light.answer}: {_inline(light.words)}"


def _data(run: RunRecord) -> Iterator[str]:
    if run.manifest is None:
        return
    data = data_table(run.manifest)
    yield f"- source: {_inline(run.manifest.location)} ({_inline(run.manifest.layout)})"
    split = ", ".join(f"{name} {total:,}" for name, total in zip(data.splits, data.totals, strict=True))
    yield f"- images: {data.images:,} ({split})"
    if data.sizes:
        yield f"- size: {data.sizes}"
    if run.manifest.split_rule:
        yield f"- split: {_inline(run.manifest.split_rule)}"
    if data.left_out_count:
        reasons = "; ".join(f"{n:,} {_inline(reason)}" for reason, n in data.reasons)
        yield f"- left out: {data.left_out_count:,} ({reasons})"


def _training(run: RunRecord) -> Iterator[str]:
    if run.compliance:
        yield f"- {_inline(run.compliance)}"
    source = paper(run)
    if source is not None and source.line:
        yield f"- source: {_inline(source.line)}"
    if run.epochs:
        yield f"- epochs: {len(run.epochs)}"
    if run.overrides:
        yield f"- changed on the way: {_inline(', '.join(run.overrides))}"
    chosen = [row for row in settings(run) if row.chosen]
    if chosen:
        yield ""
        yield from _table(
            ("setting", "value", "from"),
            [(_inline(row.key), _inline(row.value), _inline(row.source)) for row in chosen],
        )


def _reproduce(run: RunRecord) -> Iterator[str]:
    if run.command:
        yield f"- command: {_code(command_line(run))}"
    for name, value in (*facts(run), *environment(run)):
        yield f"- {_inline(name)}: {_inline(value)}"
