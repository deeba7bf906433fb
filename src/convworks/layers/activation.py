"""Activations that torch lacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScaledTanh(nn.Module):
    """f(a) = A tanh(S a), by default the squashing function of LeNet-5.

    A = 1.7159 and S = 2/3 make f(1) = 1 and f(-1) = -1, and put the largest curvature there, so that targets
    of +1 and -1 lie inside the range. Any shape; elementwise. Source: LeCun, Bottou, Bengio, Haffner,
    "Gradient-based learning applied to document recognition", 1998, section II-B and appendix A.
    """

    def __init__(self, amplitude: float = 1.7159, slope: float = 2 / 3) -> None:
        super().__init__()
        self.amplitude, self.slope = amplitude, slope

    def forward(self, a: Tensor) -> Tensor:
        return self.amplitude * torch.tanh(self.slope * a)

    def extra_repr(self) -> str:
        return f"{self.amplitude:g} tanh({self.slope:.4g} a)"
