"""Every network by name: what it is, where it comes from, and how to build it.

A family file ends with one `register(...)` for each of its networks. The name is the name of the function, or
of the row in the family's table, and the sizes are the defaults of its signature, so that each fact is said
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import nn

from convworks.errors import ConvworksError, unknown_name

Build = Callable[..., nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One row of the registry. Sizes are the published ones, which `create` takes where none are given."""

    name: str
    build: Build
    input_size: tuple[int, int]  # height, width
    in_channels: int
    num_classes: int
    source: str
    summary: str
    deviations: tuple[str, ...]  # from the source; empty means none

    @property
    def options(self) -> Mapping[str, Any]:
        """The further options of `create` for this network, with their defaults."""
        return {k: p.default for k, p in signature(self.build).parameters.items() if k not in _COMMON}


_COMMON = ("num_classes", "in_channels", "input_size")
_REGISTRY: dict[str, ModelInfo] = {}


def register(
    build: Build, *, source: str, summary: str, deviations: tuple[str, ...] = (), name: str = ""
) -> ModelInfo:
    """Add a network; a row of a paper's table gives its `name` and `partial(build, row)`.

    Raises ValueError for a name that is taken.
    """
    name = name or build.__name__
    if name in _REGISTRY:
        raise ValueError(f"a network called '{name}' is already registered, by {_REGISTRY[name].source}")
    defaults = {key: signature(build).parameters[key].default for key in _COMMON}
    info = ModelInfo(
        name=name, build=build, source=source, summary=summary, deviations=deviations, **defaults
    )
    _REGISTRY[name] = info
    return info


def names() -> tuple[str, ...]:
    """All networks, sorted."""
    return tuple(sorted(_REGISTRY))


def info(name: str) -> ModelInfo:
    """The row of a network. Raises U101 for an unknown name, with the closest one."""
    if name not in _REGISTRY:
        raise unknown_name("model", name, names(), code="U101", try_="convworks show {near}")
    return _REGISTRY[name]


def create(
    name: str,
    *,
    num_classes: int,
    in_channels: int | None = None,
    input_size: tuple[int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """A new network with random weights; they depend on torch's global generator alone.

    It maps (N, in_channels, height, width) to logits (N, num_classes).
    Raises U101 for an unknown name, U120 for an unknown option, U121 for a number of classes or channels that
    makes no sense, U122 for an input size that does not fit, U123 for an option with a bad value.
    """
    row = info(name)
    for option in options:
        if option not in row.options:
            raise _unknown_option(row, option)
    channels = row.in_channels if in_channels is None else in_channels
    if num_classes < 2 or channels < 1:
        raise ConvworksError(
            "U121",
            f"{name} cannot have {num_classes} classes and {channels} input channels",
            why="a classifier chooses between two or more classes and sees one or more channels",
            try_=f"convworks show {name}",
        )
    return row.build(
        num_classes=num_classes, in_channels=channels, input_size=input_size or row.input_size, **options
    )


def misfit(
    name: str, input_size: tuple[int, int], *, why: str, fits: str, size: int, try_: str = ""
) -> ConvworksError:
    """U122: the error of a network for an input size that it cannot take; `size` is one that it can.

    `try_` is what to try where no side of a square image would do.
    """
    height, width = input_size
    return ConvworksError(
        "U122",
        f"{name} cannot take images of {height}x{width} pixels",
        where=f"what fits: {fits}",
        why=why,
        try_=try_ or f"convworks train DATA --model {name} --size {size}",
    )


def bad_option(name: str, option: str, value: object, *, allowed: tuple[str, ...]) -> ConvworksError:
    """U123: the error of a network for an option with a value that it does not have."""
    return ConvworksError(
        "U123",
        f"option '{option}' of {name} cannot be {value!r}",
        where=f"allowed: {', '.join(allowed)}",
        try_=f"convworks train DATA --model {name} --set model_options.{option}={allowed[0]}",
    )


def _unknown_option(row: ModelInfo, option: str) -> ConvworksError:
    if row.options:
        return unknown_name(
            f"option of {row.name}", option, row.options, code="U120", try_=f"convworks show {row.name}"
        )
    return ConvworksError(
        "U120", f"{row.name} has no options, got '{option}'", try_=f"convworks show {row.name}"
    )
