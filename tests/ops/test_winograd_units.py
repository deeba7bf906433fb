"""Winograd's F(4x4, 3x3) where matrix units could do its products and do not, as without AMX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ops.native.kernels import with_amx, without_matrix_units
from tests.ops.test_fast_winograd import NAMES, bits, computed, require_close, sample

SHAPES = [
    (2, 16, 16, (8, 8), 1),
    (3, 17, 33, (9, 5), 0),
    (1, 80, 49, (6, 11), 2),
    (5, 130, 144, (7, 7), 1),  # the weights' gradient is Winograd's on matrix units, too
    (40, 24, 24, (16, 16), 1),
]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with without_matrix_units(monkeypatch, tmp_path):
        yield


def test_without_matrix_units_it_is_the_convolution_too(without: None) -> None:
    for n, c, o, size, padding in SHAPES:
        require_close(sample(n, c, o, size, padding), padding)


def test_both_give_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = sample(5, 130, 144, (7, 7), 1)
    with with_amx():
        units = computed(*given, 1)
    with without_matrix_units(monkeypatch, tmp_path):
        vectors = computed(*given, 1)
    for name in NAMES:
        difference = (units[name] - vectors[name]).float()
        assert difference.norm() < 0.003 * vectors[name].float().norm(), name
    assert bits(units) != bits(vectors)  # other sums: both were really computed
