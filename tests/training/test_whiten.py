from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convworks import models
from convworks.ops.arguments import BadArgument
from convworks.training.whiten import whiten_first_layer, whitening_filters


def pictures(count: int = 200, size: int = 9) -> torch.Tensor:
    """Images whose neighbouring pixels and channels hang together."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 3, size + 2, size + 2, generator=generator)
    x = torch.nn.functional.avg_pool2d(x, 3, 1)
    return x + 0.5 * x.mean(dim=1, keepdim=True)


def test_the_answers_to_the_patches_are_white() -> None:
    """Covariance of the responses, by numpy in float64: the identity, up to the small epsilon."""
    x = pictures()
    filters = whitening_filters(x, kernel=(2, 2), epsilon=0.0)
    assert filters.shape == (24, 3, 2, 2)
    patches = np.array([p[:, i : i + 2, j : j + 2] for p in x.numpy() for i in range(8) for j in range(8)])
    answers = patches.reshape(-1, 12).astype(np.float64) @ filters[:12].reshape(12, 12).double().numpy().T
    np.testing.assert_allclose(np.cov(answers.T, bias=True), np.eye(12), atol=1e-4)


def test_the_second_half_has_the_other_sign_and_directions_come_by_variance() -> None:
    x = pictures()
    filters = whitening_filters(x, kernel=(2, 2))
    torch.testing.assert_close(filters[12:], -filters[:12], rtol=0, atol=0)
    norms = filters[:12].flatten(1).norm(dim=1)
    assert bool((norms.diff() > -1e-6).all())  # 1 / root of the variance rises
    flat = filters[:12].flatten(1)
    assert bool((flat.gather(1, flat.abs().argmax(1, keepdim=True)) > 0).all())


def test_a_weak_direction_is_amplified_less_with_an_epsilon() -> None:
    x = pictures()
    free, held = (whitening_filters(x, kernel=(2, 2), epsilon=e)[11].norm().item() for e in (0.0, 0.1))
    assert held < 0.5 * free


def test_the_first_convolution_gets_them_and_stays_fixed() -> None:
    network = models.create("airbench94", num_classes=10)
    x = pictures(size=32)
    assert whiten_first_layer(network, x) == "whiten.conv"
    layer = network.whiten.conv
    torch.testing.assert_close(layer.weight, whitening_filters(x, kernel=(2, 2)))
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad


def test_a_narrower_layer_takes_the_strongest_directions_of_each_sign() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 2))
    x = pictures()
    whiten_first_layer(network, x)
    every = whitening_filters(x, kernel=(2, 2))
    torch.testing.assert_close(network[0].weight, torch.cat([every[:4], every[12:16]]))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 26, 2)), "12 directions"),
        (nn.Sequential(nn.Conv2d(3, 7, 2)), "even number up to 24"),
        (nn.Sequential(nn.Linear(3, 7)), "no convolution of the images"),
        (nn.Sequential(nn.Conv2d(1, 8, 2)), "no convolution of the images"),
    ],
)
def test_networks_that_it_does_not_fit_are_refused(network: nn.Module, words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        whiten_first_layer(network, pictures())


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(BadArgument, match="2x2 pixels"):
        whitening_filters(torch.zeros(3, 1, 1, 4), kernel=(2, 2))
