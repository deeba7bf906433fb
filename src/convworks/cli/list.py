"""`convworks list WHAT`: the names that other commands take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import table

Kind = Literal["models", "recipes", "datasets", "runs", "errors"]


@dataclass(frozen=True, kw_only=True)
class ListFlags(OutputFlags):
    """What to list."""

    what: Annotated[Kind, Shown("WHAT", "models", positional=True)]
    """models, recipes, datasets, runs or errors"""
    out: Annotated[Path, Shown("DIR", "runs")] = Path("runs")
    """folder of the runs"""
    data: Annotated[Path | None, Shown("DIR", "~/data")] = None
    """folder of named data sets, for datasets [$CONVWORKS_DATA]"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """folder of downloads, for datasets [$CONVWORKS_CACHE]"""


def run(args: ListFlags, console: Console) -> int:
    """Print one table, or with --json a list of objects."""
    rows = LISTS[args.what](args)
    console.document(rows)
    if not rows:
        console.say(f"no {args.what} in {args.out}" if args.what == "runs" else f"no {args.what}")
        return 0
    head = list(rows[0])
    for number, line in enumerate(table([head, *([row[key] for key in head] for row in rows)])):
        console.answer(line, style="bold" if number == 0 else "")
    return 0
