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
        self.average: dict[str, Tensor] = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """`step` counts from 0 and is the step that was just made."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = network.state_dict()
        floating = [name for name, value in self.average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floating], [current[name] for name in floating], 1 - decay
        )
        for name, value in self.average.items():
            if not value.is_floating_point():
                value.copy_(current[name])
