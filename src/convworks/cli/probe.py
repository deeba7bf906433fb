"""`convworks probe MODEL DATA`: what a linear classifier reads off the features of each stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from convworks.cli.common import data_request
from convworks.cli.console import Console
from convworks.cli.flags import Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import LABEL, block, count, duration, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.flows.probe import ProbeReport

HEADER = ("layer", "features", "kind", "penalty", "train_accuracy", "accuracy", "low", "high")


@dataclass(frozen=True, kw_only=True)
class ProbeFlags(SourceFlags):
    """Which model, on what."""

    model: Annotated[Path, Shown("MODEL", "runs/photos-fastnet-01", positional=True)]
    """folder of a finished run, or of a model"""
    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """labelled images, of any classes"""
    images: Annotated[int, Shown("N", "2000"), Ge(1)] = 2000
    """training images used at the most, and as many to measure"""
    csv: Annotated[Path | None, Shown("FILE", "probe.csv")] = None
    """write the table into a file"""


def run(args: ProbeFlags, console: Console) -> int:
    """Print a row for each stage; 0, or 75 where it was stopped."""
    from convworks.cli.tables import check_writable, write_csv

    if args.csv is not None:
        check_writable(args.csv, HEADER)
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError
        from convworks.flows.probe import ProbeRequest, probe

        request = ProbeRequest(model=args.model, data=data_request(args, args.source), images=args.images)
        try:
            found = probe(request, should_stop=stop)
        except (ScanInterrupted, StoppedEarlyError):
            console.say("Stopped; nothing was written.")
            return EXIT_INTERRUPTED
    if args.csv is not None:
        rows = [
            (r.layer, r.features, r.kind, r.penalty, r.train_accuracy, r.accuracy, *r.interval)
            for r in found.rows
        ]
        write_csv(args.csv, HEADER, rows)
        console.say(f"{'table':<{LABEL}}{args.csv}")
    console.document({"model": str(args.model), "data": args.source, **found.to_dict()})
    _print(found, console)
    return EXIT_OK


def _print(found: ProbeReport, console: Console) -> None:
    for warning in found.warnings:
        console.warn(warning)
    rows = [("layer", "features", "", "accuracy", "95 %", "on train", "penalty")]
    for row in found.rows:
        low, high = row.interval
        rows.append(
            (
                row.layer,
                f"{row.features:,}",
                row.kind,
                f"{row.accuracy:.3f}",
                f"{low:.3f}-{high:.3f}",
                f"{row.train_accuracy:.3f}",
                f"{row.penalty:g}",
            )
        )
    for number, line in enumerate(table(rows, right=(1, 3, 4, 5, 6))):
        console.answer(line, style="bold" if number == 0 else "")
    best = max(found.rows, key=lambda row: row.accuracy)
    text = f"{best.layer} separates the {count(len(found.classes), 'class')} best: {best.accuracy:.3f}"
    if found.own is not None and found.own_interval is not None:
        low, high = found.own_interval
        text += f"; the network's own answers {found.own:.3f} (95 % {low:.3f}-{high:.3f})"
    console.answer()
    for line in block("found", text):
        console.answer(line)
    console.say(
        f"{count(found.train, 'image')} to learn from, {found.val:,} to measure on, {duration(found.seconds)}"
    )


VERB = Verb(
    name="probe",
    flags=ProbeFlags,
    main=("images", "csv", "labels", "data", "json"),
    examples=(
        "convworks probe runs/photos-fastnet-01 photos/",
        "convworks probe runs/photos-fastnet-01 other/ --csv probe.csv",
    ),
    run=run,
)
