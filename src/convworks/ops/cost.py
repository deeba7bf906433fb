"""What a layer costs: output, weights, biases and multiply-adds of one image. No tensors.

A multiply-add (MAC) is one multiplication with its addition; papers that count them apart write 2 x MACs as
"FLOPs". Products with padding are counted, as in the lectures' formula N O_R O_C K_r K_c K_M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convworks.ops.arguments import Sizes, bad_argument, per_dimension
from convworks.ops.shape import Padding, output_size, resolve_padding


@dataclass(frozen=True, slots=True)
class Cost:
    """Output as (channels, *spatial), parameters, and multiply-adds of one image."""

    output: tuple[int, ...]
    weights: int
    biases: int
    macs: int

    @property
    def parameters(self) -> int:
        return self.weights + self.biases


def convolution_cost(
    size: Sequence[int],
    channels: int,
    filters: int,
    kernel: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    bias: bool = True,
) -> Cost:
    """(K_r K_c K_M / groups) N weights, N biases, N O_R O_C K_r K_c K_M / groups multiply-adds.

    N filters on K_M channels; `size` is spatial. 3@32x32 with 64@3x3 padded the same: 64@32x32, 1,792
    parameters, 1,769,472 multiply-adds. `groups` of 2 are AlexNet's two towers; of `channels`, depthwise.
    Source: lectures, "number of operations" and "convolution layer: summary"; Krizhevsky et al. 2012,
    section 3.5. Raises BadArgument where groups do not divide, or the kernel does not fit.
    """
    for name, count in (("channels", channels), ("filters", filters), ("groups", groups)):
        per_dimension(name, count, 1)
    for name, count in (("channels", channels), ("filters", filters)):
        if count % groups:
            fits = [g for g in range(1, groups + 1) if channels % g == filters % g == 0]
            why = f"it does not divide {name} = {count}"
            raise bad_argument("groups", groups, why=why, fits=" or ".join(f"groups={g}" for g in fits[-3:]))
    spatial = output_size(tuple(size), kernel, stride=stride, padding=padding, dilation=dilation)
    taps = math.prod(per_dimension("kernel_size", kernel, len(spatial))) * (channels // groups)
    return Cost(
        output=(filters, *spatial),
        weights=filters * taps,
        biases=filters if bias else 0,
        macs=filters * taps * math.prod(spatial),
    )


def depthwise_cost(
    size: Sequence[int],
    channels: int,
    kernel: Sizes,
    *,
    multiplier: int = 1,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    bias: bool = True,
) -> Cost:
    """One group for each channel, `multiplier` filters in each: K_r K_c C m weights.

    Source: lectures, "depthwise separable convolution"; Howard et al., "MobileNets", 2017, section 3.1.
    """
    return convolution_cost(
        size,
        channels,
        channels * multiplier,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=channels,
        bias=bias,
    )


def separable_cost(
    size: Sequence[int],
    channels: int,
    filters: int,
    kernel: Sizes,
    *,
    multiplier: int = 1,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    bias: bool = True,
) -> Cost:
    """A depthwise convolution without bias, then 1x1 with one: K_r K_c C m + C m N weights.

    3@224x224 with 64@7x7 at stride 2 and multiplier 8: 2,712 weights, 34,019,328 multiply-adds, the first
    row of the GoogLeNet table. Source: Howard et al. 2017, section 3.1; Keras, SeparableConv2D.
    """
    deep = depthwise_cost(
        size,
        channels,
        kernel,
        multiplier=multiplier,
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=False,
    )
    point = convolution_cost(deep.output[1:], deep.output[0], filters, 1, bias=bias)
    return Cost(
        output=point.output,
        weights=deep.weights + point.weights,
        biases=point.biases,
        macs=deep.macs + point.macs,
    )


def locally_connected_cost(
    size: Sequence[int],
    channels: int,
    filters: int,
    kernel: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    bias: bool = True,
) -> Cost:
    """A convolution whose weights are not tied: each output unit has weights and a bias of its own.

    32x32x3 to 28x28x6 with 5x5: 357,504 parameters against 456 tied. Source: lectures, "local connectivity".
    """
    tied = convolution_cost(size, channels, filters, kernel, stride=stride, padding=padding, bias=bias)
    biases = math.prod(tied.output) if bias else 0
    return Cost(output=tied.output, weights=tied.macs, biases=biases, macs=tied.macs)


def dense_cost(inputs: int, units: int, *, bias: bool = True) -> Cost:
    """inputs x units weights, units biases. 100x100x3 to 100: 3,000,000 weights (lectures, "dense layer")."""
    for name, count in (("inputs", inputs), ("units", units)):
        per_dimension(name, count, 1)
    return Cost(output=(units,), weights=inputs * units, biases=units if bias else 0, macs=inputs * units)


@dataclass(frozen=True, slots=True)
class Connectivity:
    """Edges between inputs and outputs that are not padding, and what a dense layer would have."""

    edges: int
    dense_edges: int
    shared_weights: int


def connectivity(
    size: Sequence[int],
    kernel: Sizes,
    *,
    channels: int = 1,
    filters: int = 1,
    stride: Sizes = 1,
    padding: Padding = "same",
    dilation: Sizes = 1,
) -> Connectivity:
    """Edges of a sparse, tied layer: 5 units to 5 with width 3 have 13, dense 25, and 3 shared weights.

    Per dimension the taps of all windows that lie inside the input are counted; dimensions multiply.
    Source: lectures, "sparse connectivity"; Goodfellow et al., "Deep Learning", 2016, section 9.2.
    """
    cost = convolution_cost(
        size, channels, filters, kernel, stride=stride, padding=padding, dilation=dilation, bias=False
    )
    rank = len(cost.output) - 1
    pairs = resolve_padding(padding, size=tuple(size), kernel=kernel, stride=stride, dilation=dilation)
    kernels, strides, dilations = (
        per_dimension(name, value, rank)
        for name, value in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation))
    )
    edges = channels * filters
    rows = zip(size, kernels, strides, dilations, pairs, cost.output[1:], strict=True)
    for n, f, s, d, (before, _), outputs in rows:
        edges *= sum(0 <= o * s + t * d - before < n for o in range(outputs) for t in range(f))
    dense = channels * math.prod(size) * math.prod(cost.output)
    return Connectivity(edges=edges, dense_edges=dense, shared_weights=cost.weights)


@dataclass(frozen=True, slots=True)
class Lowering:
    """The extra memory of im2col: bytes of the matrix, and how many times the input that is."""

    bytes: int
    blow_up: float


def lowering_memory(
    size: Sequence[int],
    channels: int,
    kernel: Sizes,
    *,
    batch: int = 1,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    itemsize: int = 4,
) -> Lowering:
    """N C prod(kernel) prod(output) x itemsize bytes: each input value is copied up to prod(kernel) times.

    The blow-up over the unpadded input is prod(kernel) for "same" padding at stride 1.
    Source: lectures, "lowering"; Chellapilla et al., "High performance convolutional neural networks for
    document processing", 2006.
    """
    spatial = output_size(tuple(size), kernel, stride=stride, padding=padding, dilation=dilation)
    copies = math.prod(per_dimension("kernel_size", kernel, len(spatial))) * math.prod(spatial)
    per_dimension("batch", batch, 1)
    return Lowering(bytes=batch * channels * copies * itemsize, blow_up=copies / math.prod(size))
