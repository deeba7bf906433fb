"""Sums over the branches of a module, for the facts of the Inception families.

A convolution is written (height, width, output maps, output side); each has no bias and two parameters of
batch norm for each map, unless `norm` is 0 and `bias` is 1.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.papers.facts import Layer

Conv = tuple[int, int, int, int]


class Sum(NamedTuple):
    maps: int
    parameters: int
    macs: int


def chain(c_in: int, *convs: Conv, norm: int = 2, bias: int = 0) -> Sum:
    """Convolutions in a row; without any, the maps pass through."""
    parameters = macs = 0
    for height, width, maps, side in convs:
        weights = c_in * height * width * maps
        parameters += weights + (norm + bias) * maps
        macs += weights * side * side
        c_in = maps
    return Sum(c_in, parameters, macs)


def beside(*branches: Sum) -> Sum:
    """Branches side by side: their maps are joined."""
    return Sum(*(sum(column) for column in zip(*branches, strict=True)))


def then(first: Sum, *others: Sum) -> Sum:
    """One after the other: the maps are those of the last."""
    every = (first, *others)
    return Sum(every[-1].maps, sum(each.parameters for each in every), sum(each.macs for each in every))


def layer(total: Sum, side: int) -> Layer:
    return Layer((total.maps, side, side), total.parameters, total.macs)
