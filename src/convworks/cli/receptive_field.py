"""`convworks receptive-field NAME|RUN`: which pixels a unit of each layer sees."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from convworks.cli.console import Console
from convworks.cli.flags import Shown, Verb
from convworks.cli.networks import NetworkFlags, create, network_of
from convworks.cli.text import count, table
from convworks.errors import EXIT_OK, ConvworksError, closest

if TYPE_CHECKING:
    from convworks.anatomy import Row
    from convworks.cli.networks import Network

MOST_MEASURED = 12  # layers; of deeper networks the last of each stage is measured

Ends = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ReceptiveFieldFlags(NetworkFlags):
    """Which layers."""

    subject: Annotated[str, Shown("NAME|RUN", "lenet5", positional=True)]
    """a model or a run"""
    layer: Annotated[str | None, Shown("NAME", "c3")] = None
    """only this layer, or the layers of this stage"""
    measured: bool = False
    """beside it, what the gradient of random weights shows"""
    pixels: Annotated[int | None, Shown("N", "15"), Ge(1), Le(1_000_000)] = None
    """say which layer is the first to see so many pixels"""


def run(args: ReceptiveFieldFlags, console: Console) -> int:
    """Print the table. Raises U185 for a layer without a field."""
    net = network_of(args.subject, args)
    rows = _chosen(net, args.layer)
    found = _measured(net, rows, args.layer, console) if args.measured else {}
    _print(net, rows, found, console)
    verdict = asked(args.pixels, [row for row in net.rows if row.kernel]) if args.pixels else ""
    for line in textwrap.wrap(verdict, max(80, console.width)):
        console.answer(line)
    layers = [_record(row, net.image, found.get(row.name)) for row in rows]
    console.document({"model": net.name, "input": net.image, "layers": layers, "pixels": verdict or None})
    return EXIT_OK


def _chosen(net: Network, layer: str | None) -> list[Row]:
    """The layers with a window, or those of one name."""
    seen = [row for row in net.rows if row.field and row.output]
    if layer is None:
        return [row for row in seen if row.kernel] or seen
    found = [row for row in seen if row.name == layer]
    found = found or [row for row in seen if row.name.startswith(layer + ".") and row.kernel]
    if not found:
        names = [row.name for row in seen if row.kernel]
        near = closest(layer, [*names, *(name.split(".", maxsplit=1)[0] for name in names)])
        raise ConvworksError(
            "U185",
            f"{net.name} has no layer '{layer}' with a receptive field",
            where=f"did you mean '{near}'?" if near else "",
            try_=f"convworks receptive-field {net.info.name}" + (f" --layer {near}" if near else ""),
        )
    return found


def _measured(net: Network, rows: Sequence[Row], layer: str | None, console: Console) -> dict[str, Ends]:
    """The fields that the gradient shows, with weights drawn from seed 0."""
    from convworks.anatomy import measured_fields

    names = list(dict.fromkeys(row.name for row in rows))
    if layer is None and len(names) > MOST_MEASURED:
        names = list({row.name.split(".", maxsplit=1)[0]: row.name for row in rows}.values())
        console.say("Measured: the last layer of each stage; --layer for another.")
    model = create(net.info.name, image=net.image, classes=net.classes, options=net.options, device="cpu")
    return measured_fields(model, net.image, names)


def _print(net: Network, rows: Sequence[Row], found: dict[str, Ends], console: Console) -> None:
    heads = ["layer", "kernel", "output", "field", "jump", "centre", "share of the input"]
    lines = [(*heads, *(("measured", "") if found else ()))]
    for row in rows:
        cells = [*_cells(row), share(row, net.image)]
        if found:
            cells += _compared(row, net.image, found.get(row.name))
        lines.append(tuple(cells))
    for number, line in enumerate(table(lines, right=(3, 4, 5))):
        console.answer(line, style="bold" if number == 0 else "")
    if found:
        good = sum(_verdict(row, net.image, found[row.name]) == "agrees" for row in rows if row.name in found)
        console.answer(
            f"measured on the middle unit, inside the image: {good} of {count(len(found), 'layer')} agree"
        )


def _cells(row: Row) -> list[str]:
    from convworks.anatomy.table import by, kernel_text

    output = " x ".join(map(str, row.output))
    numbers = ("x".join(dict.fromkeys(f"{n:g}" for n in values)) for values in (row.jump, row.centre))
    return [row.name, kernel_text(row), output, by(row.field), *numbers]


def share(row: Row, image: Sequence[int]) -> str:
    """'11/28', 'whole image' where the one unit sees all of it."""
    from convworks.anatomy.table import sees_all

    if sees_all(row, tuple(image)):
        return "whole image"
    parts = dict.fromkeys(f"{f}/{n}" for f, n in zip(row.field, image[1:], strict=False))
    return " x ".join(parts)


def _compared(row: Row, image: Sequence[int], ends: Ends | None) -> list[str]:
    if ends is None:
        return ["", ""]
    sizes = dict.fromkeys(str(last - first + 1) for first, last in ends)
    return ["x".join(sizes), _verdict(row, image, ends)]


def _verdict(row: Row, image: Sequence[int], ends: Ends) -> str:
    """Of the measured field beside the middle unit's part inside the image."""
    from convworks.anatomy import predicted

    rule = predicted(row, tuple(image))
    if ends == rule:
        return "agrees"
    inside = all(a <= first and last <= b for (a, b), (first, last) in zip(rule, ends, strict=True))
    wanted = "x".join(dict.fromkeys(str(b - a + 1) for a, b in rule))
    return f"inside the {wanted}: some paths were closed" if inside else f"DIFFERS from {wanted}"


def asked(pixels: int, rows: Sequence[Row]) -> str:
    """Which layer is the first to see so many pixels, and why none sees exactly so many."""
    at = next((row for row in rows if min(row.field) >= pixels), None)
    if at is None:
        most = max((min(row.field) for row in rows), default=1)
        return f"no layer sees {count(pixels, 'pixel')}; the most is {most}"
    if min(at.field) == pixels:
        return f"{at.name} is the first layer that sees {count(pixels, 'pixel')}"
    text = f"{at.name} is the first layer that sees {count(pixels, 'pixel')}, and it sees {min(at.field)}"
    halving = next((n for n, row in enumerate(rows) if set(row.kernel) == set(row.stride) == {2}), None)
    odd = all(n % 2 for row in rows if set(row.kernel) != {2} for n in row.kernel)
    if halving is not None and pixels % 2 and odd and at in rows[halving:]:
        text += (
            f"; {pixels} is odd, and behind 2x2/2 pooling every field is even: the first pooling adds 1, "
            "and odd kernels add even numbers; 3x3/2 pooling would keep it odd"
        )
    return text


def _record(row: Row, image: Sequence[int], ends: Ends | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "layer": row.name,
        "output": row.output,
        "field": row.field,
        "jump": row.jump,
        "centre": row.centre,
        "share": [f / n for f, n in zip(row.field, image[1:], strict=False)],
    }
    if ends is not None:
        found |= {"measured": ends, "verdict": _verdict(row, image, ends)}
    return found


VERB = Verb(
    name="receptive-field",
    flags=ReceptiveFieldFlags,
    main=("layer", "measured", "pixels", "size", "channels", "classes", "set", "out", "json"),
    examples=(
        "convworks receptive-field lenet5 --measured",
        "convworks receptive-field vgg_d --layer conv5",
    ),
    run=run,
)
