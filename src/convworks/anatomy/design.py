"""How many layers a receptive field of a wanted size takes: the lectures' question, turned round.

    plain     n layers of k taps                    1 + n (k - 1)
    dilated   layer i with dilation 2^i             1 + (k - 1) (2^n - 1)      2^(n+1) - 1 for k = 3
    strided   every layer with stride 2             1 + (k - 1) (2^n - 1)      the same
    pooled    each layer followed by 2x2 pooling    1 + k (2^n - 1)

Source: lectures, "receptive field" and "dilated convolutions": 500 pixels take 250 plain layers and 8
dilated.
"""

from __future__ import annotations

from dataclasses import dataclass

from convworks.ops.arguments import bad_argument

WAYS = ("plain", "dilated", "strided", "pooled")


@dataclass(frozen=True, slots=True)
class Design:
    """So many layers in one way, and the field that the last has."""

    way: str
    layers: int
    field: int
    rule: str


def design_receptive_field(pixels: int, *, kernel: int = 3) -> tuple[Design, ...]:
    """The fewest layers of each way whose field has `pixels` or more.

    500 with 3 taps: 250 plain layers (501), 8 dilated or strided (511). Raises BadArgument for a kernel of 1,
    which never sees more, and for less than one pixel.
    """
    if kernel < 2:
        raise bad_argument("kernel", kernel, why="a kernel of one tap sees one pixel however deep", fits="3")
    if pixels < 1:
        raise bad_argument("pixels", pixels, why="a field has one pixel or more", fits="1")
    rules = {
        "plain": f"{kernel} taps, stride 1",
        "dilated": f"{kernel} taps, dilation 1, 2, 4, ...",
        "strided": f"{kernel} taps, stride 2",
        "pooled": f"{kernel} taps, then 2x2 pooling at stride 2",
    }
    found = []
    for way in WAYS:
        layers = 1
        while field_of(way, layers, kernel=kernel) < pixels:
            layers += 1
        found.append(Design(way, layers, field_of(way, layers, kernel=kernel), rules[way]))
    return tuple(found)


def field_of(way: str, layers: int, *, kernel: int = 3) -> int:
    """The receptive field of the last of so many layers, step by step: r += (k - 1) d j."""
    field, jump = 1, 1
    for layer in range(layers):
        field += (kernel - 1) * (2**layer if way == "dilated" else 1) * jump
        if way == "strided":
            jump *= 2
        if way == "pooled":
            field += jump
            jump *= 2
    return field
