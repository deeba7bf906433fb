"""The convolutions of the catalogue: Keras's options, made into those of torch and of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from convworks.layers.activation import Activate
from convworks.layers.convolution import Conv1d, Conv2d, Conv3d
from convworks.layers.locally_connected import LocallyConnected1d, LocallyConnected2d
from convworks.layers.structure import Crop
from convworks.ops.activation import ACTIVATIONS
from convworks.ops.arguments import Sizes, bad_argument, one_of, per_dimension
from convworks.ops.shape import span

Initializer: TypeAlias = Callable[[Tensor], object]

INITIALIZERS: dict[str, Initializer] = {
    "glorot_uniform": nn.init.xavier_uniform_,
    "glorot_normal": nn.init.xavier_normal_,
    "he_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "he_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
}


def plain(
    rank: int,
    filters: int,
    kernel_size: Sizes,
    *,
    in_channels: int,
    strides: Sizes = 1,
    padding: str = "valid",
    dilation_rate: Sizes = 1,
    groups: int = 1,
    activation: str | None = None,
    use_bias: bool = True,
    kernel_initializer: str | Initializer | None = None,
    bias_initializer: str | Initializer | None = None,
) -> nn.Module:
    """Conv1D to Conv3D. An initialiser is a name of INITIALIZERS, or a function that fills a tensor in place;
    None is torch's rule, where Keras would take glorot_uniform and zeros.
    """
    both = _both_above_one(rank, strides, dilation_rate)
    if both:
        raise bad_argument(
            "strides", strides, why=f"dilation_rate is {dilation_rate}; one of them is 1", fits="1"
        )
    kind = {1: Conv1d, 2: Conv2d, 3: Conv3d}[rank]
    layer = kind(
        in_channels,
        filters,
        per_dimension("kernel_size", kernel_size, rank),
        stride=per_dimension("strides", strides, rank),
        padding=_padding(padding, causal=rank == 1),
        dilation=per_dimension("dilation_rate", dilation_rate, rank),
        groups=groups,
        bias=use_bias,
        weight_init=_initializer("kernel_initializer", kernel_initializer),
        bias_init=_initializer("bias_initializer", bias_initializer),
    )
    return activated(layer, activation)


def depthwise(
    rank: int,
    kernel_size: Sizes,
    *,
    in_channels: int,
    strides: Sizes = 1,
    padding: str = "valid",
    depth_multiplier: int = 1,
    dilation_rate: Sizes = 1,
    activation: str | None = None,
    use_bias: bool = True,
) -> nn.Module:
    """DepthwiseConv1D and 2D: `depth_multiplier` kernels for each input map, which see that map alone."""
    if depth_multiplier < 1:
        raise bad_argument("depth_multiplier", depth_multiplier, why="it is a number of kernels", fits="1")
    return plain(
        rank,
        in_channels * depth_multiplier,
        kernel_size,
        in_channels=in_channels,
        strides=strides,
        padding=padding,
        dilation_rate=dilation_rate,
        groups=in_channels,
        activation=activation,
        use_bias=use_bias,
    )


def separable(
    rank: int,
    filters: int,
    kernel_size: Sizes,
    *,
    in_channels: int,
    strides: Sizes = 1,
    padding: str = "valid",
    depth_multiplier: int = 1,
    dilation_rate: Sizes = 1,
    activation: str | None = None,
    use_bias: bool = True,
) -> nn.Module:
    """SeparableConv1D and 2D: depthwise without bias, then 1x1 kernels over its maps."""
    return nn.Sequential(
        depthwise(
            rank,
            kernel_size,
            in_channels=in_channels,
            strides=strides,
            padding=padding,
            depth_multiplier=depth_multiplier,
            dilation_rate=dilation_rate,
            use_bias=False,
        ),
        plain(
            rank, filters, 1, in_channels=in_channels * depth_multiplier, activation=activation,
            use_bias=use_bias,
        ),
    )  # fmt: skip


def transposed(
    rank: int,
    filters: int,
    kernel_size: Sizes,
    *,
    in_channels: int,
    strides: Sizes = 1,
    padding: str = "valid",
    dilation_rate: Sizes = 1,
    activation: str | None = None,
    use_bias: bool = True,
) -> nn.Module:
    """Conv1DTranspose to 3D: the gradient to the input of a convolution with the same options.

    With E = dilation (kernel - 1) + 1, "same" gives N S and "valid" N S + max(E - S, 0). "same" is the
    gradient of TensorFlow's SAME, so it cuts (E - S) // 2 cells before and the rest after.
    """
    kinds: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    kernels = per_dimension("kernel_size", kernel_size, rank)
    steps = per_dimension("strides", strides, rank)
    dilations = per_dimension("dilation_rate", dilation_rate, rank)
    mode = one_of("padding", padding.lower(), ("valid", "same"))
    spans = [span(k, d) for k, d in zip(kernels, dilations, strict=True)]
    lacking = tuple(max(s - e, 0) for e, s in zip(spans, steps, strict=True))
    layer: nn.Module = kinds[rank](
        in_channels, filters, kernels, steps, output_padding=lacking, dilation=dilations, bias=use_bias
    )
    totals = [max(e - s, 0) for e, s in zip(spans, steps, strict=True)]
    if mode == "same" and any(totals):
        layer = nn.Sequential(layer, Crop([(total // 2, total - total // 2) for total in totals]))
    return activated(layer, activation)


def locally_connected(
    rank: int,
    filters: int,
    kernel_size: Sizes,
    *,
    in_channels: int,
    input_size: Sequence[int],
    strides: Sizes = 1,
    padding: str = "valid",
    activation: str | None = None,
    use_bias: bool = True,
) -> nn.Module:
    """LocallyConnected1D and 2D: kernels that are not shared, so the size of the maps is fixed."""
    kind = {1: LocallyConnected1d, 2: LocallyConnected2d}[rank]
    layer = kind(
        in_channels,
        filters,
        kernel_size,
        input_size=input_size,
        stride=strides,
        padding=_padding(padding, causal=False),
        bias=use_bias,
    )
    return activated(layer, activation)


def activated(layer: nn.Module, activation: str | None) -> nn.Module:
    """The layer and then the function of that name; None and "linear" add nothing."""
    return layer if activation in (None, "linear") else nn.Sequential(layer, function(str(activation)))


def function(activation: str) -> nn.Module:
    """A row of ACTIVATIONS by its name, "softmax" over the maps or units, or "linear", which is none."""
    if activation == "softmax":
        return nn.Softmax(dim=1)
    if activation == "linear":
        return nn.Identity()
    return Activate(one_of("activation", activation, (*ACTIVATIONS, "softmax", "linear")))


def _padding(padding: str, *, causal: bool) -> str:
    """Keras's word as that of ops/shape.py; case does not matter there."""
    words = ("valid", "same", "causal") if causal else ("valid", "same")
    word = one_of("padding", padding.lower(), words)
    return "tf_same" if word == "same" else word


def _both_above_one(rank: int, strides: Sizes, dilation_rate: Sizes) -> bool:
    """Keras allows one of the two to differ from 1, as the lectures' page of arguments says."""
    steps = per_dimension("strides", strides, rank)
    return max(steps) > 1 and max(per_dimension("dilation_rate", dilation_rate, rank)) > 1


def _initializer(option: str, value: str | Initializer | None) -> Initializer | None:
    return INITIALIZERS[one_of(option, value, INITIALIZERS)] if isinstance(value, str) else value
