"""Convolutional layers with every option of the lectures, and those that torch lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.ops.activation import ACTIVATIONS
from convworks.ops.arguments import Sizes, bad_argument, one_of, per_dimension
from convworks.ops.convolution import ALGORITHMS, convolve
from convworks.ops.shape import PADDING_MODES, Padding

DATA_FORMATS = ("channels_first", "channels_last")
Initializer: TypeAlias = Callable[[Tensor], object]  # fills a tensor in place


class _Convolution(nn.Module):
    """A convolutional layer of any rank; the final classes fix the rank."""

    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        *,
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        activation: str | None = None,
        weight_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        data_format: str = "channels_first",
        algorithm: str = "library",
        true_convolution: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = per_dimension("kernel_size", kernel_size, self.rank)
        self.stride = per_dimension("stride", stride, self.rank)
        self.dilation = per_dimension("dilation", dilation, self.rank)
        if isinstance(padding, str):
            one_of("padding", padding, PADDING_MODES)
        if groups < 1 or in_channels % groups or out_channels % groups:
            why = f"it must divide in_channels={in_channels} and out_channels={out_channels}"
            raise bad_argument(
                "groups", groups, why=why, fits=f"groups={math.gcd(in_channels, out_channels)}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.padding = padding
        self.activation = None if activation is None else one_of("activation", activation, ACTIVATIONS)
        self.data_format = one_of("data_format", data_format, DATA_FORMATS)
        self.algorithm = one_of("algorithm", algorithm, ALGORITHMS)
        self.true_convolution = true_convolution
        self.weight_init, self.bias_init = weight_init, bias_init
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """`weight_init` and `bias_init` where given; else uniform in +-1/sqrt(fan-in), torch's own rule."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        if self.weight_init is not None:
            self.weight_init(self.weight)
        else:
            self.weight.uniform_(-bound, bound)
        if self.bias is None:
            return
        if self.bias_init is not None:
            self.bias_init(self.bias)
        else:
            self.bias.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        last = self.data_format == "channels_last"
        y = convolve(
            x.movedim(-1, 1) if last else x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            algorithm=self.algorithm,
            flip=self.true_convolution,
        )
        if self.activation is not None:
            y = ACTIVATIONS[self.activation].apply(y)
        return y.movedim(1, -1) if last else y

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image: outputs times the inputs that each of them has."""
        return math.prod(output) * self.weight[0].numel()

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        usual = {"stride": (1,) * self.rank, "padding": 0, "dilation": (1,) * self.rank, "groups": 1,
                 "activation": None, "data_format": "channels_first", "algorithm": "library",
                 "true_convolution": False}  # fmt: skip
        parts += [
            f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value
        ]
        return ", ".join(parts + ([] if self.bias is not None else ["bias=False"]))


class Conv1d(_Convolution):
    """The convolutional layer of the lectures on sequences: h = phi(b + sum over c, m of w h).

    (N, C, L) -> (N, O, L'), or (N, L, C) -> (N, L', O) with `data_format="channels_last"`. Beside the options
    of torch's own: `padding` by name ("full", "same", "valid", "causal", "tf_same"), `activation` by name,
    initialisers that fill a tensor in place, the `algorithm` (ops/convolution.py), and `true_convolution`,
    which reverses the kernel. Raises BadArgument. Source: lectures, "convolutional layer".
    """

    rank = 1


class Conv2d(_Convolution):
    """As `Conv1d`, on images: (N, C, H, W) -> (N, O, H', W'), or (N, H, W, C) with channels last.

    8 kernels of 3x3 with padding "same" on (10, 24, 24, 3) give (10, 24, 24, 8); 224 parameters.
    """

    rank = 2


class Conv3d(_Convolution):
    """As `Conv1d`, on volumes: (N, C, D, H, W) -> (N, O, D', H', W')."""

    rank = 3


class DepthwiseConv2d(Conv2d):
    """Kernels for each input map, which see that map alone: (N, C, H, W) -> (N, C multiplier, H', W').

    Source: lectures, "depthwise separable convolution"; Chollet, "Xception", 2017.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: Sizes,
        *,
        depth_multiplier: int = 1,
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        bias: bool = True,
    ) -> None:
        if depth_multiplier < 1:
            raise bad_argument(
                "depth_multiplier", depth_multiplier, why="it is a number of kernels", fits="1"
            )
        super().__init__(
            in_channels,
            in_channels * depth_multiplier,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=bias,
        )


class SeparableConv2d(nn.Sequential):
    """A depthwise convolution, then 1x1 kernels over its maps: (N, C, H, W) -> (N, O, H', W').

    7x7 at stride 2 on 3 maps with multiplier 8 to 64 maps has 2,712 weights and at 224 pixels 34,019,328
    multiply-adds: the first row of GoogLeNet's table. Source: lectures, "depthwise separable convolution".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        *,
        depth_multiplier: int = 1,
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2d(
            in_channels,
            kernel_size,
            depth_multiplier=depth_multiplier,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=False,
        )
        self.pointwise = Conv2d(in_channels * depth_multiplier, out_channels, 1, bias=bias)


class ConnectionTableConv2d(nn.Module):
    """A convolution whose output maps each see only some of the input maps, as a connection table says.

    (N, I, H, W) -> (N, O, H-k+1, W-k+1). `table` has I rows of O characters, "X" where an input map (row) is
    connected to an output map (column) and "." where it is not: the layout of Table I. There is one k x k
    kernel for each X and one bias for each output map; nothing is stored for a ".". `weight` is (X, k, k),
    ordered by output map and then by input map.
    Raises ValueError for a table of another form, or with an output map that sees nothing.
    Source: LeCun et al. 1998, section II-B, layer C3 and Table I.
    """

    position: Tensor  # (X,) place of each kernel in the flattened (O, I) grid

    def __init__(self, table: Sequence[str], kernel_size: int) -> None:
        super().__init__()
        rows = [row.replace(" ", "") for row in table]
        if not rows or len({len(row) for row in rows}) != 1 or not set("".join(rows)) <= {"X", "."}:
            raise ValueError(f"a connection table is rows of one length made of X and '.', got {list(table)}")
        inputs, outputs = len(rows), len(rows[0])
        pairs = [(o, i) for o in range(outputs) for i in range(inputs) if rows[i][o] == "X"]
        self.inputs_of = tuple(sum(out == o for out, _ in pairs) for o in range(outputs))
        if 0 in self.inputs_of:
            raise ValueError(
                f"output map {self.inputs_of.index(0)} of the connection table sees no input map"
            )
        self.in_channels, self.out_channels = inputs, outputs
        self.kernel_size = (kernel_size, kernel_size)
        self.stride, self.padding = (1, 1), (0, 0)
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.register_buffer(
            "position", torch.tensor([o * inputs + i for o, i in pairs], dtype=torch.int64), persistent=False
        )
        self.reset_parameters()

    def fan_in(self) -> tuple[Tensor, Tensor]:
        """Inputs of the unit that each kernel (X,) and each bias (O,) belongs to."""
        area = self.kernel_size[0] * self.kernel_size[1]
        of_map = torch.tensor(self.inputs_of, dtype=torch.float32, device=self.position.device) * area
        return of_map[self.position // self.in_channels], of_map

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan-in), torch's rule for its own convolutions, with the fan-in of each map."""
        of_kernel, of_map = self.fan_in()
        self.weight.uniform_(-1, 1).div_(of_kernel.sqrt()[:, None, None])
        self.bias.uniform_(-1, 1).div_(of_map.sqrt())

    def dense_weight(self) -> Tensor:
        """The kernels as an ordinary (O, I, k, k) weight with zeros where the table has no connection."""
        grid = self.weight.new_zeros(self.out_channels * self.in_channels, *self.kernel_size)
        dense = grid.index_copy(0, self.position, self.weight)
        return dense.view(self.out_channels, self.in_channels, *self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.dense_weight(), self.bias)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image for an output (O, H, W): only the connections of the table count."""
        return math.prod(output[1:]) * self.weight.numel()

    def extra_repr(self) -> str:
        k = self.kernel_size[0]
        return f"{self.in_channels}, {self.out_channels}, kernel_size={k}, kernels={self.weight.shape[0]}"
