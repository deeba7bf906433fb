"""Initial weights that a paper prints: one rule for the weights of a stage, one constant for its biases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from convworks.layers import LocallyConnected2d
from convworks.layers.activation import Maxout

Fill = Callable[[Tensor], object]  # fills a tensor in place
WEIGHTED = (nn.Conv2d, nn.Linear, LocallyConnected2d, Maxout)


def normal(std: float) -> Fill:
    """N(0, std^2)."""
    return lambda weight: nn.init.normal_(weight, std=std)


def uniform(bound: float) -> Fill:
    """Between -bound and bound."""
    return lambda weight: nn.init.uniform_(weight, -bound, bound)


@torch.no_grad()
def initialise(network: nn.Module, weight: Fill, *, bias: float = 0.0) -> None:
    """Fill the convolutions, linear and maxout layers of a network, or of one stage of it.

    Weights by the rule, layer after layer, from torch's global generator; all biases with one number.
    """
    for layer in network.modules():
        if isinstance(layer, WEIGHTED):
            weight(layer.weight)
            if layer.bias is not None:
                layer.bias.fill_(bias)
