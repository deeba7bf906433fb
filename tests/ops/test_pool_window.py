"""The windows of a pooling, one cell at a time."""

from __future__ import annotations

import torch

from convworks.ops.pool_window import pool_window


def test_places_are_the_cells_in_row_major_order() -> None:
    window = pool_window((4, 5), 2, stride=(2, 3))
    x = torch.arange(20).reshape(4, 5)
    assert [cell for cell, _ in window.places()] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [x[place].tolist() for _, place in window.places()] == [
        [[0, 3], [10, 13]],
        [[1, 4], [11, 14]],
        [[5, 8], [15, 18]],
        [[6, 9], [16, 19]],
    ]
    assert (window.output, window.cells) == ((2, 2), 4)


def test_the_last_window_hangs_over_in_ceil_mode_alone() -> None:
    assert pool_window((6,), 3, stride=2).output == (2,)
    window = pool_window((6,), 3, stride=2, ceil=True)
    assert (window.output, window.overhang) == ((3,), (1,))
    assert pool_window((5,), 2, stride=3, padding=1, ceil=True).output == (2,)  # it would begin at 6 = 1 + 5
    assert pool_window((6,), 2, stride=3, padding=1, ceil=True).output == (3,)  # begins at 6 < 1 + 6
    assert pool_window((4,), 1, stride=3, padding=0, ceil=True).output == (2,)  # 4 has nothing beyond


def test_padding_and_its_inverse() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    window = pool_window((3, 4), 3, stride=2, padding=((1, 0), (1, 1)), ceil=True)
    padded = window.pad(x, value=-1.0)
    assert padded.shape == (1, 1, 5, 7)
    assert window.canvas(x).shape == padded.shape
    torch.testing.assert_close(window.crop(padded), x)
    assert padded[0, 0, 0].tolist() == [-1.0] * 7


def test_divisors_count_padding_if_asked_and_never_the_overhang() -> None:
    like = torch.zeros(1)
    window = pool_window((5,), 3, stride=2, padding=1, ceil=True)
    assert window.divisors(count_padding=True, like=like).tolist() == [3, 3, 3]
    assert window.divisors(count_padding=False, like=like).tolist() == [2, 3, 2]
    window = pool_window((6,), 3, stride=2, ceil=True)
    assert window.divisors(count_padding=True, like=like).tolist() == [3, 3, 2]
