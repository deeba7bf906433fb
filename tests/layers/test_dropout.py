"""Dropout and noise as layers: in training, at test, and with a generator of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks.errors import ConvworksError
from convworks.layers.dropout import GaussianDropout, GaussianNoise, KeepDropout, batch_norm_with_noise

ONES = torch.ones(200, 200)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_probability_of_the_lectures_is_to_keep_and_that_of_torch_to_drop() -> None:
    kept = KeepDropout(keep_probability=0.8, generator=seeded())(ONES)
    assert (kept > 0).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert kept.max().item() == 1.0  # not scaled in training
    torch.manual_seed(0)
    theirs = nn.Dropout(p=0.8)(ONES)
    assert (theirs > 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert theirs.max().item() == pytest.approx(5.0)  # inverted: scaled in training


def test_at_test_the_keep_form_scales_and_the_inverted_form_does_not() -> None:
    layer = KeepDropout(keep_probability=0.8).eval()
    torch.testing.assert_close(layer(ONES), 0.8 * ONES)
    torch.testing.assert_close(nn.Dropout(p=0.2).eval()(ONES), ONES)
    torch.testing.assert_close(GaussianNoise().eval()(ONES), ONES, rtol=0, atol=0)
    torch.testing.assert_close(GaussianDropout(0.5).eval()(ONES), ONES, rtol=0, atol=0)


def test_backward_is_the_mask() -> None:
    x = torch.randn(50, 50, generator=seeded()).requires_grad_()
    y = KeepDropout(keep_probability=0.5, generator=seeded())(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y.detach() != 0).float())


def test_gaussian_layers_in_training() -> None:
    noise = GaussianNoise(std=0.5, generator=seeded())(ONES) - ONES
    assert noise.std().item() == pytest.approx(0.5, abs=0.01)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)
    factor = GaussianDropout(drop_probability=0.2, generator=seeded())(ONES)
    assert factor.var().item() == pytest.approx(0.25, abs=0.01)
    x = torch.ones(5, requires_grad=True)
    y = GaussianDropout(0.5, generator=seeded())(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())  # dC/dx = f, and y = f where x is 1


@pytest.mark.parametrize("make", [KeepDropout, GaussianNoise, GaussianDropout])
def test_the_generator_decides(make: type[nn.Module]) -> None:
    first, second = make(generator=seeded()), make(generator=seeded())
    y = first(ONES)
    torch.testing.assert_close(y, second(ONES), rtol=0, atol=0)
    assert not torch.equal(y, first(ONES))  # each call draws anew
    state = torch.get_rng_state()
    first(ONES)
    assert torch.equal(state, torch.get_rng_state())


def test_the_preset_of_noise_after_batch_norm() -> None:
    layer = batch_norm_with_noise(3, std=1.0, generator=seeded())
    x = 7 + 5 * torch.randn(16, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    y = layer(x)
    assert y.var().item() == pytest.approx(2.0, abs=0.1)  # 1 of the activations and 1 of the noise
    assert [type(part).__name__ for part in layer] == ["BatchNorm2d", "GaussianNoise"]
    layer.eval()
    torch.testing.assert_close(layer(x), layer(x), rtol=0, atol=0)


def test_values_that_do_not_fit() -> None:
    with pytest.raises(ConvworksError, match="keep_probability = 2 does not fit"):
        KeepDropout(2)
    with pytest.raises(ConvworksError, match="std = -1 does not fit"):
        GaussianNoise(-1)
    with pytest.raises(ConvworksError, match="drop_probability = 1 does not fit"):
        GaussianDropout(1)


def test_repr_names_the_probability() -> None:
    assert repr(KeepDropout(0.8)) == "KeepDropout(keep_probability=0.8)"
    assert repr(GaussianDropout(0.2)) == "GaussianDropout(drop_probability=0.2)"
    assert repr(GaussianNoise()) == "GaussianNoise(std=1.0)"
