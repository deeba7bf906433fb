"""`convworks design rf --pixels 500`: how deep a network must be to see so much."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import count, table
from convworks.errors import EXIT_OK


@dataclass(frozen=True, kw_only=True)
class DesignFlags(OutputFlags):
    """What is wanted."""

    what: Annotated[Literal["rf"], Shown("rf", "rf", positional=True)] = "rf"
    """the receptive field is what is solved for"""
    pixels: Annotated[int, Shown("N", "500"), Ge(1), Le(1_000_000)] = 500
    """pixels that a unit of the last layer must see"""
    kernel: Annotated[int, Shown("N", "3"), Ge(2), Le(1_000)] = 3
    """taps of each layer"""


def run(args: DesignFlags, console: Console) -> int:
    """Print the fewest layers of each way."""
    from convworks.anatomy import design_receptive_field, field_of

    found = design_receptive_field(args.pixels, kernel=args.kernel)
    rows = [("way", "layers", "field", "one layer less", "how")]
    for each in found:
        less = field_of(each.way, each.layers - 1, kernel=args.kernel)
        rows.append((each.way, f"{each.layers:,}", f"{each.field:,}", f"{less:,}", each.rule))
    console.answer(f"to see {count(args.pixels, 'pixel')} with {args.kernel} taps a layer:", style="bold")
    for line in table(rows, right=(1, 2, 3)):
        console.answer(line)
    console.document({"pixels": args.pixels, "kernel": args.kernel, "ways": [asdict(each) for each in found]})
    return EXIT_OK


VERB = Verb(
    name="design",
    flags=DesignFlags,
    main=("pixels", "kernel", "json"),
    examples=("convworks design rf --pixels 500", "convworks design rf --pixels 1920 --kernel 5"),
    run=run,
)
