"""Normalisation layers are their operators with settings; where batch norm goes, and the bias before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convworks.layers.normalization import (
    LocalContrastNorm2d,
    LocalResponseNorm,
    Whitening,
    conv_norm_activation,
)
from convworks.ops.arguments import BadArgument
from convworks.ops.normalization import Contrast, local_contrast_norm
from convworks.ops.whitening import fit_whitening


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_lrn_is_torchs_layer_with_alpha_times_five() -> None:
    x = 30 * draw(2, 8, 4, 4)
    torch.testing.assert_close(LocalResponseNorm()(x), nn.LocalResponseNorm(5, alpha=5e-4, k=2.0)(x))
    caffe = LocalResponseNorm(3, 0.2, 0.5, 1.0, form="mean")
    torch.testing.assert_close(caffe(x), nn.LocalResponseNorm(3, alpha=0.2, beta=0.5, k=1.0)(x))
    assert repr(LocalResponseNorm()) == "LocalResponseNorm(5, alpha=0.0001, beta=0.75, k=2, form='sum')"


@pytest.mark.parametrize(
    "options", [{}, {"across_maps": False}, {"form": "exact", "size": 5}, {"sigma": 1.0}, {"floor": 10.0}]
)
def test_contrast_is_the_operator(options: dict[str, Any]) -> None:
    x = draw(2, 3, 9, 9)
    y = LocalContrastNorm2d(**options)(x)
    torch.testing.assert_close(y, local_contrast_norm(x, Contrast(**options)), rtol=0, atol=0)
    if options:
        assert float((y - LocalContrastNorm2d()(x)).abs().max()) > 1e-3  # no option without an effect


def test_contrast_says_what_it_is() -> None:
    text = "LocalContrastNorm2d(7, sigma=1.75, across_maps=True, form='paper')"
    assert repr(LocalContrastNorm2d()) == text


def test_layers_have_gradients() -> None:
    x = draw(2, 3, 9, 9).requires_grad_()
    for layer in (LocalResponseNorm(), LocalContrastNorm2d()):
        (dx,) = torch.autograd.grad(layer(x).square().sum(), x)
        assert float(dx.abs().max()) > 1e-3


@pytest.mark.parametrize("method", ["zca", "pca"])
def test_whitening_layer(method: Any) -> None:
    x = (draw(200, 12) @ draw(12, 12, seed=1) + 3).view(200, 3, 2, 2)
    layer = Whitening(12, method=method)
    torch.testing.assert_close(layer(x), x, rtol=0, atol=0)
    y = layer.fit(x)(x)
    assert y.shape == x.shape
    np.testing.assert_allclose(np.cov(y.flatten(1).numpy(), rowvar=False, bias=True), np.eye(12), atol=1e-4)
    expected = fit_whitening(x.flatten(1), method=method)(x.flatten(1))
    torch.testing.assert_close(y.flatten(1), expected, rtol=1e-3, atol=1e-4)
    copied = Whitening(12)
    copied.load_state_dict(layer.state_dict())
    torch.testing.assert_close(copied(x), y, rtol=0, atol=0)
    assert list(layer.parameters()) == []
    assert layer.macs((12,)) == 144


def test_whitening_takes_its_epsilon_and_its_size() -> None:
    flat = torch.zeros(20, 4)
    flat[:, :2] = draw(20, 2)
    with pytest.raises(BadArgument, match="varies in 2 of 4 directions"):
        Whitening(4).fit(flat)
    assert not Whitening(4, epsilon=1e-5).fit(flat)(flat)[:, 2:].abs().gt(1e-4).any()
    with pytest.raises(BadArgument, match=r"x = \(2, 5\) does not fit: the layer has 4 features"):
        Whitening(4)(torch.ones(2, 5))


def names(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_children()]


def test_batch_norm_goes_before_or_after_the_activation_or_nowhere() -> None:
    assert names(conv_norm_activation(3, 4, 3)) == ["conv", "norm", "activation"]
    assert names(conv_norm_activation(3, 4, 3, norm="after")) == ["conv", "activation", "norm"]
    assert names(conv_norm_activation(3, 4, 3, norm=None)) == ["conv", "activation"]
    with pytest.raises(BadArgument, match="norm = 'behind' does not fit"):
        conv_norm_activation(3, 4, 3, norm="behind")  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "bias"), [("before", False), ("after", True), (None, True)])
def test_the_bias_is_dropped_where_it_is_redundant(norm: Any, bias: bool) -> None:
    conv = conv_norm_activation(3, 4, 3, norm=norm).get_submodule("conv")
    assert (conv.bias is not None) is bias
    asked = conv_norm_activation(3, 4, 3, norm=norm, bias=not bias).get_submodule("conv")
    assert (asked.bias is not None) is not bias


def test_a_bias_before_batch_norm_changes_nothing() -> None:
    """a(BN(Wx + b)) = a(BN(Wx)); behind the activation it does matter."""
    x = draw(4, 3, 8, 8)
    for norm, matters in (("before", False), ("after", True)):
        network = conv_norm_activation(3, 4, 3, norm=norm, bias=True)  # type: ignore[arg-type]
        conv = network.get_submodule("conv")
        assert isinstance(conv.bias, Tensor)
        nn.init.constant_(conv.bias, 0.7)
        with_bias = network(x)
        nn.init.zeros_(conv.bias)
        assert (float((network(x) - with_bias).detach().abs().max()) > 1e-4) is matters


def test_the_convolution_takes_its_geometry() -> None:
    network = conv_norm_activation(4, 8, 3, stride=2, padding=2, dilation=2, groups=2)
    assert network(draw(2, 4, 9, 9)).shape == (2, 8, 5, 5)


@pytest.mark.parametrize("norm", ["before", "after"])
def test_both_places_can_be_trained(norm: Any) -> None:
    """Two classes: a bar across or upright, on noise. Both places learn it from the same start."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 1, 8, 8, generator=generator), torch.arange(64) % 2
    x[y == 0, :, 4], x[y == 1, :, :, 4] = x[y == 0, :, 4] + 2, x[y == 1, :, :, 4] + 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            conv_norm_activation(1, 8, 3, norm=norm),
            conv_norm_activation(8, 8, 3, norm=norm),
            nn.Flatten(),
            nn.Linear(128, 2),
        )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
