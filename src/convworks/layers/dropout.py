"""Dropout in the lectures' form, and Gaussian noise. Inverted dropout is torch's own nn.Dropout(drop).

All are active in training mode only. They draw from `generator`, or from torch's own where it is None.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convworks.ops.dropout import (
    bernoulli_mask,
    gaussian_dropout_factor,
    gaussian_dropout_std,
    gaussian_noise,
    keep_dropout,
    keep_dropout_at_test,
    probability,
    standard_deviation,
)


class KeepDropout(nn.Module):
    """y = m x in training with m from Bernoulli(keep_probability), y = keep_probability x at test.

    Any shape. nn.Dropout(p) is the inverted form, and its p is the probability to DROP: the expectation of
    KeepDropout(keep_probability=k) is k x, that of nn.Dropout(1 - k) is x. Raises BadArgument outside [0, 1].
    Source: Srivastava et al. 2014, section 4; lectures, dropout.
    """

    def __init__(self, keep_probability: float = 0.5, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.keep_probability = probability("keep_probability", keep_probability)
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return keep_dropout_at_test(x, keep_probability=self.keep_probability)
        mask = bernoulli_mask(x.shape, self.keep_probability, like=x, generator=self.generator)
        return keep_dropout(x, mask)

    def extra_repr(self) -> str:
        return f"keep_probability={self.keep_probability}"


class GaussianNoise(nn.Module):
    """y = x + n in training with n from N(0, std^2), y = x at test. Any shape.

    Raises BadArgument for a negative `std`. Source: lectures, noise regularisation (N(0, 1), best with batch
    norm).
    """

    def __init__(self, std: float = 1.0, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.std = standard_deviation(std)
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        return gaussian_noise(x, std=self.std, generator=self.generator) if self.training else x

    def extra_repr(self) -> str:
        return f"std={self.std}"


class GaussianDropout(nn.Module):
    """y = f x in training with f from N(1, drop / (1 - drop)), y = x at test. Any shape.

    Mean and variance are those of inverted dropout. Raises BadArgument outside [0, 1).
    Source: Srivastava et al. 2014, section 10.
    """

    def __init__(self, drop_probability: float = 0.5, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        gaussian_dropout_std(drop_probability)  # or says why there is none
        self.drop_probability, self.generator = drop_probability, generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        drop, generator = self.drop_probability, self.generator
        return x * gaussian_dropout_factor(x, drop_probability=drop, generator=generator)

    def extra_repr(self) -> str:
        return f"drop_probability={self.drop_probability}"


def batch_norm_with_noise(
    channels: int, *, std: float = 1.0, generator: torch.Generator | None = None
) -> nn.Sequential:
    """Batch norm of maps (N, C, H, W), then noise: on activations of variance 1 its size means the same in
    every layer. Source: lectures, noise regularisation ("best results combined with batch-norm").
    """
    parts = nn.Sequential()
    parts.add_module("norm", nn.BatchNorm2d(channels))
    parts.add_module("noise", GaussianNoise(std, generator=generator))
    return parts
