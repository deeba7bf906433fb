"""`convworks report RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from convworks import environment
from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import folder
from convworks.errors import EXIT_OK


@dataclass(frozen=True, kw_only=True)
class ReportFlags(OutputFlags):
    """Which run."""

    run: Annotated[Path, Shown("RUN", "runs/photos-fastnet-01", positional=True)]
    """folder of a run"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """of downloads and prepared images [$CONVWORKS_CACHE]"""


def run(args: ReportFlags, console: Console) -> int:
    """Write RUN/report.html again from the files of the run."""
    from convworks.flows.report import rewrite_report

    path, missing = rewrite_report(args.run, cache=environment.cache_folder(args.cache))
    if missing:
        console.warn(f"without pictures: {missing}")
    console.document({"report": path})
    console.answer(f"wrote {folder(path)}")
    return EXIT_OK


VERB = Verb(
    name="report",
    flags=ReportFlags,
    main=("cache", "json", "quiet"),
    examples=("convworks report runs/photos-fastnet-01", "convworks report runs/photos-fastnet-01 --json"),
    run=run,
)
