"""`convworks compare RUN RUN ...`: what was set differently, what came out, and whether it matters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import block, count, duration, fraction, table
from convworks.errors import EXIT_OK

if TYPE_CHECKING:
    from convworks.flows.compare import Comparison

MOST_CHANGES = 20
MOST_PAIRS = 10
LONGEST = 28  # characters of a value in the table of settings


@dataclass(frozen=True, kw_only=True)
class CompareFlags(OutputFlags):
    """Which runs."""

    runs: Annotated[tuple[Path, ...], Shown("RUN", "runs/photos-fastnet-01", positional=True)]
    """finished runs, or the group of `train --seeds 5`"""
    split: Annotated[Literal["val", "test"] | None, Shown("NAME", "val")] = None
    """val or test [test where all have it, else val]"""


def run(args: CompareFlags, console: Console) -> int:
    """Print settings, scores, pairs and notes, in this order."""
    from convworks.flows.compare import compare_runs
    from convworks.flows.ensemble_parts import expand

    found = compare_runs(expand(args.runs), split=args.split)
    console.document(found.to_dict())
    for line in lines(found, everything=console.verbose):
        console.answer(line)
    return EXIT_OK


def lines(found: Comparison, *, everything: bool) -> Iterator[str]:
    """The settings that differ, a row for each run, a row for each pair, the settings' means, the notes."""
    yield from change_lines(found, everything=everything)
    yield ""
    rows = [("run", "accuracy", "95 %", "bal.acc", "f1", "loss", "Brier", "ECE", "images", "time")]
    for row in found.rows:
        m = row.metrics
        low, high = m.top1_ci
        time = "-" if row.seconds is None else duration(row.seconds)
        scores = (fraction(m.balanced_accuracy), fraction(m.macro_f1), f"{m.loss:.4f}")
        sure = (fraction(m.brier), fraction(m.ece))
        rows.append((row.name, f"{m.top1:.4f}", f"{low:.3f}-{high:.3f}", *scores, *sure, f"{m.n:,}", time))
    yield from table(rows, right=range(1, 10))
    yield from block("", f"on {found.split}")
    yield ""
    yield from pair_lines(found, everything=everything)
    if len(found.settings) < len(found.rows):
        yield ""
        yield from setting_lines(found)
    yield ""
    for note in found.notes:
        yield from block("note", note)


def change_lines(found: Comparison, *, everything: bool) -> Iterator[str]:
    if not found.changes:
        yield "The runs have the same settings."
        return
    changes = list(found.changes.items())
    shown = changes if everything else changes[:MOST_CHANGES]
    columns = [
        [i for i, row in enumerate(found.rows) if row.setting == g] for g in range(len(found.settings))
    ]
    if len(columns) == 1 or len(columns) == len(found.rows):
        columns = [[i] for i in range(len(found.rows))]
    heads = [found.rows[runs[0]].name + f" and {len(runs) - 1} more" * (len(runs) > 1) for runs in columns]
    rows: list[tuple[str, ...]] = [("setting", *heads)]
    for key, values in shown:
        several = [list(dict.fromkeys(_value(values[i]) for i in runs)) for runs in columns]
        rows.append((key, *(_value(", ".join(each)) for each in several)))
    yield from table(rows)
    if len(changes) > len(shown):
        yield f"... {count(len(changes) - len(shown), 'setting')} more, all with --verbose"


def _value(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def pair_lines(found: Comparison, *, everything: bool) -> Iterator[str]:
    pairs = found.pairs if everything else found.pairs[:MOST_PAIRS]
    rows = [
        ("B minus A", "difference", "95 %", "p", "only A", "only B", "both wrong", "same answer", "images")
    ]
    for pair in pairs:
        d, c = pair.difference, pair.counts
        rows.append(
            (
                f"{pair.b} - {pair.a}",
                f"{d.difference:+.4f}",
                f"{d.low:+.4f} to {d.high:+.4f}",
                f"{d.p:.3g}",
                str(c.only_a),
                str(c.only_b),
                str(c.neither),
                f"{pair.same_answer / pair.images:.1%}",
                f"{pair.images:,}",
            )
        )
    yield from table(rows, right=range(1, 9))
    if len(found.pairs) > len(pairs):
        yield f"... {count(len(found.pairs) - len(pairs), 'pair')} more, all with --verbose"


def setting_lines(found: Comparison) -> Iterator[str]:
    """Mean and spread of runs that differ in the seed alone, and the difference of two such settings."""
    rows = [("setting", "runs", "mean accuracy", "standard deviation")]
    for number, each in enumerate(found.settings):
        deviation = "-" if each.deviation is None else f"{each.deviation:.4f}"
        rows.append((f"{number + 1} ({each.names[0]})", str(len(each.names)), f"{each.mean:.4f}", deviation))
    yield from table(rows, right=(1, 2, 3))
    for i, j, difference, low, high in found.between:
        if low > float("-inf"):
            text = f"{difference:+.4f}, 95 % {low:+.4f} to {high:+.4f} over seeds (Welch)"
            yield f"setting {j + 1} - setting {i + 1}: {text}"


VERB = Verb(
    name="compare",
    flags=CompareFlags,
    main=("split", "json", "verbose"),
    examples=(
        "convworks compare runs/shapes-lenet5-01 runs/shapes-lenet5-02",
        "convworks compare runs/photos-fastnet-01 runs/photos-resnet18-01 --split val",
    ),
    run=run,
)
