"""What the Inception families share: branches side by side, a notation for them, auxiliary heads.

The figures of the papers draw a module as branches of convolutions. Here a branch is a string, from its input
to its output, in the figures' own words:

    "1x1 64 > 3x3/2 96 V"      a 1x1 convolution to 64 maps, then 3x3 with stride 2 to 96 maps
    "avg > 1x1 32"             the mean over 3x3, then 1x1 to 32 maps; "max/2 V" is a maximum with stride 2
    "1x1 384 > 1x3 256 | 3x1 256"     the last step is two convolutions side by side

Padding keeps the size of the maps, but with "V" (valid) there is none. Every convolution is without a bias
and followed by batch norm and ReLU. A module is a tuple of branches, joined along the maps; a module of one
branch is the string alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from convworks.layers import WithAuxiliary, stage
from convworks.layers.structure import Concatenate
from convworks.models.fit import Window

EPSILON = 0.001  # of batch norm: the authors' code
Module = str | tuple[str, ...]
_STEP = re.compile(
    r"(?:(?P<pool>max|avg)|(?P<height>\d)x(?P<across>\d))(?:/(?P<stride>\d))?(?: (?P<maps>\d+))?"
)


class Step(NamedTuple):
    """One convolution, or a pooling where `pool` names it; `maps` is 0 for a pooling."""

    pool: str
    kernel: tuple[int, int]
    stride: int
    maps: int
    valid: bool

    @property
    def padding(self) -> tuple[int, int]:
        return (0, 0) if self.valid else (self.kernel[0] // 2, self.kernel[1] // 2)


class Branches(nn.Module):
    """Named branches on one input, their maps side by side: (N, C, H, W) -> (N, sum of theirs, H', W')."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.names = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.concatenation = Concatenate(names=self.names)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.concatenation(*(self.get_submodule(name)(x) for name in self.names))
        return joined


class AuxiliaryHead(nn.Sequential):
    """A classifier on maps inside the network, which takes part in training only."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Headed(nn.Module):
    """Stages in a row, with auxiliary heads after some of them.

    (N, C, H, W) -> logits (N, K); while it trains, `WithAuxiliary` of these and of the heads' logits.
    """

    def __init__(self, stages: Mapping[str, nn.Module], *, discount: float) -> None:
        super().__init__()
        self.discount = discount
        for name, module in stages.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor | WithAuxiliary:
        auxiliary: list[Tensor] = []
        for child in self.children():
            if not isinstance(child, AuxiliaryHead):
                x = child(x)
            elif self.training:
                auxiliary.append(child(x))
        return WithAuxiliary(x, tuple(auxiliary), self.discount) if auxiliary else x


def conv_bn(
    c_in: int,
    c_out: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
    epsilon: float = EPSILON,
) -> nn.Sequential:
    """Convolution without a bias, batch norm, ReLU; padding keeps the size unless it is given."""
    height, across = (kernel, kernel) if isinstance(kernel, int) else kernel
    same = (height // 2, across // 2)
    return stage(
        conv=nn.Conv2d(
            c_in,
            c_out,
            (height, across),
            stride=stride,
            padding=same if padding is None else padding,
            bias=False,
        ),
        bn=nn.BatchNorm2d(c_out, eps=epsilon),
        relu=nn.ReLU(),
    )


def parse(text: str) -> Step:
    """One step of a branch: "3x3/2 96 V"."""
    valid = text.endswith(" V")
    found = _STEP.fullmatch(text.removesuffix(" V"))
    if found is None or bool(found["pool"]) == bool(found["maps"]):
        raise ValueError(
            f"{text!r} is neither a convolution such as '3x3/2 96 V' nor a pooling such as 'max'"
        )
    kernel = (3, 3) if found["pool"] else (int(found["height"]), int(found["across"]))
    return Step(found["pool"] or "", kernel, int(found["stride"] or 1), int(found["maps"] or 0), valid)


def chain(c_in: int, branch: str, *, count_padding: bool) -> tuple[nn.Sequential, int]:
    """The modules of one branch, named conv1, conv2 ... and pool, and its number of output maps."""
    parts: dict[str, nn.Module] = {}
    for text in branch.split(" > "):
        name = f"conv{1 + len(parts.keys() - {'pool'})}"
        if "|" in text:
            sides = [chain(c_in, side, count_padding=count_padding) for side in text.split(" | ")]
            parts["split"] = Branches(**{f"side{i}": side for i, (side, _) in enumerate(sides)})
            c_in = sum(maps for _, maps in sides)
            continue
        step = parse(text)
        if step.pool == "max":
            parts["pool"] = nn.MaxPool2d(3, step.stride, step.padding)
        elif step.pool:
            parts["pool"] = nn.AvgPool2d(3, step.stride, step.padding, count_include_pad=count_padding)
        else:
            parts[name] = conv_bn(c_in, step.maps, step.kernel, stride=step.stride, padding=step.padding)
            c_in = step.maps
    return stage(**parts), c_in


def build_module(c_in: int, module: Module, *, count_padding: bool = False) -> tuple[nn.Module, int]:
    """A module of the notation on `c_in` maps, with branches branch0, branch1 ..., and its output maps.

    `count_padding` says whether the mean at the border divides by 9 or by the cells that are there.
    """
    if isinstance(module, str):
        return chain(c_in, module, count_padding=count_padding)
    built = [chain(c_in, branch, count_padding=count_padding) for branch in module]
    return Branches(**{f"branch{i}": branch for i, (branch, _) in enumerate(built)}), sum(
        maps for _, maps in built
    )


def windows(layers: Iterable[tuple[str, Module]]) -> list[Window]:
    """What makes the maps smaller, for `final_size`; branches of a module all do the same."""
    found = []
    for name, module in layers:
        steps = (module if isinstance(module, str) else module[0]).split(" > ")
        for step in (parse(text) for text in steps if "|" not in text):
            if step.valid or step.stride > 1:
                found.append(Window(name, step.kernel[0], step.stride, step.padding[0]))
    return found
