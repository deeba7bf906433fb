"""`convworks augment DATA`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le, Lt

from convworks.cli.common import data_request
from convworks.cli.console import Console
from convworks.cli.flags import SEED_LIMIT, Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, count, folder, table
from convworks.durable import write_atomic
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.flows.augment import Preview


@dataclass(frozen=True, kw_only=True)
class AugmentFlags(SourceFlags):
    """Which images, and which changes."""

    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """folder of class folders, .zip, .tar, .csv, or mnist ..."""
    recipe: Annotated[str | None, Shown("NAME", "fastnet")] = None
    """training procedure, see: convworks list recipes"""
    model: Annotated[str | None, Shown("NAME", "fastnet")] = None
    """network, which decides the size and the recipe [fastnet]"""
    config: Annotated[Path | None, Shown("FILE", "my.toml")] = None
    """settings of the recipe in TOML"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "augment.rotate=10")] = ()
    """one setting of the recipe, may be repeated"""
    seed: Annotated[int | None, Shown("N", "1"), Ge(0), Lt(SEED_LIMIT)] = None
    """of every draw [recipe's]"""
    size: Annotated[int | None, Shown("N", "64"), Ge(1)] = None
    """side of the network's input in pixels"""
    out: Annotated[Path, Shown("FILE", "sheet.png")] = Path("augment.png")
    """the contact sheet [augment.png]"""
    epoch: Annotated[int, Shown("N", "3"), Ge(0), Lt(100_000)] = 0
    """the first epoch that is shown, from 0 [0]"""
    across: Annotated[int, Shown("N", "4"), Ge(1), Le(12)] = 4
    """epochs that are shown, side by side [4]"""
    count: Annotated[int, Shown("N", "8"), Ge(1), Le(100)] = 8
    """training images that are shown [8]"""


def run(args: AugmentFlags, console: Console) -> int:
    """Write the sheet and print what was drawn; 0, or 75 where reading the data was stopped."""
    from convworks.report.contact_sheet import check_sheet_target, png

    check_sheet_target(args.out)
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.flows.augment import preview
        from convworks.recipes.defaults import resolve_named

        flags = {key: value for key in ("model", "seed", "size") if (value := getattr(args, key)) is not None}
        resolved = resolve_named(args.recipe, config=args.config, assignments=args.set, flags=flags)
        epochs = range(args.epoch, args.epoch + args.across)
        try:
            found = preview(
                data_request(args, args.source),
                resolved.recipe,
                count=args.count,
                epochs=epochs,
                should_stop=stop,
            )
        except ScanInterrupted:
            console.say("Stopped. What was read so far is kept in the cache.")
            return EXIT_INTERRUPTED
    write_atomic(args.out, png(found.sheet(_command(args))))
    _show(args, found, console)
    console.document({"sheet": str(args.out), **found.document()})
    return EXIT_OK


def _command(args: AugmentFlags) -> str:
    """What to type to get this sheet again: every picture says it."""
    words: list[Any] = ["convworks", "augment", args.source]
    for name in ("recipe", "model", "config", "seed", "size"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name}", value]
    for each in args.set:
        words += ["--set", each]
    for name, usual in (("epoch", 0), ("across", 4), ("count", 8)):
        if getattr(args, name) != usual:
            words += [f"--{name}", getattr(args, name)]
    return shlex.join(map(str, words))


def _show(args: AugmentFlags, found: Preview, console: Console) -> None:
    kept, seen = ("x".join(map(str, pair)) for pair in (found.stored, found.size))
    for label, text in (
        ("augment", found.policy()),
        ("pixels", f"stored as {kept}, the network sees {seen}"),
    ):
        for line in block(label, text):
            console.answer(line)
    if not found.settings and found.stored == found.size:
        console.answer(f"{'':<11}images stay as they are in every epoch; try  --set augment.shift=3")
    console.answer()
    rows: list[tuple[str, ...]] = [("image", "epoch", "what was drawn for it")]
    for image in found.images:
        for view in image.views if args.verbose else image.views[:1]:
            words = [*view.changes, *([f"{view.title} ({view.other})"] if view.other else [])]
            rows.append((image.path, str(view.epoch), ", ".join(words) or "nothing"))
    for line in table(rows, right=(1,), width=100):
        console.answer(line)
    console.say()
    console.say(f"wrote {folder(args.out)}: {count(len(found.images), 'image')} in {_span(found.epochs)}")


def _span(epochs: tuple[int, ...]) -> str:
    return f"epochs {epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"epoch {epochs[0]}"


VERB = Verb(
    name="augment",
    flags=AugmentFlags,
    main=("recipe", "model", "set", "seed", "size", "out", "epoch", "across", "count", "json", "verbose"),
    examples=(
        "convworks augment photos/ --recipe fastnet",
        "convworks augment photos/ --set augment.mixup=0.2 --out sheet.png",
    ),
    run=run,
)
