"""Euclidean radial basis function units, the output layer of LeNet-5."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RBFOutput(nn.Module):
    """Scores -y_i with y_i = sum_j (x_j - w_ij)^2, the squared distance of the input to a fixed code.

    (N, F) -> (N, K) for `codes` (K, F). The codes are a buffer: stored with the weights, not trained. A
    softmax over the scores gives the posterior of the paper, and its cross-entropy is the paper's
    maximum-a-posteriori criterion, equation 9, without the constant e^-j of the "rubbish" class.
    The distances are computed in float32 at least, under any autocast: near F = 84 bfloat16 has steps of 0.5.
    Source: LeCun et al. 1998, section II-B (equation 7) and II-C (equation 9).
    """

    codes: Tensor  # (K, F)

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes.to(torch.float32))

    @property
    def fixed_parameters(self) -> int:
        """Numbers that the layer holds and does not train."""
        return self.codes.numel()

    def forward(self, x: Tensor) -> Tensor:
        kind = "cpu" if x.device.type == "meta" else x.device.type  # autocast knows no meta device
        with torch.autocast(device_type=kind, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            w = self.codes.to(x.dtype)
            # -|x - w|^2 = 2 x.w - |w|^2 - |x|^2: one matrix product, no (N, K, F) tensor
            scores = torch.addmm(-w.square().sum(dim=1), x, w.T, alpha=2)
            return scores - x.square().sum(dim=1, keepdim=True)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image: one for each difference (x_j - w_ij)."""
        return self.codes.numel()

    def extra_repr(self) -> str:
        k, f = self.codes.shape
        return f"{f}, {k}, fixed codes"
