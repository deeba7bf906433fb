"""`convworks list WHAT`: the names that other commands take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from convworks import environment
from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import fraction, table
from convworks.errors import EXIT_OK, EXIT_STATUS, ConvworksError

if TYPE_CHECKING:
    from convworks.runs import Run

Row = dict[str, Any]
Kind = Literal["models", "recipes", "datasets", "protocols", "runs", "errors"]


@dataclass(frozen=True, kw_only=True)
class ListFlags(OutputFlags):
    """What to list."""

    what: Annotated[Kind, Shown("WHAT", "models", positional=True)]
    """models, recipes, datasets, protocols, runs or errors"""
    out: Annotated[Path, Shown("DIR", "runs")] = Path("runs")
    """folder of the runs"""
    data: Annotated[Path | None, Shown("DIR", "~/data")] = None
    """folder of named data sets (mnist, ...) [$CONVWORKS_DATA]"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """of downloads and prepared images [$CONVWORKS_CACHE]"""


def run(args: ListFlags, console: Console) -> int:
    """Print one table, or with --json a list of objects."""
    rows = LISTS[args.what](args)
    console.document(rows)
    if not rows:
        console.say(f"there are no runs in {args.out}")
        return EXIT_OK
    head = list(rows[0])
    texts = [head, *([_shown(row[key]) for key in head] for row in rows)]
    lines = table(texts, width=console.answer_width)
    for number, line in enumerate(lines):
        console.answer(line, style="bold" if number == 0 else "")
    return EXIT_OK


def _shown(value: Any) -> str:
    return fraction(value) if value is None or isinstance(value, float) else str(value)


def _models(args: ListFlags) -> list[Row]:
    from convworks import models

    rows = []
    for name in models.names():
        info = models.info(name)
        height, width = info.input_size
        shape = f"{info.in_channels} x {height} x {width}"
        rows.append({"name": name, "input": shape, "source": info.source, "summary": info.summary})
    return rows


def _recipes(args: ListFlags) -> list[Row]:
    from convworks.recipes.defaults import entry, names

    rows: list[Row] = []
    for each in map(entry, names()):
        facts = {"name": each.name, "source": each.source, "model": each.recipe.model, "data": each.data}
        rows.append({**facts, "claim": each.claim})
    return sorted(rows, key=lambda row: row["source"] != "ours")  # ours first, each part by name


def _datasets(args: ListFlags) -> list[Row]:
    from convworks.data.named import find_named, info, names
    from convworks.data.sources import BUILTIN

    rows = [{"name": name, "where": "built in", "size": "", "citation": ""} for name in BUILTIN]
    root, cache = environment.data_root(args.data), environment.cache_folder(args.cache)
    for name in names():
        row = info(name)
        try:
            where = str(find_named(name, data_root=root, cache=cache, offline=True))
        except ConvworksError as problem:
            where = "to be downloaded" if problem.code == "D161" else problem.what
        size = f"{row.size / 1e6:.1f} MB"
        rows.append({"name": name, "where": where, "size": size, "citation": row.citation})
    return rows


def _protocols(args: ListFlags) -> list[Row]:
    from convworks.evaluation.protocols import LADDERS, PROTOCOLS

    rows: list[Row] = []
    for each in PROTOCOLS.values():
        scales = "/".join(map(str, each.scales))
        facts = {"protocol": each.name, "views": each.views, "scales at 224": scales, "source": each.source}
        rows.append({**facts, "what": each.averaging if each.parts else each.summary})
    for name, parts in LADDERS.items():
        facts = {"protocol": name, "views": "", "scales at 224": "", "source": "several, one after the other"}
        rows.append({**facts, "what": ", ".join(parts)})
    return rows


def _runs(args: ListFlags) -> list[Row]:
    from convworks.runs import list_runs

    return [_run_row(each) for each in list_runs(args.out)]


def _run_row(run: Run) -> Row:
    from convworks.durable import read_json
    from convworks.runs import read_records, state_of

    try:
        record = run.record()
        done = read_json(run.finished_file) if run.finished else {}
    except ConvworksError:
        return {
            "name": run.name,
            "model": "-",
            "data": "-",
            "epochs": "-",
            "state": "damaged",
            "accuracy": None,
        }
    epochs = [each for each in read_records(run.metrics_file) if each.get("kind") == "epoch"]
    best = max(
        (each["val_accuracy"] for each in epochs if each.get("val_accuracy") is not None), default=None
    )
    return {
        "name": run.name,
        "model": record["recipe"].get("model", "-"),
        "data": record["data"].get("location", "-"),
        "epochs": f"{len(epochs)} of {record['recipe'].get('epochs', '-')}",
        "state": state_of(run),
        "accuracy": done.get("accuracy", best),
    }


def _errors(args: ListFlags) -> list[Row]:
    from convworks.error_codes import CODES

    rows: list[Row] = [
        {"code": code, "exit": EXIT_STATUS[code[0]], "meaning": meaning} for code, meaning in CODES.items()
    ]
    for status, what in ((1, "a fault of convworks"), (75, "stopped, resumable"), (130, "stopped at once")):
        rows.append({"code": "-", "exit": status, "meaning": what})
    return rows


LISTS: dict[str, Callable[[ListFlags], list[Row]]] = {
    "models": _models,
    "recipes": _recipes,
    "datasets": _datasets,
    "protocols": _protocols,
    "runs": _runs,
    "errors": _errors,
}

VERB = Verb(
    name="list",
    flags=ListFlags,
    main=("out", "data", "cache", "json"),
    examples=("convworks list models", "convworks list runs --out runs"),
    run=run,
)
