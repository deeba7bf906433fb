"""`convworks lr-plot RECIPE|RUN`: the learning rate over a whole run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import block, folder
from convworks.errors import EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.report.rate_chart import Curve

MARKS = {".svg": b"<?xml", ".png": b"\x89PNG"}  # by which a file is known as one of ours
LISTED = 500  # points of the curve in --json


@dataclass(frozen=True, kw_only=True)
class LrPlotFlags(OutputFlags):
    """Which schedule, over which run."""

    subject: Annotated[str, Shown("RECIPE|RUN", "fastnet", positional=True)]
    """a recipe's name or a run's folder"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "schedule.name=step")] = ()
    """one setting, see: convworks train --help-all"""
    images: Annotated[int | None, Shown("N", "1281167"), Ge(1)] = None
    """training images [the run's, or 50,000]"""
    out: Annotated[Path | None, Shown("FILE", "lr.svg")] = None
    """picture (.svg, .png) or table (.csv) of the rate"""


def run(args: LrPlotFlags, console: Console) -> int:
    """Print what there is to know of the rate, and its curve."""
    if args.out is not None:
        check_out(args.out)
    from convworks.flows.learning_rate import rate_curve
    from convworks.report.rate_chart import text_curve

    found = rate_curve(args.subject, assignments=args.set, images=args.images)
    every = max(1, len(found.steps) // LISTED)
    console.document(
        {
            "name": found.name,
            "steps_per_epoch": found.steps_per_epoch,
            "facts": dict(found.facts),
            "steps": found.steps[::every].astype(int).tolist(),
            "rates": found.rates[::every].tolist(),
        }
    )
    for label, text in found.facts.items():
        for line in block(label, text):
            console.answer(line)
    console.answer()
    for line in text_curve(found.curve()):
        console.answer(line)
    if args.out is not None:
        write_curve(args.out, found.curve(), f"{found.name}: learning rate", console)
    return EXIT_OK


def check_out(path: Path) -> None:
    """Before the work. Raises U181 for a suffix that says no format, R503 where there is no such folder, and
    U006 where another file would be lost."""
    from convworks.report.rate_chart import check_suffix

    suffix = check_suffix(path.name)
    if not path.parent.is_dir():
        raise ConvworksError(
            "R503", f"cannot write {path}: there is no such folder", try_=f"--out {path.name}"
        )
    if path.is_dir():
        raise ConvworksError("U006", f"{path} is a folder", try_=f"--out {path / ('lr' + suffix)}")
    if not path.exists():
        return
    with path.open("rb") as file:
        first = file.read(64)
    ours = (
        first.startswith(MARKS[suffix])
        if suffix in MARKS
        else first.startswith((b"step,epoch,", b"learning rate,"))
    )
    if first and not ours:
        raise ConvworksError(
            "U006",
            f"{path} exists, and is nothing that this command wrote",
            why="it would be lost",
            try_=f"--out {path.with_name('new-' + path.name)}",
        )


def write_curve(path: Path, curve: Curve, title: str, console: Console) -> None:
    """Write the picture or table whole, and say so. Raises R503."""
    from convworks.durable import write_atomic
    from convworks.report.rate_chart import check_suffix, drawn

    try:
        write_atomic(path, drawn(curve, suffix=check_suffix(path.name), title=title))
    except OSError as problem:
        raise ConvworksError("R503", f"cannot write {path}: {problem.strerror or problem}") from problem
    console.say(f"wrote {folder(path)}")


VERB = Verb(
    name="lr-plot",
    flags=LrPlotFlags,
    main=("set", "images", "out", "json"),
    examples=(
        "convworks lr-plot fastnet",
        "convworks lr-plot tutorial_cnn --set schedule.name=warm-restarts --out lr.svg",
    ),
    run=run,
)
