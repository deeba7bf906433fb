"""Standardisation of each feature by itself, and whitening, which takes the correlations away too.

Both are measured once, on training data, and then are a fixed affine map of any data. Statistics are those of
the population (divided by N), taken in float64; the map is applied in the type of its input, float16 and
bfloat16 by way of float32.
Sources: LeCun, Bottou, Orr, Mueller 1998, "Efficient BackProp", section 4.3; Ioffe and Szegedy 2015,
section 2; lectures, overview of architectures, "Reducing internal covariate shift" and "Normalization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from convworks.ops.arguments import bad_argument, one_of
from convworks.ops.normalization import at_least_float32

WhiteningMethod = Literal["zca", "pca"]
WHITENING_METHODS = ("zca", "pca")
SAFE_EPSILON = 1e-5  # of the largest eigenvalue: what is proposed where the data has fewer dimensions


@dataclass(frozen=True, slots=True, eq=False)
class Standardisation:
    """z = (x - mean) / std of each feature, (N, *F) -> the same. `mean` and `std` are float64 (*F)."""

    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        _check_features(x, tuple(self.mean.shape))
        wide = at_least_float32(x)
        return ((wide - self.mean.to(wide)) / self.std.to(wide)).to(x.dtype)

    def backward(self, dz: Tensor) -> Tensor:
        """dx = dz / std; mean and std are constants."""
        wide = at_least_float32(dz)
        return (wide / self.std.to(wide)).to(dz.dtype)


def fit_standardisation(x: Tensor) -> Standardisation:
    """Mean and standard deviation of every feature of (N, *F), over N.

    A feature that never varies has std 1, so that it becomes 0 instead of 0/0; rounding of the mean counts
    as no variation. Raises BadArgument without examples.
    """
    values = _values(x)
    mean = values.mean(dim=0)
    variance = (values - mean).square().mean(dim=0)
    resolved = (torch.finfo(torch.float64).eps * values.abs().amax(dim=0)).square() * len(values)
    std = torch.where(variance > resolved, variance.sqrt(), 1.0)
    return Standardisation(mean, std)


def standardise(x: Tensor, *, reference: Tensor | None = None) -> Tensor:
    """z_i = (x_i - E[x_i]) / sqrt(Var[x_i]): mean 0 and standard deviation 1 of every feature of (N, *F).

    E and Var are those of `reference`, the training set (Nr, *F), which is x itself where none is given: a
    test set is standardised with the numbers of the training set. Constant features become 0.
    Source: lectures, overview of architectures, "Normalization". Raises BadArgument for other features.
    """
    return fit_standardisation(x if reference is None else reference)(x)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Whitening:
    """y = W (x - mean), (N, F) -> (N, F). `matrix` is W (F, F), `inverse` takes y back, both float64.

    `rank` is the number of directions in which the data varies; where it is less than F, the others come out
    as zeros and the covariance of y is I in `rank` directions only.
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor
    rank: int
    epsilon: float
    method: WhiteningMethod

    def __call__(self, x: Tensor) -> Tensor:
        _check_features(x, tuple(self.mean.shape))
        wide = at_least_float32(x)
        return ((wide - self.mean.to(wide)) @ self.matrix.to(wide).T).to(x.dtype)

    def backward(self, dy: Tensor) -> Tensor:
        """dx = W^T dy for every example; mean and W are constants."""
        wide = at_least_float32(dy)
        return (wide @ self.matrix.to(wide)).to(dy.dtype)

    def undo(self, y: Tensor) -> Tensor:
        """x = W^-1 y + mean."""
        wide = at_least_float32(y)
        return (wide @ self.inverse.to(wide).T + self.mean.to(wide)).to(y.dtype)


def covariance(x: Tensor) -> Tensor:
    """Cov[x] = E[x x^T] - E[x] E[x]^T of (N, F): (F, F) float64, taken from centred values, divided by N."""
    values = _values(x, matrix=True)
    centred = values - values.mean(dim=0)
    return centred.T @ centred / len(values)


def fit_whitening(x: Tensor, *, method: WhiteningMethod = "zca", epsilon: float = 0.0) -> Whitening:
    """The map y = Cov[x]^(-1/2) (x - E[x]), with Cov[y] = I, from the data (N, F).

    With Cov = U diag(l) U^T, "zca" is W = U diag(l)^(-1/2) U^T, the symmetric root of the formula, whose
    output stays nearest to its input; "pca" is W = diag(l)^(-1/2) U^T, the same up to a rotation: its outputs
    are the principal components, largest first. Each l becomes l + epsilon * max(l): with an epsilon, weak
    directions are amplified less and Cov[y] is l / (l + epsilon max l) in theirs. Data that varies in fewer
    than F directions (F >= N always) has no inverse root and needs an epsilon.
    Raises BadArgument without examples, for such data without an epsilon, and for a negative epsilon.
    """
    one_of("method", method, WHITENING_METHODS)
    if epsilon < 0:
        raise bad_argument("epsilon", epsilon, why="a variance grows by it", fits=f"epsilon={SAFE_EPSILON:g}")
    values, cov = _values(x, matrix=True), covariance(x)
    eigenvalues, vectors = torch.linalg.eigh(cov)
    eigenvalues, vectors = eigenvalues.flip(0).clamp(min=0), vectors.flip(1)  # largest first
    features, largest = len(eigenvalues), float(eigenvalues[0])
    resolved = largest * features * torch.finfo(torch.float64).eps
    rank = int((eigenvalues > resolved).sum())
    if rank < features and (epsilon == 0 or largest == 0):
        raise bad_argument(
            "epsilon",
            epsilon,
            why=f"the data varies in {rank} of {features} directions, so its covariance has no inverse root",
            fits=f"epsilon={SAFE_EPSILON:g}" if largest else "data that varies",
        )
    root = (eigenvalues + epsilon * largest).sqrt()
    matrix, inverse = (1 / root)[:, None] * vectors.T, vectors * root
    if method == "zca":
        matrix, inverse = vectors @ matrix, inverse @ vectors.T
    return Whitening(
        mean=values.mean(dim=0),
        matrix=matrix,
        inverse=inverse,
        rank=rank,
        epsilon=epsilon,
        method=method,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WhiteningCost:
    """Multiply-adds of whitening and of standardisation, to fit on N examples and to apply to one."""

    features: int
    whitening_fit: int
    whitening_apply: int
    standardisation_fit: int
    standardisation_apply: int

    def __str__(self) -> str:
        return (
            f"{self.features:,} features: whitening {self.whitening_apply:,} multiply-adds an example, "
            f"standardisation {self.standardisation_apply:,} ({self.features:,} times fewer); "
            f"fitting {self.whitening_fit:,} against {self.standardisation_fit:,}"
        )


def whitening_cost(features: int, examples: int) -> WhiteningCost:
    """What the lectures call expensive, counted.

    Whitening: N F^2 for the covariance, 9/2 F^3 for its eigenvectors (9 F^3 operations by the QR method,
    Golub and Van Loan, "Matrix Computations", section 8.3), F^3 for the product; then F^2 for each example.
    Standardisation: N F for the squares (means are additions only); then F for each example.
    Raises BadArgument for numbers below 1.
    """
    for name, value in (("features", features), ("examples", examples)):
        if value < 1:
            raise bad_argument(name, value, why="there is nothing to count", fits=f"{name}=1")
    return WhiteningCost(
        features=features,
        whitening_fit=examples * features**2 + 11 * features**3 // 2,
        whitening_apply=features**2,
        standardisation_fit=examples * features,
        standardisation_apply=features,
    )


def _values(x: Tensor, *, matrix: bool = False) -> Tensor:
    """x in float64. Raises BadArgument where it has no examples, or is no matrix and should be one."""
    if x.ndim < 2 or (matrix and x.ndim != 2):
        fits = "(N, F)" if matrix else "(N, ...)"
        raise bad_argument(
            "x", tuple(x.shape), why=f"it is {fits}", fits="x.flatten(1)" if x.ndim > 2 else fits
        )
    if 0 in x.shape:
        raise bad_argument("x", tuple(x.shape), why="there is nothing to measure", fits="one example or more")
    return x.double()


def _check_features(x: Tensor, features: tuple[int, ...]) -> None:
    if tuple(x.shape[1:]) != features:
        raise bad_argument(
            "x", tuple(x.shape), why=f"the statistics are of features {features}", fits=f"(N, *{features})"
        )
