"""`convworks advise DATA`: which model, size and training suit these images, and by which rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from convworks.cli.common import data_request
from convworks.cli.console import Console, clean
from convworks.cli.flags import Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, count
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class AdviseFlags(SourceFlags):
    """What to advise on."""

    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """folder of class folders, .zip, .tar, .csv, or mnist ..."""


def run(args: AdviseFlags, console: Console) -> int:
    """Print sentences with their rules and commands; 0, or 75 where it was stopped."""
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.flows.advise import advise, to_dict

        try:
            facts, found = advise(data_request(args, args.source), should_stop=stop)
        except ScanInterrupted:
            console.say("Stopped. What was read so far is kept in the cache.")
            return EXIT_INTERRUPTED
    console.document(to_dict(facts, found))
    counts = facts.counts.values()
    console.say(
        f"{count(len(counts), 'class')} of {min(counts):,} to {max(counts):,} training images, "
        f"{'grey' if facts.channels == 1 else 'colour'}, {facts.side} pixels"
    )
    for each in found:
        console.answer()
        for label, text in ((each.about, each.text), ("rule", each.rule)):
            for line in block(label, clean(text), width=WIDTH):
                console.answer(line)
        console.answer(f"{'try':<11}{clean(each.command)}")
    return EXIT_OK


VERB = Verb(
    name="advise",
    flags=AdviseFlags,
    main=("labels", "keep_empty", "data", "cache", "json"),
    examples=("convworks advise photos/", "convworks advise digits"),
    run=run,
)
