"""Networks from one line of text: convolutions, activations, pooling, dense layers in a row.

    network_from_line("32x32x3: 6@5x5 tanh, avg 2x2/2, 16@5x5 tanh, avg 2x2/2, dense 84 tanh, dense 10")
    network_from_line("784: dense 128 relu, dense 10")

The line is that of ops/stack.py, which also gives its table of sizes, parameters and multiply-adds. The
registered network `stack` takes the layers without the input and writes K for the number of classes:

    convworks train DATA --model stack --set model_options.spec="32@5x5 same relu, max 2x2/2, dense K"

Source: lectures, "a typical CNN": convolutions, activations, pooling, fully connected layers.
Deviation: a softmax at the end of a `spec` is left out, because it is part of the loss.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from convworks.errors import ConvworksError
from convworks.layers import Conv1d, Conv2d, Conv3d, ScaledTanh, stage
from convworks.layers.locally_connected import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from convworks.layers.normalization import LocalResponseNorm
from convworks.layers.pooling import Pool
from convworks.models.fit import LARGEST
from convworks.models.registry import misfit, register
from convworks.ops.arguments import BadArgument, bad_argument, per_dimension
from convworks.ops.shape import resolve_padding
from convworks.ops.stack import Layer, Stack, parse_stack, trace_stack, volume

SPEC = "32@5x5 same relu, max 2x2/2, 64@5x5 same relu, max 2x2/2, flatten, dense 128 relu, dropout, dense K"

Maker = Callable[..., nn.Module]
Whole = tuple[int, ...]
CONVOLUTIONS: tuple[Maker, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
OWN_CONVOLUTIONS: tuple[Maker, ...] = (Conv1d, Conv2d, Conv3d)
MOST_DIMENSIONS = 3
LOCAL: tuple[Maker, ...] = (LocallyConnected1d, LocallyConnected2d, LocallyConnected3d)
BATCH_NORMS: tuple[Maker, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
GLOBAL: tuple[Maker, ...] = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
POOLS: dict[str, tuple[Maker, ...]] = {
    "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "avg": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
}
ELEMENTWISE: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "scaled_tanh": ScaledTanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "dropout": nn.Dropout,
    "lrn": LocalResponseNorm,
}


def network_from_line(line: str) -> nn.Sequential:
    """The network of "32x32x3: layers", for (N, 3, 32, 32). Raises U140 and BadArgument, naming the layer."""
    return network_of(parse_stack(line))


def network_of(stack: Stack) -> nn.Sequential:
    """One child for each layer, conv1, max1, conv2, ..., with torch's initial weights.

    Inputs are vectors (N, C) or maps (N, C, size...) of one to three dimensions; a dense layer flattens what
    it sees. Raises BadArgument, naming the layer, where something does not fit.
    """
    if len(stack.input) > MOST_DIMENSIONS + 1:
        why = f"maps have at most {MOST_DIMENSIONS} dimensions here"
        raise bad_argument("input", volume(stack.input), why=why, fits="32x32x3")
    parts: dict[str, nn.Module] = {}
    counted: Counter[str] = Counter()
    shape = stack.input
    for row in trace_stack(stack):
        counted[row.layer.kind] += 1
        parts[f"{row.layer.kind}{counted[row.layer.kind]}"] = _module(row.layer, shape, row.output)
        shape = row.output
    return stage(**parts)


def _module(layer: Layer, shape: tuple[int, ...], output: tuple[int, ...]) -> nn.Module:
    """A layer for inputs of that shape (C, *size), with its activation."""
    made = _plain(layer, shape)
    if not layer.activation:
        return made
    named = dict(made.named_children()) if type(made) is nn.Sequential else {layer.kind: made}
    return stage(**named, **{layer.activation: _elementwise(layer.activation, output)})


def _plain(layer: Layer, shape: tuple[int, ...]) -> nn.Module:
    rank = len(shape) - 1
    if layer.kind == "flatten":
        return nn.Flatten()
    if layer.kind == "dense":
        dense = nn.Linear(math.prod(shape), layer.filters, bias=layer.bias)
        return stage(flatten=nn.Flatten(), dense=dense) if rank else dense
    if layer.kind in ("max", "avg"):
        return _pool(layer, shape)
    if layer.kind == "gap":
        return GLOBAL[rank - 1](1)
    if layer.kind in ("conv", "dw", "sep", "local"):
        return _convolution(layer, shape)
    return _elementwise(layer.kind, shape)


def _elementwise(kind: str, shape: tuple[int, ...]) -> nn.Module:
    if kind == "bn":
        return BATCH_NORMS[max(len(shape) - 2, 0)](shape[0])
    return ELEMENTWISE[kind]()


def _convolution(layer: Layer, shape: tuple[int, ...]) -> nn.Module:
    channels, *size = shape
    if layer.kind == "local":
        return LOCAL[len(size) - 1](
            channels, layer.filters, layer.kernel, input_size=size, stride=layer.stride,
            padding=layer.padding, bias=layer.bias,
        )  # fmt: skip
    kernel, stride, dilation, pairs = _window(layer, size)
    options = {"stride": stride, "dilation": dilation, "padding": pairs}
    make = OWN_CONVOLUTIONS[len(size) - 1]
    if all(before == after for before, after in pairs):
        options["padding"], make = tuple(before for before, _ in pairs), CONVOLUTIONS[len(size) - 1]
    deep = channels * layer.multiplier
    if layer.kind == "conv":
        return make(channels, layer.filters, kernel, groups=layer.groups, bias=layer.bias, **options)
    depthwise = make(
        channels, deep, kernel, groups=channels, bias=layer.bias and layer.kind == "dw", **options
    )
    if layer.kind == "dw":
        return depthwise
    pointwise = CONVOLUTIONS[len(size) - 1](deep, layer.filters, 1, bias=layer.bias)
    return stage(depthwise=depthwise, pointwise=pointwise)


def _pool(layer: Layer, shape: tuple[int, ...]) -> nn.Module:
    kernel, stride, dilation, pairs = _window(layer, shape[1:])
    if all(before == after <= k // 2 for (before, after), k in zip(pairs, kernel, strict=True)):
        options = {"dilation": dilation} if layer.kind == "max" else {}
        padding = tuple(before for before, _ in pairs)
        make = POOLS[layer.kind][len(kernel) - 1]
        return make(kernel, stride, padding, ceil_mode=layer.ceil_mode, **options)
    if set(dilation) != {1}:
        raise bad_argument("padding", layer.padding, why="dilated windows take symmetric padding", fits="p0")
    kind = "max" if layer.kind == "max" else "mean"
    return Pool(kind, kernel, stride=stride, padding=pairs, ceil=layer.ceil_mode)


def _window(layer: Layer, size: Sequence[int]) -> tuple[Whole, Whole, Whole, tuple[tuple[int, int], ...]]:
    """Kernel, stride and dilation for each dimension, and the padding before and after it.

    Layers are torch's own where that is the same on both sides, else ours.
    """
    kernel, stride, dilation = (
        per_dimension(name, getattr(layer, name), len(size)) for name in ("kernel", "stride", "dilation")
    )
    pairs = resolve_padding(layer.padding, size=tuple(size), kernel=kernel, stride=stride, dilation=dilation)
    return kernel, stride, dilation, pairs


def stack(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: tuple[int, int] = (32, 32),
    spec: str = SPEC,
) -> nn.Sequential:
    """The layers of `spec`, in which K is the number of classes; (N, C, H, W) -> (N, K).

    Raises U140 for a line that cannot be read, U123 for one that does not end in K outputs, U122 for an image
    that is too small for it, BadArgument for layers that fit no image.
    """
    read = _read(spec, (in_channels, *input_size), num_classes)
    try:
        rows = trace_stack(read)
    except BadArgument as problem:
        raise _misfit(read, problem) from problem
    outputs = rows[-1].output
    if outputs[0] != num_classes or math.prod(outputs) != num_classes:
        raise ConvworksError(
            "U123",
            f"option 'spec' of stack ends in {volume(outputs)} outputs, and there are {num_classes} classes",
            where="allowed: layers that end in 'dense K', or in 'K@1x1, gap'",
            try_='convworks train DATA --model stack --set model_options.spec="dense 100 relu, dense K"',
        )
    network = network_of(read)
    if len(outputs) > 1:  # the means of K maps
        network.add_module("vector", nn.Flatten())
    return network


def _read(spec: str, shape: tuple[int, ...], num_classes: int) -> Stack:
    """The layers with K replaced, above an input of that shape; without a softmax at the end."""
    if ":" in spec:
        raise ConvworksError(
            "U140",
            f"'{spec}' begins with an input, and that of stack comes from the images",
            try_=f'--set model_options.spec="{spec.partition(":")[2].strip()}"',
        )
    channels, *size = shape
    layers = re.sub(r"\b[Kk]\b", str(num_classes), spec)
    read = parse_stack(f"{channels}@{'x'.join(map(str, size))}: {layers}")
    *below, last = read.layers
    if last.kind == "softmax" and below:
        return replace(read, layers=tuple(below))
    if last.activation == "softmax":
        return replace(read, layers=(*below, replace(last, activation="")))
    return read


def _misfit(read: Stack, problem: BadArgument) -> ConvworksError:
    """U122 where a larger image would fit, else the problem itself."""
    channels, *size = read.input
    for side in range(min(size) + 1, LARGEST):
        try:
            trace_stack(replace(read, input=(channels, *(max(side, n) for n in size))))
        except BadArgument:
            continue
        why = f"{problem.where}: {problem.what}"
        return misfit("stack", (size[0], size[1]), why=why, fits=f"{side}x{side} and larger", size=side)
    return problem


register(
    stack,
    source="the lectures' typical CNN: convolutions, activations, pooling, fully connected layers",
    summary='layers in one line of text, spec="32@5x5 same relu, max 2x2/2, dense K"',
    deviations=("a softmax at the end of the line is left out, because it is part of the loss",),
)
