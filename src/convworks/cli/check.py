"""`convworks check DATA`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from convworks.cli.common import data_request
from convworks.cli.console import Console, clean
from convworks.cli.flags import Shown, SourceFlags, Verb
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
    strict: bool = False
    """stop at the first unreadable image"""


def run(args: CheckFlags, console: Console) -> int:
    """Print what was understood and what is wrong; 0, or 75 where it was stopped."""
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.flows.check import check

        try:
            found = check(data_request(args, args.source, strict=args.strict), should_stop=stop)
        except ScanInterrupted:
            console.say("Stopped. What was read so far is kept in the cache.")
            return EXIT_INTERRUPTED
    console.document(found.to_dict())
    for line in lines(found, everything=args.verbose):
        console.answer(line)
    for warning in found.warnings:
        console.warn(warning)
    console.say(f"Nothing in {args.source} was changed.")
    console.say(f"next:  convworks train {shlex.quote(args.source)}")
    return EXIT_OK


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
    main=("labels", "keep_empty", "strict", "data", "cache", "offline", "json", "verbose"),
    examples=("convworks check photos/", "convworks check mnist --data ~/data"),
    run=run,
)
