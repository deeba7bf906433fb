"""Each demonstration in its short form: the claim that it is there for, from the numbers that it measured."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from convworks.demos import DEMOS, demo
from convworks.demos.experiment import digits, shifted, whole_digits
from convworks.demos.parallel import split_convolution
from convworks.demos.result import Result, number
from convworks.demos.sequences import CLASSES, sensor_series
from convworks.errors import ConvworksError


@cache
def ran(name: str) -> Result:
    return demo(name).run(seed=0, quick=True)


def rows(name: str) -> dict[Any, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in ran(name).rows}


@pytest.mark.parametrize("name", DEMOS)
def test_a_table_with_a_sentence(name: str) -> None:
    result = ran(name)
    assert all(len(row) == len(result.columns) for row in result.rows)
    assert len(result.rows) >= 2
    assert result.lecture
    assert any(character.isdigit() for character in result.found)


def test_initialization() -> None:
    """Shrinks with 0.01, is kept within a factor of 2 (in variance) with He's, explodes with 1."""
    first, last = rows("initialization")[1], rows("initialization")[30]
    assert last[0] / first[0] < 1e-20
    assert 0.5 < (last[1] / first[1]) ** 2 < 2
    assert last[2] / first[2] > 1e30


def test_zeros() -> None:
    found = rows("zeros")
    assert found["zeros"][:2] == (1, 0)
    assert found["all 0.1"][:2] == (1, 1)
    assert found["He"][0] == 32
    assert found["He"][2] > 0.9 > 0.5 > found["all 0.1"][2] >= found["zeros"][2]


def test_gradients() -> None:
    plain, norm, residual = rows("gradients")["first / last"]
    assert plain < 0.01
    assert 0.1 < norm < 1000
    assert 0.1 < residual < 100
    assert rows("gradients")["1"][2] > 100 * rows("gradients")["1"][0]


def test_activations() -> None:
    found = rows("activations")
    assert found["ReLU"][0] > found["sigmoid"][0] + 0.3
    assert found["ReLU"][1] is not None
    assert found["sigmoid"][1] is None
    assert 0 <= found["ReLU"][2] < 1
    assert found["tanh"][3] > 0
    assert found["leaky ReLU"][2:] == (None, None)


def test_normalization() -> None:
    """Batch norm trains at the tenfold rate, at which the plain network does not."""
    found = rows("normalization")
    assert found["BN"][2] > found["none"][2] + 0.3
    assert all(found[name][0] > 0.7 for name in ("none", "LRN", "BN"))


def test_dropout() -> None:
    """The mean over many masks is better than one, and weight scaling is about as good as the mean."""
    found = rows("dropout")
    one, many, scaled = found["mean over 1 mask"], found["mean over 50 masks"], found["weight scaling"]
    assert many[0] > one[0]
    assert many[1] < one[1]
    assert abs(scaled[0] - many[0]) < 0.03


def test_shifts() -> None:
    """Accuracy falls far more for the perceptron than for the convnet."""
    found = rows("shifts")
    assert all(value > 0.85 for value in found[0])
    lost = [found[0][at] - sum(found[far][at] for far in (1, 2, 3)) / 3 for at in range(3)]
    assert lost[0] > lost[1] + 0.05 > lost[2] + 0.1


def test_pooling() -> None:
    found = rows("pooling")
    raw, small, large = (
        found[name][0] for name in ("none (the raw maps)", "max 3x3, stride 1", "max 5x5, stride 1")
    )
    assert raw < 0.05 < 0.3 < small < large < found["max over the map"][0] + 1e-12
    without, pooled = found["three layers, no pooling"], found["with two of max 2x2/2"]
    # by hand: 3 + 2 + 2 = 7; 3, +1 = 4, +2*2 = 8, +2 = 10, +4*2 = 18
    assert (without[1], pooled[1]) == (7, 18)
    assert without[2] == 256 * 9 * (16 + 16 * 32 + 32 * 32)
    assert pooled[2] == 9 * (256 * 16 + 64 * 16 * 32 + 16 * 32 * 32)


def test_equivariance() -> None:
    by_shift = {(row[0], row[1]): row[2:] for row in ran("equivariance").rows}
    for pixels in (1, 2):
        assert by_shift["convolution, stride 1", pixels] == (0.0, 0.0)
    for name in ("convolution, stride 2", "convolution, then max 2x2/2"):
        assert by_shift[name, 1][1] > 0.1
        assert by_shift[name, 2] == (0.0, 0.0)


def test_series() -> None:
    found = rows("series")
    assert found["convolutions"][1] >= 0.99
    assert found["convolutions"][2] is not None


def test_threads() -> None:
    result = ran("threads")
    assert result.rows[0][0] == 1
    assert result.rows[1][0] == 2
    for _, milliseconds, speed, outputs, gradients in result.rows:
        assert isinstance(milliseconds, float)
        assert milliseconds > 0
        assert speed is not None
        assert outputs < 1e-5
        assert gradients < 1e-4


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_a_split_batch_is_the_batch(parts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(5, 2, 6, 6, generator=generator), torch.randn(3, 2, 3, 3, generator=generator)
    g = torch.randn(5, 3, 6, 6, generator=generator)
    found = split_convolution(x.double(), w.double(), g.double(), parts=parts)
    kernel = w.double().requires_grad_()
    y = torch.nn.functional.conv2d(x.double(), kernel, padding=1)
    torch.testing.assert_close(found[0], y.detach())
    torch.testing.assert_close(found[1], torch.autograd.grad(y, kernel, g.double())[0])


def test_data() -> None:
    train, test = digits(seed=3)
    assert (len(train.y), len(test.y)) == (1200, 597)
    both = torch.cat([train.x, test.x])
    assert abs(both.mean().item()) < 1e-5
    assert len(both.flatten(1).unique(dim=0)) == 1797  # no digit is in both
    whole = whole_digits(50)
    assert torch.equal(whole, whole.round())
    assert whole.min() == 0
    assert whole.max() == 16
    windows = sensor_series(20, seed=0, purpose="train")
    assert windows.x.shape == (20, 2, 96)
    assert windows.y.bincount().tolist() == [4] * len(CLASSES)
    assert torch.equal(windows.x, sensor_series(20, seed=0, purpose="train").x)
    assert not torch.equal(windows.x, sensor_series(20, seed=0, purpose="test").x)


def test_shifted_by_hand() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert shifted(x, 1, 0)[0, 0].tolist() == [[0, 0, 0], [0, 1, 2], [3, 4, 5]]
    assert shifted(x, -1, 2, fill=9)[0, 0].tolist() == [[9, 9, 3], [9, 9, 6], [9, 9, 9]]
    assert torch.equal(shifted(x, 0, 0), x)


def test_a_demonstration_leaves_no_trace() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = demo("equivariance").run(seed=1, quick=True)
    demo("threads").run(seed=1, quick=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert demo("equivariance").run(seed=1, quick=True) == first
    assert demo("equivariance").run(seed=2, quick=True) != first


def test_names_and_numbers() -> None:
    with pytest.raises(ConvworksError, match="no demonstration called 'serie'") as caught:
        demo("serie")
    assert caught.value.code == "U101"
    shown = [number(value) for value in (None, 0.0, 0.5, 1e-9, 12345, 2e6, "x")]
    assert shown == ["-", "0.000", "0.500", "1.0e-09", "12,345", "2.0e+06", "x"]
    assert ran("equivariance").column("shift in pixels")["convolution, stride 1"] in (1, 2)
