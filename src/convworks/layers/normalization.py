"""Normalisation layers that torch lacks, and where batch norm goes in a stage."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from convworks.layers.containers import stage
from convworks.ops.arguments import bad_argument
from convworks.ops.normalization import (
    Contrast,
    ContrastForm,
    ResponseForm,
    local_contrast_norm,
    local_response_norm,
)
from convworks.ops.whitening import WhiteningMethod, fit_whitening

NormPlace = Literal["before", "after"]


class LocalResponseNorm(nn.Module):
    """b = a / (k + alpha sum a^2)^beta over `size` neighbouring maps; (N, C, *spatial) -> the same.

    form="sum" is AlexNet's and the default; form="mean" divides alpha by `size` as Caffe and
    `torch.nn.LocalResponseNorm` do, so AlexNet's values are alpha=1e-4 here and alpha=5e-4 there.
    See `ops.normalization.local_response_norm`. Source: Krizhevsky et al. 2012, section 3.3.
    Raises BadArgument, at the first input, for values that do not fit.
    """

    def __init__(
        self,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 2.0,
        *,
        form: ResponseForm = "sum",
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        self.form: ResponseForm = form

    def forward(self, a: Tensor) -> Tensor:
        return local_response_norm(
            a, size=self.size, alpha=self.alpha, beta=self.beta, k=self.k, form=self.form
        )

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha:g}, beta={self.beta:g}, k={self.k:g}, form='{self.form}'"


class LocalContrastNorm2d(nn.Module):
    """Subtracts the Gaussian mean around a place and divides by the deviation; (N, C, H, W) -> the same.

    Over all maps together with `across_maps`, as in the lectures, else in each map. See
    `ops.normalization.local_contrast_norm` for the forms "paper" and "exact", borders and flat patches.
    Source: Jarrett et al. 2009, section 2. Raises BadArgument for an even size and an unknown form.
    """

    def __init__(
        self,
        size: int = 7,
        sigma: float | None = None,
        *,
        across_maps: bool = True,
        form: ContrastForm = "paper",
        floor: float = 1e-6,
    ) -> None:
        super().__init__()
        self.settings = Contrast(size=size, sigma=sigma, across_maps=across_maps, form=form, floor=floor)

    def forward(self, x: Tensor) -> Tensor:
        return local_contrast_norm(x, self.settings)

    def extra_repr(self) -> str:
        given = self.settings
        width = given.size / 4 if given.sigma is None else given.sigma
        return f"{given.size}, sigma={width:g}, across_maps={given.across_maps}, form='{given.form}'"


class Whitening(nn.Module):
    """y = Cov[x]^(-1/2) (x - E[x]) of flattened examples, fitted once; (N, *F) -> the same shape.

    Until `fit` it leaves x as it is. Mean and matrix are buffers, not weights: they are saved with the
    network and not trained. See `ops.whitening.fit_whitening`; source: lectures, overview of architectures,
    "Reducing internal covariate shift". Raises BadArgument for an input of another size.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, features: int, *, method: WhiteningMethod = "zca", epsilon: float = 0.0) -> None:
        super().__init__()
        self.features, self.epsilon = features, epsilon
        self.method: WhiteningMethod = method
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("matrix", torch.eye(features))

    @torch.no_grad()
    def fit(self, x: Tensor) -> Whitening:
        """Measure training data (N, *F), and return the layer. Raises BadArgument as the operator does."""
        self._check(x)
        found = fit_whitening(x.flatten(1), method=self.method, epsilon=self.epsilon)
        self.mean.copy_(found.mean)
        self.matrix.copy_(found.matrix)
        return self

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        return ((x.flatten(1) - self.mean) @ self.matrix.T).view(x.shape)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one example: F^2."""
        return self.features**2

    def extra_repr(self) -> str:
        return f"{self.features}, method='{self.method}', epsilon={self.epsilon:g}"

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x[0].numel() != self.features:
            raise bad_argument(
                "x",
                tuple(x.shape),
                why=f"the layer has {self.features} features",
                fits=f"(N, {self.features})",
            )


def conv_norm_activation(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    norm: NormPlace | None = "before",
    bias: bool | None = None,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """A 2-D convolution, batch norm and an activation [ReLU], named conv, norm and activation in that order.

    norm="before" puts batch norm before the activation, a(BN(Wx)), as its paper does; "after" puts it behind,
    BN(a(Wx + b)), which the lectures ask about; None leaves it out. Before batch norm a bias is redundant,
    since BN subtracts the mean: it is left out there unless `bias` says otherwise.
    Sources: Ioffe and Szegedy 2015, section 3.2; lectures, recent developments, "Batch-Norm, Where?";
    lectures, overview of architectures, "Normalization (cont'd)".
    Raises BadArgument for another place.
    """
    if norm not in ("before", "after", None):
        raise bad_argument("norm", norm, why="it is 'before', 'after' or None", fits="norm='before'")
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=norm != "before" if bias is None else bias,
    )
    last = nn.ReLU(inplace=norm == "before") if activation is None else activation
    if norm is None:
        return stage(conv=conv, activation=last)
    after = nn.BatchNorm2d(out_channels)
    if norm == "before":
        return stage(conv=conv, norm=after, activation=last)
    return stage(conv=conv, activation=last, norm=after)
