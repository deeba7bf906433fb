"""`convworks report RUN ...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Lt

from convworks import environment
from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import folder
from convworks.errors import EXIT_OK, ConvworksError


@dataclass(frozen=True, kw_only=True)
class ReportFlags(OutputFlags):
    """Which runs, and what to write."""

    runs: Annotated[tuple[Path, ...], Shown("RUN", "runs/photos-fastnet-01", positional=True)]
    """folder of a run; of several, a comparison is written"""
    card: bool = False
    """write RUN/model-card.md in place of the page"""
    out: Annotated[Path | None, Shown("FILE", "comparison.html")] = None
    """where a comparison goes [comparison.html]"""
    human_error: Annotated[float | None, Shown("SHARE", "0.0116"), Ge(0), Lt(1)] = None
    """share that people get wrong, for comparison"""
    no_images: bool = False
    """no picture of an image, for private data"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """of downloads and prepared images [$CONVWORKS_CACHE]"""


def run(args: ReportFlags, console: Console) -> int:
    """Write RUN/report.html again from the files of the run, or compare runs on one page."""
    from convworks.flows.report import rewrite_report, write_card, write_comparison

    _check(args)
    cache, missing = environment.cache_folder(args.cache), ""
    if args.card:
        path = write_card(args.runs[0])
    elif len(args.runs) > 1:
        path, missing = write_comparison(
            args.runs, args.out or Path("comparison.html"), cache=cache, images=not args.no_images
        )
    else:
        path, missing = rewrite_report(
            args.runs[0], cache=cache, human_error=args.human_error, images=not args.no_images
        )
    if missing:
        console.warn(f"without pictures: {missing}")
    console.document({"report": path})
    console.answer(f"wrote {folder(path)}")
    return EXIT_OK


def _check(args: ReportFlags) -> None:
    """Raises U287 for a flag that does not go with the number of runs."""
    first = folder(args.runs[0])
    if len(args.runs) > 1:
        for flag, given in {"--card": args.card, "--human-error": args.human_error is not None}.items():
            if given:
                raise ConvworksError("U287", f"{flag} is for one run alone", try_=f"convworks report {first}")
    elif args.out is not None:
        raise ConvworksError(
            "U287",
            "--out is for a comparison of several runs",
            why="the page of a single run lies in its folder",
            try_=f"convworks report {first}",
        )


VERB = Verb(
    name="report",
    flags=ReportFlags,
    main=("card", "out", "human_error", "no_images", "cache", "json", "quiet"),
    examples=(
        "convworks report runs/photos-fastnet-01",
        "convworks report runs/photos-fastnet-01 runs/photos-resnet18-01",
    ),
    run=run,
)
