"""The solver against closed forms and the lectures' numbers."""

from __future__ import annotations

import pytest

from convworks.anatomy import design_receptive_field, field_of
from convworks.errors import ConvworksError


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("layers", [0, 1, 2, 7])
def test_fields_are_the_closed_forms(kernel: int, layers: int) -> None:
    grown = 2**layers - 1
    assert field_of("plain", layers, kernel=kernel) == 1 + layers * (kernel - 1)
    assert field_of("dilated", layers, kernel=kernel) == 1 + (kernel - 1) * grown
    assert field_of("strided", layers, kernel=kernel) == 1 + (kernel - 1) * grown
    assert field_of("pooled", layers, kernel=kernel) == 1 + kernel * grown


def test_the_numbers_of_the_lectures() -> None:
    found = {each.way: (each.layers, each.field) for each in design_receptive_field(500)}
    assert found == {"plain": (250, 501), "dilated": (8, 511), "strided": (8, 511), "pooled": (8, 766)}
    wide = {each.way: each.layers for each in design_receptive_field(1920)}
    assert (wide["dilated"], wide["plain"]) == (10, 960)
    assert field_of("dilated", 5) == 63


@pytest.mark.parametrize("pixels", [1, 2, 3, 16, 501, 502])
def test_one_layer_less_sees_less(pixels: int) -> None:
    for each in design_receptive_field(pixels, kernel=3):
        assert each.field >= pixels
        assert each.layers == 1 or field_of(each.way, each.layers - 1) < pixels


def test_what_cannot_be_designed() -> None:
    with pytest.raises(ConvworksError, match="one tap sees one pixel"):
        design_receptive_field(10, kernel=1)
    with pytest.raises(ConvworksError, match="one pixel or more"):
        design_receptive_field(0)
