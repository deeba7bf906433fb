"""`convworks demo NAME`: a small experiment of the lectures, measured here and now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt

from convworks.cli.console import Console
from convworks.cli.flags import SEED_LIMIT, OutputFlags, Shown, Verb
from convworks.cli.text import block, duration, table
from convworks.errors import EXIT_OK


@dataclass(frozen=True, kw_only=True)
class DemoFlags(OutputFlags):
    """Which demonstration, and how large."""

    name: Annotated[str, Shown("NAME", "pooling", positional=True)]
    """a demonstration, or list for all of them"""
    seed: Annotated[int, Shown("N", "0"), Ge(0), Lt(SEED_LIMIT)] = 0
    """of the data, the weights and the order"""
    quick: bool = False
    """fewer steps and images: a few seconds"""


def run(args: DemoFlags, console: Console) -> int:
    """Print one table and what it is held against; raises U101 for an unknown name."""
    from convworks.demos import DEMOS, demo

    if args.name == "list":
        rows = [{"name": each.name, "title": each.title} for each in DEMOS.values()]
        console.document(rows)
        _table([("name", "title"), *((row["name"], row["title"]) for row in rows)], (), console)
        return EXIT_OK
    import time

    from convworks.demos.result import number

    chosen = demo(args.name)
    start = time.perf_counter()
    console.say(f"{chosen.title} ...")
    result = chosen.run(seed=args.seed, quick=args.quick)
    seconds = time.perf_counter() - start
    console.document(
        {
            "name": chosen.name,
            "title": chosen.title,
            "seed": args.seed,
            "quick": args.quick,
            "lecture": result.lecture,
            "found": result.found,
            "rows": [dict(zip(result.columns, row, strict=True)) for row in result.rows],
        }
    )
    texts = [result.columns, *(tuple(number(cell) for cell in row) for row in result.rows)]
    _table(texts, tuple(range(1, len(result.columns))), console)
    console.answer()
    for label, text in (("lecture", result.lecture), ("found", result.found)):
        for line in block(label, text, width=max(80, console.answer_width or 100)):
            console.answer(line)
    console.say(f"seed {args.seed}, {duration(seconds)}")
    return EXIT_OK


def _table(rows: list[tuple[str, ...]], right: tuple[int, ...], console: Console) -> None:
    for at, line in enumerate(table(rows, right=right)):
        console.answer(line, style="bold" if at == 0 else "")


def _names() -> list[str]:
    from convworks.cli.help import settings_lines
    from convworks.demos import DEMOS

    return ["Demonstrations", *settings_lines((each.name, each.title) for each in DEMOS.values())]


VERB = Verb(
    name="demo",
    flags=DemoFlags,
    main=("seed", "quick", "json"),
    examples=("convworks demo list", "convworks demo shifts --quick"),
    run=run,
    more=_names,
)
