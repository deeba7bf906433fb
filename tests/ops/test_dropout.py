"""Both forms of dropout against the exact expectation over all masks, and the moments of the noises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.errors import ConvworksError
from convworks.ops import dropout as ops

FEW = settings(max_examples=25, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weighed_masks(units: int, keep: float) -> list[tuple[float, np.ndarray]]:
    """Every mask with its probability."""
    masks = [np.array(bits, dtype=float) for bits in itertools.product((0, 1), repeat=units)]
    return [(keep ** mask.sum() * (1 - keep) ** (units - mask.sum()), mask) for mask in masks]


@FEW
@given(units=st.integers(1, 6), keep=st.floats(0.1, 1.0), seed=st.integers(0, 999))
def test_test_time_equals_the_expectation_over_all_masks_of_a_linear_layer(
    units: int, keep: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    w, b, x = rng.normal(size=(3, units)), rng.normal(size=3), rng.normal(size=units)
    tensor = torch.from_numpy(x)
    kept, inverted = np.zeros(3), np.zeros(3)
    for chance, mask in weighed_masks(units, keep):
        m = torch.from_numpy(mask)
        kept += chance * (w @ ops.keep_dropout(tensor, m).numpy() + b)
        y = ops.inverted_dropout(tensor, m, drop_probability=1 - keep).numpy()
        inverted += chance * (w @ y + b)
    at_test = ops.keep_dropout_at_test(tensor, keep_probability=keep).numpy()
    np.testing.assert_allclose(kept, w @ at_test + b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(kept, (keep * w) @ x + b, rtol=1e-9, atol=1e-12)  # outgoing weights times p
    np.testing.assert_allclose(inverted, w @ x + b, rtol=1e-9, atol=1e-12)  # no scaling at test


def test_backward_is_the_mask() -> None:
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    mask = rng.integers(0, 2, size=(2, 5)).astype(float)
    m, gradient = torch.from_numpy(mask), torch.from_numpy(g)
    keep = ops.keep_dropout_backward(gradient, m).numpy()
    inverted = ops.inverted_dropout_backward(gradient, m, drop_probability=0.2).numpy()
    numeric = np.zeros((2, 2, 5))
    for place in np.ndindex(2, 5):
        step = np.zeros((2, 5))
        step[place] = 1e-6
        for form, scale in enumerate((1.0, 1 / 0.8)):
            up, down = ((scale * mask * (x + sign * step) * g).sum() for sign in (1, -1))
            numeric[(form, *place)] = (up - down) / 2e-6
    np.testing.assert_allclose(keep, numeric[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(inverted, numeric[1], rtol=1e-6, atol=1e-9)
    for found, expected in zip((keep, inverted), numeric, strict=True):
        planted = found.copy()
        planted.flat[np.abs(planted).argmax()] *= 1.01
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(planted, expected, rtol=1e-6, atol=1e-9)


def test_masks_have_the_probability_and_come_from_the_generator() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    mask = ops.bernoulli_mask((200, 200), 0.8, like=like, generator=seeded())
    assert mask.dtype == torch.float64
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.8, abs=0.01)
    again = ops.bernoulli_mask((200, 200), 0.8, like=like, generator=seeded())
    torch.testing.assert_close(mask, again, rtol=0, atol=0)
    assert ops.bernoulli_mask((50,), 1.0, like=like, generator=seeded()).min().item() == 1
    assert ops.bernoulli_mask((50,), 0.0, like=like, generator=seeded()).max().item() == 0


def test_without_a_generator_torch_gives_the_numbers() -> None:
    state = torch.get_rng_state()
    first = ops.bernoulli_mask((64,), 0.5, like=torch.zeros(1))
    torch.set_rng_state(state)
    torch.testing.assert_close(first, ops.bernoulli_mask((64,), 0.5, like=torch.zeros(1)), rtol=0, atol=0)
    torch.set_rng_state(state)


def test_dropping_everything_gives_zeros() -> None:
    x = torch.ones(4)
    torch.testing.assert_close(ops.inverted_dropout(x, torch.zeros(4), drop_probability=1.0), torch.zeros(4))


def test_noise_has_its_moments() -> None:
    x = torch.full((300, 300), 3.0, dtype=torch.float64)
    noise = ops.gaussian_noise(x, generator=seeded()) - x
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)  # N(0, 1) is the usual one
    wide = ops.gaussian_noise(x, std=2.5, generator=seeded()) - x
    torch.testing.assert_close(wide, 2.5 * noise)


@pytest.mark.parametrize("drop", [0.0, 0.2, 0.5, 0.9])
def test_gaussian_dropout_has_the_moments_of_inverted_dropout(drop: float) -> None:
    x = torch.zeros(400, 400, dtype=torch.float64)
    factor = ops.gaussian_dropout_factor(x, drop_probability=drop, generator=seeded())
    chances = [(1 - drop, 1 / (1 - drop)), (drop, 0.0)]  # of m / (1 - drop)
    variance = sum(p * (value - 1) ** 2 for p, value in chances)
    assert factor.mean().item() == pytest.approx(1, abs=0.03)
    assert factor.var().item() == pytest.approx(variance, rel=0.03, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_types_are_kept(dtype: torch.dtype) -> None:
    x = torch.ones(3, dtype=dtype)
    assert ops.gaussian_noise(x, generator=seeded()).dtype == dtype
    assert ops.gaussian_dropout_factor(x, drop_probability=0.5, generator=seeded()).dtype == dtype
    mask = ops.bernoulli_mask((3,), 0.5, like=x, generator=seeded())
    assert ops.inverted_dropout(x, mask, drop_probability=0.5).dtype == dtype


def test_messages_name_which_probability() -> None:
    with pytest.raises(ConvworksError, match=r"keep_probability = 1.5 .*keep_probability is 1 - drop_prob"):
        ops.bernoulli_mask((2,), 1.5, like=torch.zeros(1))
    with pytest.raises(ConvworksError, match=r"drop_probability = -0.1 .*drop_probability is 1 - keep_prob"):
        ops.inverted_dropout(torch.zeros(1), torch.zeros(1), drop_probability=-0.1)
    with pytest.raises(ConvworksError, match=r"drop_probability = 1(.|\n)*no bound"):
        ops.gaussian_dropout_factor(torch.zeros(1), drop_probability=1)
    with pytest.raises(ConvworksError, match=r"std = -1 does not fit"):
        ops.gaussian_noise(torch.zeros(1), std=-1)
    with pytest.raises(ConvworksError, match=r"keep_probability = nan"):
        ops.probability("keep_probability", float("nan"))
