"""A dense layer whose connections, not its units, are dropped while it trains."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.ops.arguments import one_of
from convworks.ops.dropout import bernoulli_mask, probability

ACTIVATIONS = ("relu", "linear")
INFERENCES = ("gaussian", "mean")


class DropConnect(nn.Module):
    """r = a((M * W) v + m * b) in training with masks from Bernoulli(keep); (N, F) -> (N, O).

    Every example has masks of its own, and biases are masked too. The activation a, ReLU or none, is part of
    the layer, because inference needs it. At test a unit sums many masked terms, so before a it is nearly

        u ~ N(mu, s^2),   mu = keep (W v + b),   s^2 = keep (1 - keep) (W^2 v^2 + b^2)

    The paper draws samples of u and averages a(u) (Algorithm 2; `sample` does the same). inference="gaussian"
    is the limit of endless samples, E[max(0, u)] = mu Phi(mu / s) + s phi(mu / s): it draws nothing, so that
    a prediction is the same each time. inference="mean" is a(mu), as dropout does it. Without an activation
    both are mu. A new layer has torch's initial weights of linear layers.
    Raises BadArgument for a probability outside [0, 1] and for unknown names.
    Source: Wan, Zeiler, Zhang, LeCun, Fergus, "Regularization of neural networks using DropConnect", 2013,
    section 3.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        keep_probability: float = 0.5,
        activation: Literal["relu", "linear"] = "relu",
        inference: Literal["gaussian", "mean"] = "gaussian",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.keep_probability = probability("keep_probability", keep_probability)
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.inference = one_of("inference", inference, INFERENCES)
        self.generator = generator
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan-in)."""
        bound = 1 / math.sqrt(self.in_features)
        self.weight.uniform_(-bound, bound)
        self.bias.uniform_(-bound, bound)

    def forward(self, v: Tensor) -> Tensor:
        if self.training:
            return self._activated(self._masked(v))
        mu = self.keep_probability * F.linear(v, self.weight, self.bias)
        if self.inference == "mean" or self.activation == "linear":
            return self._activated(mu)
        return expected_relu(mu, self._variance(v))

    @torch.no_grad()
    def sample(self, v: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The mean of a(u) over `samples` draws of u: the paper's inference, Algorithm 2."""
        mu = self.keep_probability * F.linear(v, self.weight, self.bias)
        deviation = self._variance(v).sqrt()
        total = torch.zeros_like(mu)
        for _ in range(samples):
            noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
            total += self._activated(mu + deviation * noise)
        return total / samples

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one example's mean; the deviation takes as many again."""
        return math.prod(output) * self.in_features

    def extra_repr(self) -> str:
        keep, a, inference = self.keep_probability, self.activation, self.inference
        return f"{self.in_features}, {self.out_features}, {keep=}, activation={a}, inference={inference}"

    def _masked(self, v: Tensor) -> Tensor:
        """(M * W) v + m * b with masks (N, O, F) and (N, O)."""
        examples, keep = len(v), self.keep_probability
        shape = (examples, self.out_features, self.in_features + 1)
        mask = bernoulli_mask(shape, keep, like=self.weight, generator=self.generator)
        weight = self.weight * mask[:, :, :-1]
        bias = self.bias * mask[:, :, -1]
        return torch.bmm(weight, v.unsqueeze(2)).squeeze(2) + bias

    def _variance(self, v: Tensor) -> Tensor:
        keep = self.keep_probability
        return keep * (1 - keep) * F.linear(v.square(), self.weight.square(), self.bias.square())

    def _activated(self, u: Tensor) -> Tensor:
        return F.relu(u) if self.activation == "relu" else u


def expected_relu(mean: Tensor, variance: Tensor) -> Tensor:
    """E[max(0, u)] for u from N(mean, s^2): mean Phi(z) + s phi(z), z = mean / s; max(0, mean) for s = 0."""
    deviation = variance.float().clamp_min(1e-20).sqrt()
    z = mean.float() / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    expected: Tensor = mean * torch.special.ndtr(z) + deviation * density
    return expected.to(mean.dtype)
