"""`convworks report RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import folder
from convworks.errors import EXIT_OK


@dataclass(frozen=True, kw_only=True)
class ReportFlags(OutputFlags):
    """Which run."""

    run: Annotated[Path, Shown("RUN", "runs/photos-fastnet-01", positional=True)]
    """folder of a run"""


def run(args: ReportFlags, console: Console) -> int:
    """Write RUN/report.html again from the files of the run."""
    from convworks.report import write_report
    from convworks.runs import open_run

    path = write_report(open_run(args.run).path)
    console.document({"report": path})
    console.answer(f"wrote {folder(path)}")
    return EXIT_OK


VERB = Verb(
    name="report",
    flags=ReportFlags,
    main=("json", "quiet"),
    examples=("convworks report runs/photos-fastnet-01", "convworks report runs/photos-fastnet-01 --json"),
    run=run,
)
