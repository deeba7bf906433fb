"""Stacks of layers as one line of text, and their outputs, parameters, multiply-adds and receptive fields.

    32x32x3: 10@5x5 s1 p2, relu, max 2x2/2, flatten, dense 10

The input is HxWxC as in "[227x227x3]", or C@HxW as in "32@64x64". A layer is one of

    10@5x5        convolution, 10 filters       sep 64@7x7 m8   depthwise (8 for each channel), then 1x1
    dw 3x3 m2     depthwise                     local 6@5x5     locally connected, weights not tied
    max 2x2/2     pooling; also avg             gap             global average pooling
    flatten       volume to vector              dense 10        fully connected
    relu, tanh, ... elementwise; bn             3*64@3x3        the layer three times

with s2 or /2 (stride), p2 or same, valid, full, causal, tf_same (padding), d2 (dilation), g2 (groups),
nobias, ceil (pooling sizes rounded up), and an activation. One number stands for every dimension.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TypedDict

from convworks.errors import ConvworksError, closest
from convworks.ops import cost
from convworks.ops.arguments import BadArgument, Sizes, per_dimension
from convworks.ops.shape import PADDING_MODES, Padding, pooled_size, span

ELEMENTWISE = (
    *("relu", "tanh", "scaled_tanh", "sigmoid", "softmax", "softplus", "leaky_relu", "elu", "selu"),
    *("dropout", "lrn", "bn"),
)
# The options that each kind of layer has.
OPTIONS = {
    "conv": ("s", "p", "d", "g", "nobias", "activation"),
    "dw": ("s", "p", "d", "m", "nobias", "activation"),
    "sep": ("s", "p", "d", "m", "nobias", "activation"),
    "local": ("s", "p", "nobias", "activation"),
    "max": ("s", "p", "d", "ceil"),
    "avg": ("s", "p", "ceil"),
    "gap": (),
    "flatten": (),
    "dense": ("nobias", "activation"),
}
EXAMPLE = "32x32x3: 10@5x5 s1 p2, relu, max 2x2/2, flatten, dense 10"
MOST_LAYERS = 1000
NUMBER = r"[0-9]{1,9}"
SIZE = rf"{NUMBER}(?:x{NUMBER})*"
WITH_FILTERS, WITH_KERNEL = ("conv", "sep", "local"), ("conv", "sep", "local", "dw", "max", "avg")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a stack, as it was written and as it was understood."""

    text: str
    kind: str
    filters: int = 0
    kernel: Sizes = 1
    stride: Sizes = 1
    padding: Padding = 0
    dilation: Sizes = 1
    groups: int = 1
    multiplier: int = 1
    bias: bool = True
    ceil_mode: bool = False
    activation: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """An input of (C, *spatial) and the layers above it."""

    input: tuple[int, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class StackRow:
    """A layer with its cost, and along each dimension the receptive field and stride on the input."""

    layer: Layer
    output: tuple[int, ...]
    weights: int
    biases: int
    macs: int
    field: tuple[int, ...]
    jump: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return self.weights + self.biases


def volume(shape: tuple[int, ...]) -> str:
    """(10, 32, 32) as the lectures write it: 32x32x10; a vector as its length."""
    return "x".join(str(n) for n in (*shape[1:], shape[0]))


def parse_size(text: str) -> tuple[int, ...]:
    """ "32x32x3" or "3@32x32" as (3, 32, 32); "784" is a vector. Raises U140."""
    plain = text.strip().lower().replace("×", "x").strip("[]").replace(" ", "")
    if match := re.fullmatch(rf"({NUMBER})@({SIZE})", plain):
        shape = (int(match[1]), *_sizes(match[2]))
    elif re.fullmatch(SIZE, plain):
        *spatial, channels = _sizes(plain)
        shape = (channels, *spatial)
    else:
        raise _unreadable(f"the input '{text.strip()}' is no size", fits="32x32x3, 3@32x32 or 784")
    if min(shape) < 1:
        raise _unreadable(f"the input '{text.strip()}' has a zero", fits="sizes of at least 1")
    return shape


def parse_stack(text: str) -> Stack:
    """A stack from one line, as the head of this module describes it. Raises U140, naming the word."""
    head, colon, rest = text.partition(":")
    if not colon or not rest.strip():
        raise _unreadable(f"'{text}' is no input, a colon and layers", fits=EXAMPLE)
    layers: list[Layer] = []
    for part in rest.split(","):
        times, word = _repeats(part)
        layers += [parse_layer(word)] * times
        if len(layers) > MOST_LAYERS:
            raise _unreadable(f"more than {MOST_LAYERS:,} layers", fits=EXAMPLE)
    return Stack(input=parse_size(head), layers=tuple(layers))


def parse_layer(text: str) -> Layer:
    """One layer, such as "8@3x3 same relu". Raises U140, naming the word that is not understood."""
    words = re.sub(r"\s*/\s*", " /", text.strip().lower().replace("×", "x")).split()
    if not words:
        raise _unreadable("a layer is missing between two commas", fits=EXAMPLE)
    word = words.pop(0)
    if word in ELEMENTWISE:
        layer = Layer(text=text.strip(), kind=word)
        allowed: tuple[str, ...] = ()
    else:
        layer, words = _head(text.strip(), word, words)
        allowed = OPTIONS[layer.kind]
    seen: set[str] = set()
    for option in words:
        name, values = _option(layer, option)
        if name not in allowed or name in seen:
            why = "has no" if name not in allowed else "has two of"
            fits = ", ".join(allowed) or "none"
            raise _unreadable(f"'{layer.text}': {layer.kind} {why} '{option}'", fits=f"options: {fits}")
        seen.add(name)
        layer = replace(layer, **values)  # type: ignore[arg-type]
    if layer.kind in ("max", "avg") and "s" not in seen:
        layer = replace(layer, stride=layer.kernel)  # "normally stride = size", lectures, pooling
    return layer


def _head(text: str, word: str, words: list[str]) -> tuple[Layer, list[str]]:
    """The kind, filters and kernel that a layer begins with, and the words that are left."""
    kind = "conv" if "@" in word else word
    if kind not in OPTIONS:
        near = "10@5x5" if re.match("[0-9]|conv", kind) else closest(kind, [*OPTIONS, *ELEMENTWISE])
        raise _unreadable(
            f"'{text}' begins with '{word}', which is no layer"
            + (f"; did you mean '{near}'?" if near else ""),
            fits=f"10@5x5, {', '.join(k for k in OPTIONS if k != 'conv')} or {', '.join(ELEMENTWISE)}",
        )
    if kind in ("gap", "flatten"):
        return Layer(text=text, kind=kind), words
    size = word if "@" in word else words.pop(0) if words else ""
    pattern, fits = rf"({SIZE})", f"{kind} 3x3"
    if kind == "dense":
        pattern, fits = rf"({NUMBER})", "dense 10"
    elif kind in WITH_FILTERS:
        pattern, fits = rf"({NUMBER})@({SIZE})", "10@5x5" if kind == "conv" else f"{kind} 10@5x5"
    match = re.fullmatch(pattern, size)
    if match is None or any(n == 0 for part in match.groups() for n in _sizes(part)):
        raise _unreadable(f"'{text}': {kind} needs a size, not '{size}'", fits=fits)
    filters = int(match[1]) if kind in (*WITH_FILTERS, "dense") else 0
    kernel = _one(match[match.lastindex or 1]) if kind in WITH_KERNEL else 1
    return Layer(text=text, kind=kind, filters=filters, kernel=kernel), words


def _option(layer: Layer, word: str) -> tuple[str, dict[str, object]]:
    """The option that a word stands for, and the field that it sets."""
    if word in PADDING_MODES:
        return "p", {"padding": word}
    if word == "nobias":
        return "nobias", {"bias": False}
    if word == "ceil":
        return "ceil", {"ceil_mode": True}
    if word in ELEMENTWISE:
        return "activation", {"activation": word}
    match = re.fullmatch(rf"([spdgm/])=?({SIZE})", word)
    if match is None:
        near = closest(word, [*PADDING_MODES, "nobias", "ceil", *ELEMENTWISE])
        hint = f"; did you mean '{near}'?" if near else ""
        fits = "s2 or /2, p2, d2, g2, m2, nobias, ceil, " + ", ".join(PADDING_MODES)
        raise _unreadable(f"'{layer.text}': '{word}' is not understood{hint}", fits=fits)
    letter, value = match[1].replace("/", "s"), _one(match[2])
    name = {"s": "stride", "p": "padding", "d": "dilation", "g": "groups", "m": "multiplier"}[letter]
    if letter in "gm" and not isinstance(value, int):
        raise _unreadable(f"'{layer.text}': {name} is one number, not '{match[2]}'", fits=f"{letter}2")
    return letter, {name: value}


def _repeats(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"\s*([0-9]{1,4})\s*\*(.*)", text, flags=re.DOTALL)
    return (int(match[1]), match[2]) if match and int(match[1]) else (1, text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x"))


def _one(text: str) -> Sizes:
    """ "3" as 3, "3x5" as (3, 5)."""
    values = _sizes(text)
    return values[0] if len(values) == 1 else values


def _unreadable(what: str, *, fits: str) -> ConvworksError:
    return ConvworksError("U140", what, try_=fits)


def trace_stack(stack: Stack) -> tuple[StackRow, ...]:
    """Output, parameters, multiply-adds and receptive field of every layer.

    The field grows by (E - 1) j where j, the product of the strides below, is the jump; E = D (F - 1) + 1
    (lectures, "receptive field"). A dense layer is a kernel over the whole map, so it needs no flatten.
    Raises BadArgument, naming the layer, where something does not fit.
    """
    shape, rank = stack.input, len(stack.input) - 1
    maps, field, jump = stack.input[1:], (1,) * rank, (1,) * rank  # `maps` outlives a flatten
    rows = []
    for number, layer in enumerate(stack.layers, start=1):
        try:
            found = _cost(layer, shape)
            kernels, strides = _window(layer, shape, maps, rank)
        except BadArgument as problem:
            where = f"layer {number}, '{layer.text}', on {volume(shape)}"
            raise BadArgument("U125", problem.what, where=where, try_=problem.try_) from problem
        field = tuple(r + (k - 1) * j for r, k, j in zip(field, kernels, jump, strict=True))
        jump = tuple(j * s for j, s in zip(jump, strides, strict=True))
        shape = found.output
        maps = shape[1:] if len(shape) > 1 else maps if layer.kind != "dense" else (1,) * rank
        rows.append(
            StackRow(
                layer=layer,
                output=shape,
                weights=found.weights,
                biases=found.biases,
                macs=found.macs,
                field=field,
                jump=jump,
            )
        )
    return tuple(rows)


def _window(
    layer: Layer, shape: tuple[int, ...], maps: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The span and stride of a layer along each dimension of the input."""
    if layer.kind in WITH_KERNEL:
        kernels = per_dimension("kernel_size", layer.kernel, rank)
        dilations = per_dimension("dilation", layer.dilation, rank)
        spans = tuple(span(f, d) for f, d in zip(kernels, dilations, strict=True))
        return spans, per_dimension("stride", layer.stride, rank)
    return (maps if layer.kind in ("gap", "dense") else (1,) * rank), (1,) * rank


def _cost(layer: Layer, shape: tuple[int, ...]) -> cost.Cost:
    """Of a layer with what it has for an activation: batch norm has a scale and a shift for each map."""
    found = _cost_alone(layer, shape)
    if layer.activation != "bn":
        return found
    maps = found.output[0]
    return replace(found, weights=found.weights + maps, biases=found.biases + maps)


def _cost_alone(layer: Layer, shape: tuple[int, ...]) -> cost.Cost:
    channels, size = shape[0], shape[1:]
    if layer.kind == "dense":
        return cost.dense_cost(math.prod(shape), layer.filters, bias=layer.bias)
    if layer.kind == "flatten":
        return cost.Cost(output=(math.prod(shape),), weights=0, biases=0, macs=0)
    if layer.kind == "bn":
        return cost.Cost(output=shape, weights=channels, biases=channels, macs=0)
    if layer.kind in ELEMENTWISE:
        return cost.Cost(output=shape, weights=0, biases=0, macs=0)
    if not size:
        why = f"{layer.kind} needs maps, and this is a vector of {channels}"
        raise BadArgument("U125", why, try_="dense, or the layer before flatten")
    if layer.kind == "gap":
        return cost.Cost(output=(channels, *(1 for _ in size)), weights=0, biases=0, macs=0)
    return _pool(layer, shape) if layer.kind in ("max", "avg") else _convolution(layer, shape)


def _pool(layer: Layer, shape: tuple[int, ...]) -> cost.Cost:
    spatial = pooled_size(
        shape[1:],
        layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        ceil_mode=layer.ceil_mode,
    )
    return cost.Cost(output=(shape[0], *spatial), weights=0, biases=0, macs=0)


class _Window(TypedDict):
    stride: Sizes
    padding: Padding
    bias: bool


def _convolution(layer: Layer, shape: tuple[int, ...]) -> cost.Cost:
    (channels, *size), filters, kernel, dilation = shape, layer.filters, layer.kernel, layer.dilation
    window = _Window(stride=layer.stride, padding=layer.padding, bias=layer.bias)
    if layer.kind == "local":
        return cost.locally_connected_cost(size, channels, filters, kernel, **window)
    if layer.kind == "conv":
        return cost.convolution_cost(
            size, channels, filters, kernel, dilation=dilation, groups=layer.groups, **window
        )
    many = layer.multiplier
    if layer.kind == "dw":
        return cost.depthwise_cost(size, channels, kernel, dilation=dilation, multiplier=many, **window)
    return cost.separable_cost(size, channels, filters, kernel, dilation=dilation, multiplier=many, **window)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many times the first stack's weights, parameters and multiply-adds the second has."""

    weights: float
    parameters: float
    macs: float
    fields: tuple[tuple[int, ...], tuple[int, ...]]


def compare_stacks(first: str, second: str) -> Comparison:
    """Two stacks side by side: "3*C@3x3" against "C@7x7" has 49/27 of the weights, 81.48 % more.

    Source: lectures, "VGG: configuration"; Simonyan and Zisserman 2014, section 2.3. Raises U140, U125, and
    BadArgument where the first stack has no weights to compare with.
    """
    one, other = trace_stack(parse_stack(first)), trace_stack(parse_stack(second))
    names = ("weights", "parameters", "macs")
    below, above = ([sum(getattr(row, name) for row in rows) for name in names] for rows in (one, other))
    if 0 in below:
        raise BadArgument("U125", f"'{first}' has no weights to compare with", try_=EXAMPLE)
    weights, parameters, macs = (b / a for a, b in zip(below, above, strict=True))
    fields = (one[-1].field, other[-1].field)
    return Comparison(weights=weights, parameters=parameters, macs=macs, fields=fields)


def stacks_with_field(
    field: int, *, kernels: tuple[int, ...] = (3, 5, 7), pool: int = 2, pools: int = 2, per_stage: int = 2
) -> Iterator[str]:
    """Stacks of stages (up to `per_stage` convolutions, then a pool at stride 2) with this field at the end.

    An odd kernel adds an even number, a 2x2/2 pool adds its jump: 1 the first time, even afterwards. So with
    odd kernels and 2x2/2 pools the field is even, and a field of 15 at the second pool, as one slide has it,
    needs 3x3/2 pools: "3, 3, p3/2, 3, p3/2" (lectures, "receptive field of the MNIST network": 16).
    """
    stages = [row for count in range(1, per_stage + 1) for row in product(kernels, repeat=count)]
    pooling = f"max {pool}x{pool}/2"
    for chosen in product(stages, repeat=pools):
        parts = [part for stage in chosen for part in (*(f"1@{k}x{k} same" for k in stage), pooling)]
        text = f"64x64x1: {', '.join(parts)}"
        if trace_stack(parse_stack(text))[-1].field == (field, field):
            yield text
