"""`convworks check DATA`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from convworks.cli.common import data_request
from convworks.cli.console import Console, clean
from convworks.cli.flags import SEED_LIMIT, Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, count, duration, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.flows.check import CheckReport

MOST_CLASSES = 12
MOST_NAMES = 3


@dataclass(frozen=True, kw_only=True)
class CheckFlags(SourceFlags):
    """What to look at."""

    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """folder of class folders, .zip, .tar, .csv, or mnist ..."""
    model: Annotated[tuple[Path, ...], Shown("RUN", "runs/photos-fastnet-01")] = ()
    """list the labels that a run doubts; once for each fold"""
    out: Annotated[Path | None, Shown("FILE", "photos-check.html")] = None
    """the page with pictures [DATA-check.html, here]"""
    page: bool = True
    """write the page; --no-page writes none"""
    quarantine: Annotated[Path | None, Shown("CSV", "list.csv")] = None
    """write path, reason and action of what to look at"""
    splits: Annotated[Path | None, Shown("CSV", "splits.csv")] = None
    """write a split without leaks, for train DATA --labels CSV"""
    seed: Annotated[int, Shown("N", "1"), Ge(0), Lt(SEED_LIMIT)] = 0
    """of that split"""
    near: bool = True
    """look for near duplicates; --no-near only for exact ones"""
    strict: bool = False
    """stop at the first unreadable image"""


def run(args: CheckFlags, console: Console) -> int:
    """Print what was understood and what is wrong; 0, or 75 where it was stopped.

    Raises the reason why a split file cannot be written at the end, when all else is printed and written.
    """
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError
        from convworks.flows.check import CheckOptions, check
        from convworks.flows.check_files import Targets

        targets = Targets(
            page=args.out if args.page else None,
            folder=Path() if args.page else None,
            quarantine=args.quarantine,
            splits=args.splits,
        )
        options = CheckOptions(models=args.model, near=args.near, seed=args.seed, targets=targets)
        try:
            request = data_request(args, args.source, strict=args.strict)
            found = check(request, should_stop=stop, options=options)
        except (ScanInterrupted, StoppedEarlyError):
            console.say("Stopped. What was read so far is kept in the cache.")
            return EXIT_INTERRUPTED
    console.document(found.to_dict())
    for line in lines(found, everything=args.verbose):
        console.answer(line)
    for warning in found.warnings:
        console.warn(warning)
    for line in _endings(args, found):
        console.say(line)
    if found.refused is not None:
        raise found.refused.error()
    return EXIT_OK


def _endings(args: CheckFlags, found: CheckReport) -> list[str]:
    """What was written, that nothing was changed, and the next command."""
    written = found.written or {}
    said = [f"{name:<11}{path}" for name, path in written.items() if name != "page"]
    said += [line for note in found.written_notes for line in block("", note)]
    pictures = f"   Details with pictures: {written['page']}" if "page" in written else ""
    data = shlex.quote(args.source)
    if "splits" in written and not args.labels and args.source.lower().endswith((".csv", ".tsv")):
        data = shlex.quote(str(Path(args.source).parent))  # the table gives way to the split file
    labels = written.get("splits") or (str(args.labels) if args.labels else "")
    after = f" --labels {shlex.quote(labels)}" if labels else ""
    return [
        *said,
        f"Nothing in {args.source} was changed.{pictures}",
        f"next:  convworks train {data}{after}",
    ]


def lines(found: CheckReport, *, everything: bool = False) -> list[str]:
    """The whole picture within a screen; with `everything`, every class and every file left out."""
    result = [f"Looked at {found.location}   {count(found.files, 'image')} in {duration(found.seconds)}"]
    result += _fact("layout", found.layout)
    if found.split_rule:
        result += _fact("split", found.split_rule)
    classes = list(found.classes.items())
    shown = classes if everything else classes[:MOST_CLASSES]
    counts = ", ".join(f"{clean(name)} {number:,}" for name, number in shown)
    more = f", ... {len(classes) - len(shown)} more" if len(shown) < len(classes) else ""
    result += _fact("classes", f"{len(classes)}: {counts}{more}")
    result += _fact("readable", f"{found.readable:,} of {count(found.files, 'image')}")
    if found.sizes:
        sizes = ", ".join(f"{name} {width}x{height}" for name, (height, width) in found.sizes.items())
        result += _fact("pixels", sizes)
    if found.ignored:
        result += _fact("ignored", _named([path for path, _ in found.ignored]))
    result += _problems(found)
    if found.labels is not None:
        result.append("")
        for number, note in enumerate(found.labels.notes):
            result += _fact("labels" if number == 0 else "", note)
    if everything:
        result += [f"  left out {clean(path)}: {reason}" for path, reason in found.left_out]
    return result


def _fact(label: str, text: str) -> list[str]:
    return ["  " + line for line in block(label, text, width=98)]


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(clean, names[:MOST_NAMES])) + more


def _problems(found: CheckReport) -> list[str]:
    """One row for each finding; those that ask for the user's eyes have a mark."""
    if not found.findings:
        return ["", "  no problems found"]
    rows = [("problem", "count", "what I will do", "")]
    for each in found.findings:
        mark = "! " if each.look else ""
        rows.append((each.problem, f"{each.count:,}", mark + each.action, ", ".join(each.examples)))
    return ["", *("  " + line for line in table(rows, right=(1,)))]


VERB = Verb(
    name="check",
    flags=CheckFlags,
    main=(
        "model",
        "out",
        "quarantine",
        "splits",
        "labels",
        "keep_empty",
        "strict",
        "data",
        "json",
        "verbose",
    ),
    examples=(
        "convworks check photos/",
        "convworks check photos/ --quarantine list.csv --splits splits.csv",
    ),
    run=run,
)
