"""What operators do with arguments that do not fit, and one number that stands for every dimension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from convworks.errors import ConvworksError, closest

Sizes: TypeAlias = int | Sequence[int]  # one number for all dimensions, or one for each


class BadArgument(ConvworksError, ValueError):  # noqa: N818
    """An argument of an operator or layer that does not fit (code U125): which one, its value, what fits."""


def bad_argument(name: str, value: object, *, why: str, fits: str = "", where: str = "") -> BadArgument:
    """The error for an argument: its name and value, the reason, and values that would fit."""
    shown = f"'{value}'" if isinstance(value, str) else f"{value}"
    return BadArgument("U125", f"{name} = {shown} does not fit: {why}", where=where, try_=fits)


def per_dimension(name: str, value: Sizes, rank: int, *, least: int = 1) -> tuple[int, ...]:
    """`value` as one integer for each of `rank` dimensions: 3 is (3, 3). Raises BadArgument."""
    given: object = value
    if isinstance(given, str) or not isinstance(given, int | Sequence):
        raise bad_argument(name, value, why="it must be a whole number", fits=f"{name}={max(1, least)}")
    numbers = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(numbers) != rank:
        several = f"one number, or {rank} of them" if rank > 1 else "one number"
        dimensions = f"{rank} dimensions" if rank > 1 else "one dimension"
        raise bad_argument(name, value, why=f"it is for {dimensions}", fits=several)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in numbers):
        raise bad_argument(name, value, why=f"it must be whole and at least {least}", fits=f"{name}={least}")
    return numbers


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """`value` where it is one of the known words. Raises BadArgument with the closest."""
    names = tuple(known)
    if value in names:
        return value
    near = closest(value, names)
    fits = f"{name}='{near or names[0]}'"
    raise bad_argument(name, value, why=f"it is one of {', '.join(names)}", fits=fits)
