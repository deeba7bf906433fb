"""Pooling layers that torch lacks. Its own are nn.MaxPool1d to 3d, AvgPool1d to 3d and LPPool1d to 3d."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.ops.arguments import Sizes, bad_argument, one_of, per_dimension
from convworks.ops.maxout import max_across_groups
from convworks.ops.pool_window import pool_window
from convworks.ops.pooling import POOLINGS, global_max, global_mean, pool
from convworks.ops.shape import Padding
from convworks.ops.weighted_pooling import weighted_mean_through_autograd


class Subsampling(nn.Module):
    """The S layers of LeNet-5: the sum of each 2x2 block, times a trainable coefficient, plus a bias.

    (N, C, H, W) -> (N, C, H/2, W/2), blocks do not overlap. There is one coefficient and one bias for each
    map, 2C parameters. The squashing function that follows in the paper is a layer of its own here. A new
    layer averages (coefficient 1/4, bias 0). Its formulas are `ops.pooling.subsample` and its backward.
    Source: LeCun et al. 1998, section II-B, layer S2.
    """

    def __init__(self, channels: int, size: int = 2) -> None:
        super().__init__()
        self.kernel_size = self.stride = (size, size)
        self.padding = (0, 0)
        self.coefficient = nn.Parameter(torch.full((channels,), 1 / size**2))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        total = F.avg_pool2d(x, self.kernel_size, divisor_override=1)  # a sum, not a mean
        # Under autocast the sums are bfloat16: stay there, instead of going up to the parameters' float32.
        coefficient = self.coefficient.to(total.dtype)[:, None, None]
        return torch.addcmul(self.bias.to(total.dtype)[:, None, None], total, coefficient)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image for an output (C, H, W): each unit has size x size inputs."""
        c, h, w = output
        return c * h * w * self.kernel_size[0] * self.kernel_size[1]

    def extra_repr(self) -> str:
        return f"{self.coefficient.numel()}, size={self.kernel_size[0]}"


class Pool(nn.Module):
    """Pooling of any kind (max, mean, sum, l2), rank 1 to 3, and padding, also by name.

    (N, C, size...) -> (N, C, output...), for kinds and paddings that torch's own layers do not know, such as
    "same" and "tf_same". The stride is the kernel's size where it is None. Forward and backward are those of
    ops/pooling.py: of equal numbers the first wins, and the L2 norm of zeros has the gradient 0.
    Raises BadArgument for another kind, and for windows that do not fit.
    """

    def __init__(
        self,
        kind: str,
        kernel_size: Sizes,
        *,
        stride: Sizes | None = None,
        padding: Padding = 0,
        ceil: bool = False,
        count_padding: bool = True,
    ) -> None:
        super().__init__()
        self.kind = one_of("kind", kind, POOLINGS)
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil, self.count_padding = padding, ceil, count_padding

    def forward(self, x: Tensor) -> Tensor:
        return pool(
            x,
            self.kind,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil=self.ceil,
            count_padding=self.count_padding,
        )

    def extra_repr(self) -> str:
        return f"{self.kind}, kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _Pool2d(nn.Module):
    """The window of a pooling on images."""

    def __init__(self, kernel_size: Sizes, *, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        super().__init__()
        rows, columns = per_dimension("kernel_size", kernel_size, 2)
        down, right = (rows, columns) if stride is None else per_dimension("stride", stride, 2)
        above, left = per_dimension("padding", padding, 2, least=0)
        self.kernel_size, self.stride, self.padding = (rows, columns), (down, right), (above, left)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class SumPool2d(_Pool2d):
    """The sum over each window: (N, C, H, W) -> (N, C, H', W'), no parameters, with torch's own kernel.

    Padding of more than half a kernel is torch's error. Source: lectures, pooling ("sum or max").
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, divisor_override=1)


class L2Pool2d(_Pool2d):
    """sqrt of the sum of squares over each window: (N, C, H, W) -> (N, C, H', W'), no parameters.

    nn.LPPool2d(2, ...) has the same values, and the gradient NaN for a window of zeros; here it is 0.
    Source: lectures, pooling (L2 norm).
    """

    def forward(self, x: Tensor) -> Tensor:
        return pool(x, "l2", self.kernel_size, stride=self.stride, padding=self.padding)


class WeightedMeanPool2d(_Pool2d):
    """sum of w_p x_p / sum of w_p over each window, one weight for each cell p of the window, for all maps.

    (N, C, H, W) -> (N, C, H', W'). `weight` is learned where `trainable`, and begins at 1, a mean, or at the
    tensor that is given, such as ops.weighted_pooling.distance_weights. The sum of the weights must not be 0.
    Raises BadArgument for a weight of another shape than the window's. Source: lectures, pooling (weighted
    mean); Goodfellow, Bengio, Courville 2016, section 9.3.
    """

    weight: Tensor

    def __init__(
        self,
        kernel_size: Sizes,
        *,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        weight: Tensor | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride=stride, padding=padding)
        first = torch.ones(self.kernel_size) if weight is None else weight.detach().clone()
        if tuple(first.shape) != self.kernel_size:
            fits = f"a weight of shape {self.kernel_size}"
            raise bad_argument(
                "weight.shape", tuple(first.shape), why=f"the window is {self.kernel_size}", fits=fits
            )
        if trainable:
            self.weight = nn.Parameter(first)
        else:
            self.register_buffer("weight", first)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        window = pool_window(size, self.kernel_size, stride=self.stride, padding=self.padding)
        return weighted_mean_through_autograd(x, self.weight, window)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image for an output (C, H, W): each unit has a weight for each cell."""
        return math.prod(output) * math.prod(self.kernel_size)


class MaxoutPool(nn.Module):
    """The largest of each `pieces` consecutive maps: (N, C, ...) -> (N, C / pieces, ...).

    The gradient goes to the winner; of equal maps the first wins. Raises BadArgument where `pieces` does not
    divide C. Source: Goodfellow et al. 2013; lectures, pooling across feature groups.
    """

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        if pieces < 1:
            raise bad_argument("pieces", pieces, why="it is a number of maps", fits="pieces=2")
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return max_across_groups(x, self.pieces)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class _GlobalPool(nn.Module):
    """(N, C, ...) -> (N, C), or with `keepdim` (N, C, 1, ...)."""

    def __init__(self, *, keepdim: bool = False) -> None:
        super().__init__()
        self.keepdim = keepdim

    def _shaped(self, y: Tensor) -> Tensor:
        return y if self.keepdim else y.flatten(1)

    def extra_repr(self) -> str:
        return f"keepdim={self.keepdim}"


class GlobalAveragePool(_GlobalPool):
    """The mean of each map, of 1 to 3 dimensions: (N, C, ...) -> (N, C), or (N, C, 1, ...) with `keepdim`.

    7x7x1024 becomes 1x1x1024 in GoogLeNet. Source: Lin et al. 2013, section 3.2; lectures, GoogLeNet.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._shaped(global_mean(x))


class GlobalMaxPool(_GlobalPool):
    """The maximum of each map, of 1 to 3 dimensions: (N, C, ...) -> (N, C), or (N, C, 1, ...) with `keepdim`.

    The gradient goes to the first maximum in row-major order, where torch.amax divides it among equal ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._shaped(global_max(x)[0])
