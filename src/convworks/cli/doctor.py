"""`convworks doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from convworks import environment
from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import count, table
from convworks.errors import EXIT_OK, ConvworksError

STYLES = {"ok": "", "note": "yellow", "problem": "bold red"}


@dataclass(frozen=True, kw_only=True)
class DoctorFlags(OutputFlags):
    """Which folders to look at."""

    out: Annotated[Path, Shown("DIR", "runs")] = Path("runs")
    """folder of the runs"""
    data: Annotated[Path | None, Shown("DIR", "~/data")] = None
    """folder of named data sets (mnist, ...) [$CONVWORKS_DATA]"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """of downloads and prepared images [$CONVWORKS_CACHE]"""


def run(args: DoctorFlags, console: Console) -> int:
    """Print every finding. Raises R540 where one of them would make work fail."""
    from convworks.flows.doctor import examine

    console.live("looking at this machine ...")
    findings = examine(
        out=args.out,
        cache=environment.cache_folder(args.cache),
        data_root=environment.data_root(args.data),
    )
    console.document(findings)
    lines = table([(each.verdict, each.topic, each.value) for each in findings])
    for each, line in zip(findings, lines, strict=True):
        console.answer(line, style=STYLES[each.verdict])
        if each.advice:
            console.answer(f"         {each.advice}")
    problems = [each for each in findings if each.verdict == "problem"]
    if problems:
        raise ConvworksError(
            "R540",
            f"{count(len(problems), 'problem')}: {', '.join(each.topic for each in problems)}",
            try_=next((each.advice for each in problems if each.advice), ""),
        )
    return EXIT_OK


VERB = Verb(
    name="doctor",
    flags=DoctorFlags,
    main=("out", "data", "cache", "json", "quiet"),
    examples=("convworks doctor", "convworks doctor --out ~/runs --json"),
    run=run,
)
