"""Exponential moving average of a network's weights and running statistics (Polyak and Juditsky 1992)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """average = d * average + (1 - d) * weights after every step, with d = min(decay, (1 + t) / (10 + t)).

    The rising decay lets the average forget the random start within the first steps. Batch normalisation's
    running statistics are averaged the same way; counters are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = copied_state(network)

    def update(self, network: nn.Module, step: int) -> None:
        """`step` counts from 0 and is the step that was just made."""
        approach_(self.average, network, 1 - min(self.decay, (1 + step) / (10 + step)))


def copied_state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, as tensors of their own."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@torch.no_grad()
def approach_(average: dict[str, Tensor], network: nn.Module, share: float) -> None:
    """average += share (network - average), in place; counters are copied."""
    current = network.state_dict()
    floating = [name for name, value in average.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floating], [current[name] for name in floating], share)
    for name, value in average.items():
        if not value.is_floating_point():
            value.copy_(current[name])
