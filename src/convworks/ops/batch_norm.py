"""Batch normalisation: the four formulas forward, the six backward, population statistics, the affine map.

x is (N, F), a value of each feature for each example, or (N, C, *spatial), where every map is one feature
and all of its places count as examples: one gamma and one beta for each map, m = N * places values in each
mean. (A lecture's variance sums over i, the feature, where j, the example, is meant; here it is the example.)
Statistics of float16 and bfloat16 are taken in float32, and y is rounded once.
Sources: Ioffe and Szegedy 2015, "Batch Normalization", Algorithms 1 and 2 and sections 3.1 to 3.3; lectures,
overview of architectures, "Batch normalization"; lectures, recent developments, "Batch-Norm".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.arguments import bad_argument
from convworks.ops.normalization import at_least_float32

EPSILON = 1e-5  # under the root; the paper names none


@dataclass(frozen=True, slots=True, eq=False)
class BatchStatistics:
    """Mean and biased variance (divided by m) of each feature, (F,), over the m values of a mini-batch."""

    mean: Tensor
    var: Tensor
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class BatchNormGradients:
    """Every derivative of the loss l on the way back, named as in the formulas.

    x_hat and x have the shape of x, the others (F,). `mean` is the formula of the lectures, which lacks the
    paper's second term; that is `mean_through_var`, and is zero but for rounding.
    """

    x_hat: Tensor
    var: Tensor
    mean: Tensor
    mean_through_var: Tensor
    x: Tensor
    gamma: Tensor
    beta: Tensor


def batch_statistics(x: Tensor) -> BatchStatistics:
    """mu = (1/m) sum_i x_i and sigma^2 = (1/m) sum_i (x_i - mu)^2 of each feature: formulas 1 and 2.

    Raises BadArgument for x of less than two dimensions, or with one value for each feature, whose variance
    says nothing.
    """
    _check(x)
    wide, axes = at_least_float32(x), _axes(x)
    count = x.numel() // x.shape[1]
    if count < 2:
        raise bad_argument("x", tuple(x.shape), why="one value has no variance", fits="two examples or more")
    mean = wide.mean(dim=axes)
    var = (wide - _along(mean, x)).square().mean(dim=axes)
    return BatchStatistics(mean, var, count)


def normalised(x: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """x_hat = (x - mu) / sqrt(sigma^2 + epsilon): formula 3, in float32 at least."""
    wide = at_least_float32(x)
    return (wide - _along(mean, x)) / _along((var + epsilon).sqrt(), x)


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """y = gamma x_hat + beta with the statistics of this mini-batch: formula 4, as in training.

    gamma and beta are (F,). The gradient is `batch_norm_backward`, through mean and variance too. Adding a
    number to a feature, as a bias before batch norm does, changes nothing; nor does multiplying x by c > 0
    (where epsilon does not count), and the gradient to the weights before it is 1/c of what it was.
    Raises BadArgument as `batch_statistics` does, for gamma or beta of another length, and for a negative
    epsilon.
    """
    _check(x, gamma=gamma, beta=beta)
    _check_epsilon(epsilon)
    result: Tensor = _BatchNorm.apply(x, gamma, beta, epsilon)  # type: ignore[no-untyped-call]
    return result


def batch_norm_backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    statistics: BatchStatistics,
    *,
    epsilon: float = EPSILON,
) -> BatchNormGradients:
    """The six formulas; sums run over the m values of a feature, and s^2 = sigma^2 + epsilon.

        1  dl/dx_hat_i  = dl/dy_i gamma
        2  dl/dsigma^2  = sum_i dl/dx_hat_i (x_i - mu) (-1/2) s^-3
        3  dl/dmu       = sum_i dl/dx_hat_i (-1/s)
                          [+ dl/dsigma^2 (1/m) sum_i -2 (x_i - mu), which is 0 as the x_i - mu add up to 0]
        4  dl/dx_i      = dl/dx_hat_i / s + dl/dsigma^2 2 (x_i - mu) / m + dl/dmu / m
        5  dl/dgamma    = sum_i dl/dy_i x_hat_i
        6  dl/dbeta     = sum_i dl/dy_i

    The term in brackets is in the paper and not in the lectures; it is returned, and not used.
    """
    axes, m = _axes(x), statistics.count
    wide, g = at_least_float32(x), at_least_float32(dy)
    off = wide - _along(statistics.mean, x)
    s = (statistics.var + epsilon).sqrt()
    d_x_hat = g * _along(gamma.to(g), x)
    d_var = (d_x_hat * off).sum(dim=axes) * -0.5 * s**-3
    d_mean = -d_x_hat.sum(dim=axes) / s
    through_var = d_var * (-2 * off).sum(dim=axes) / m
    d_x = d_x_hat / _along(s, x) + _along(d_var, x) * 2 * off / m + _along(d_mean, x) / m
    return BatchNormGradients(
        x_hat=d_x_hat,
        var=d_var,
        mean=d_mean,
        mean_through_var=through_var,
        x=d_x.to(x.dtype),
        gamma=(g * off / _along(s, x)).sum(dim=axes).to(gamma.dtype),
        beta=g.sum(dim=axes).to(gamma.dtype),
    )


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
        statistics = batch_statistics(x)
        ctx.save_for_backward(x, gamma, statistics.mean, statistics.var)
        ctx.count, ctx.epsilon = statistics.count, epsilon
        x_hat = normalised(x, statistics.mean, statistics.var, epsilon=epsilon)
        return (_along(gamma.to(x_hat), x) * x_hat + _along(beta.to(x_hat), x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mean, var = ctx.saved_tensors
        statistics = BatchStatistics(mean, var, ctx.count)
        found = batch_norm_backward(dy, x, gamma, statistics, epsilon=ctx.epsilon)
        return found.x, found.gamma, found.beta, None


# Inference


def fold_affine(
    gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor]:
    """y = scale x + shift: scale = gamma / sqrt(Var + epsilon), shift = beta - scale E, each (F,) float64.

    The last line of the paper's Algorithm 2. gamma = sqrt(Var + epsilon) and beta = E give scale 1, shift 0.
    """
    _check_epsilon(epsilon)
    scale = gamma.double() / (var.double() + epsilon).sqrt()
    return scale, beta.double() - scale * mean.double()


def batch_norm_inference(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = EPSILON
) -> Tensor:
    """gamma (x - E) / sqrt(Var + epsilon) + beta with population statistics (F,): no example sees another."""
    _check(x, gamma=gamma, beta=beta, mean=mean, var=var)
    _check_epsilon(epsilon)
    x_hat = normalised(x, mean.to(at_least_float32(x)), var.to(at_least_float32(x)), epsilon=epsilon)
    return (_along(gamma.to(x_hat), x) * x_hat + _along(beta.to(x_hat), x)).to(x.dtype)


def batch_norm_inference_backward(
    dy: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor, Tensor]:
    """dx = dy gamma / sqrt(Var + epsilon), dgamma and dbeta as in training; E and Var are constants."""
    g, axes = at_least_float32(dy), _axes(x)
    scale = gamma.to(g) / (var.to(g) + epsilon).sqrt()
    x_hat = normalised(x, mean.to(g), var.to(g), epsilon=epsilon)
    d_gamma, d_beta = (g * x_hat).sum(dim=axes), g.sum(dim=axes)
    return (g * _along(scale, x)).to(x.dtype), d_gamma.to(gamma.dtype), d_beta.to(gamma.dtype)


# Statistics of the population


def average_of_batches(batches: Iterable[BatchStatistics]) -> tuple[Tensor, Tensor]:
    """E[x] = E_B[mu_B] and Var[x] = m/(m-1) E_B[sigma_B^2], as the paper's Algorithm 2 has them: (F,) each.

    Batches of m values, every one. This is unbiased for batches drawn at random; it leaves out how much the
    batches' means differ, so for given batches it is not the variance of all values: that is
    `PopulationStatistics`. Raises BadArgument without batches, and for batches of different sizes.
    """
    found = list(batches)
    counts = sorted({each.count for each in found})
    if len(counts) != 1:
        why = "the formula has one m" if counts else "there is no batch"
        raise bad_argument("batches", counts, why=why, fits="batches of one size")
    m = counts[0]
    mean = torch.stack([each.mean.double() for each in found]).mean(dim=0)
    var = torch.stack([each.var.double() for each in found]).mean(dim=0)
    return mean, var * m / (m - 1)


class PopulationStatistics:
    """Mean and variance of each feature over all batches together, exact to rounding, in float64.

    `add` takes x (N, F) or (N, C, *spatial), any N; batches are joined by the difference of their means, so
    that nothing cancels (Chan, Golub, LeVeque 1983). `var` is unbiased, m/(m-1) times the biased one, with m
    the number of all values: the limit of Algorithm 2 with all data in one batch.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean, self._squares = torch.zeros(()), torch.zeros(())  # squares: of differences from the mean

    def add(self, x: Tensor) -> None:
        """Count another batch. Raises BadArgument for other features than before."""
        _check(x)
        if self.count and len(self._mean) != x.shape[1]:
            raise bad_argument("x", tuple(x.shape), why=f"before there were {len(self._mean)} features")
        wide, axes, count = x.double(), _axes(x), x.numel() // x.shape[1]
        if count == 0:
            return
        mean = wide.mean(dim=axes)
        squares = (wide - _along(mean, x)).square().sum(dim=axes)
        total = self.count + count
        if self.count:
            step = mean - self._mean
            squares += self._squares + step.square() * (self.count * count / total)
            mean = self._mean + step * (count / total)
        self._mean, self._squares, self.count = mean, squares, total

    @property
    def mean(self) -> Tensor:
        """(F,). Raises BadArgument before the first batch."""
        self._require(1)
        return self._mean

    @property
    def var(self) -> Tensor:
        """(F,), divided by m - 1. Raises BadArgument before there are two values."""
        self._require(2)
        return self._squares / (self.count - 1)

    def _require(self, least: int) -> None:
        if self.count < least:
            raise bad_argument("m", self.count, why=f"it takes {least} values or more", fits="add a batch")


def _axes(x: Tensor) -> tuple[int, ...]:
    """All but the features'."""
    return (0, *range(2, x.ndim))


def _along(values: Tensor, x: Tensor) -> Tensor:
    """(F,) -> (1, F, 1, ...) for a broadcast over x."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _check(x: Tensor, **by_feature: Tensor) -> None:
    if x.ndim < 2 or x.shape[1] == 0:
        raise bad_argument("x", tuple(x.shape), why="it is (N, F) or (N, C, ...)")
    for name, values in by_feature.items():
        if tuple(values.shape) != (x.shape[1],):
            raise bad_argument(
                name,
                tuple(values.shape),
                why=f"there are {x.shape[1]} features",
                fits=f"({x.shape[1]},)",
            )


def _check_epsilon(epsilon: float) -> None:
    if not epsilon >= 0:
        raise bad_argument("epsilon", epsilon, why="it goes under a root", fits="epsilon=1e-5")
