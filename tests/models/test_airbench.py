"""The width of the airbench networks; all else of them is in the battery and in the papers' numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from convworks import models
from convworks.errors import ConvworksError


def maps(name: str, **options: Any) -> list[int]:
    network = models.create(name, num_classes=7, in_channels=1, input_size=(28, 28), **options)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    return [each.out_channels for each in network.modules() if isinstance(each, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "width", "blocks"),
    [
        ("airbench94", 1.0, (64, 256, 256)),
        ("airbench94", 0.5, (32, 128, 128)),
        ("airbench94", 0.02, (1, 5, 5)),
        ("airbench95", 0.5, (64, 192, 192)),
        ("airbench95", 2, (256, 768, 768)),
    ],
)
def test_the_width_multiplies_all_blocks_and_not_the_whitening(
    name: str, width: float, blocks: tuple[int, ...]
) -> None:
    assert maps(name, width=width) == [8, *(each for block in blocks for each in (block, block))]


@pytest.mark.parametrize("width", [0, -1, 0.01, 17, "wide", float("nan")])
def test_a_width_that_leaves_no_maps(width: object) -> None:
    with pytest.raises(ConvworksError, match="option 'width' of airbench94 cannot be") as caught:
        maps("airbench94", width=width)
    assert caught.value.code == "U123"
    assert caught.value.hint == "convworks train DATA --model airbench94 --set model_options.width=0.5"
