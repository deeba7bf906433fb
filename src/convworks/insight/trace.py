"""Back-propagation of a small network, number by number: the lecture's exercise with any weights.

A network is written as its layers: "2-2-1" has two inputs, two hidden units and one output; "6-c3-p2-1" has a
signal of six places, a convolution of three taps, max pooling by two, and one output. The activation follows
every convolution and every dense layer but the last; there are no biases, as in the exercise. The numbers are
those of the modules in `ops.backprop`; the lines spell out how each comes about.
Source: lectures, introduction to convolutional networks, "Back propagation example" (its six weights are in a
figure that is lost; the default weights are our own).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convworks.errors import ConvworksError
from convworks.insight.trace_lines import Arithmetic, Line, arithmetic, number
from convworks.ops.backprop import BackpropModule, Chain, EuclideanCost, Flatten, Linear, Pointwise
from convworks.ops.backprop_spatial import Convolution1d, MaxPool1d
from convworks.ops.gradient_check import GradientCheck, check_chain

MOST_NUMBERS = 64  # weights, inputs or outputs that are printed one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One box of the lecture: its formula, the arithmetic of each number, and the numbers."""

    phase: str  # "forward", "backward" or "update"
    box: str  # "linear 1", "cost"
    name: str  # what is computed: "x1", "dC/dx1", "dC/dw", "w"
    formula: str
    lines: tuple[Line, ...]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(line.value for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """Forward, backward and update once, the cost before and after, and the finite-difference check."""

    steps: tuple[Step, ...]
    cost: float
    cost_after: float
    check: GradientCheck


@dataclass(frozen=True, slots=True)
class Layers:
    """A network as `parse_layers` read it: the inputs, then ("dense", units), ("convolution", taps), ..."""

    text: str
    inputs: int
    layers: tuple[tuple[str, int], ...]
    lengths: tuple[int, ...]  # numbers that come out of each layer

    @property
    def weights(self) -> int:
        before = (self.inputs, *self.lengths)
        count = 0
        for (kind, size), n in zip(self.layers, before, strict=False):
            count += size * n if kind == "dense" else size if kind == "convolution" else 0
        return count

    @property
    def outputs(self) -> int:
        return self.lengths[-1]


def parse_layers(text: str) -> Layers:
    """The layers of "2-2-1" or "6-c3-p2-1". Raises U152 for another form, or windows that do not fit."""
    first, *rest = text.split("-")
    if not rest or not re.fullmatch(r"[1-9]\d?", first):
        raise _bad_layers(text, "it begins with the number of inputs, and has at least one layer")
    layers, lengths, length, dense = [], [], int(first), False
    for part in rest:
        found = re.fullmatch(r"([cp]?)([1-9]\d?)", part)
        if found is None:
            raise _bad_layers(text, f"'{part}' is no number of units, convolution (c3) or pooling (p2)")
        size = int(found[2])
        if found[1] and dense:
            raise _bad_layers(text, f"'{part}' stands after a dense layer, whose units are not in a row")
        if found[1] and size > length:
            raise _bad_layers(text, f"'{part}' does not fit into {length} places")
        dense = not found[1]
        length = size if dense else length - size + 1 if found[1] == "c" else length // size
        layers.append(({"": "dense", "c": "convolution", "p": "pooling"}[found[1]], size))
        lengths.append(length)
    made = Layers(text, int(first), tuple(layers), tuple(lengths))
    if max(made.weights, made.inputs, *lengths) > MOST_NUMBERS:
        raise _bad_layers(text, f"a trace prints up to {MOST_NUMBERS} weights and units of a layer")
    if made.weights == 0:
        raise _bad_layers(text, "it has no weights")
    return made


def draw(count: int, *, generator: torch.Generator) -> list[float]:
    """Numbers from -1 to 1 with one decimal, for weights and inputs that were not given."""
    return (
        (torch.randint(-10, 11, (count,), generator=generator) / 10).double().mul(10).round().div(10).tolist()
    )


def build(layers: Layers, weights: Sequence[float], *, activation: str) -> Chain:
    """The chain of modules in float64, with a Euclidean cost. Raises U153 for another number of weights."""
    if len(weights) != layers.weights:
        raise _bad_numbers("weights", len(weights), layers.weights, layers.text)
    left = torch.tensor(list(weights), dtype=torch.float64)
    modules: list[BackpropModule] = []
    length, flat = layers.inputs, False
    last = max(at for at, (kind, _) in enumerate(layers.layers) if kind != "pooling")
    for at, ((kind, size), out) in enumerate(zip(layers.layers, layers.lengths, strict=True)):
        if kind == "dense":
            if not flat:
                modules.append(Flatten())
            flat = True
            modules.append(Linear(left[: size * length].reshape(size, length).clone()))
            left = left[size * length :]
        elif kind == "convolution":
            modules.append(Convolution1d(left[:size].reshape(1, 1, size).clone()))
            left = left[size:]
        else:
            modules.append(MaxPool1d(size))
        if kind != "pooling" and at != last:
            modules.append(Pointwise(activation))
        length = out
    return Chain(modules if flat else [*modules, Flatten()], EuclideanCost())


def trace(
    layers: Layers, chain: Chain, inputs: Sequence[float], targets: Sequence[float], *, eta: float, steps: int
) -> list[Iteration]:
    """`steps` iterations of forward, backward and update with w <- w + eta dE/dw; the chain changes.

    Raises U153 where the inputs or targets are not as many as the layers say.
    """
    for name, given, needed in (
        ("inputs", inputs, layers.inputs),
        ("targets", targets, layers.outputs),
    ):
        if len(given) != needed:
            raise _bad_numbers(name, len(given), needed, layers.text)
    x = torch.tensor([[list(inputs)]], dtype=torch.float64)  # (N, C, S), one example with one map
    y = torch.tensor([list(targets)], dtype=torch.float64)
    return [_iteration(chain, x, y, eta) for _ in range(steps)]


def _iteration(chain: Chain, x: Tensor, y: Tensor, eta: float) -> Iteration:
    cost = float(chain.costs(x, y).sum())
    check = check_chain(chain, x, y)
    parts = arithmetic(chain, x)
    steps = [Step(phase="forward", box=p.box, name=p.output, formula=p.forward, lines=p.up()) for p in parts]
    top = parts[-1].output
    outputs = chain.outputs(x).flatten().tolist()
    pairs = list(zip(outputs, y.flatten().tolist(), strict=True))
    squares = " + ".join(f"({number(a)} - {number(b)})²" for a, b in pairs)
    line = Line("C", f"½ |{top} - y|²", f"½ ({squares})" if len(pairs) > 1 else f"½ {squares}", cost)
    steps.append(Step(phase="forward", box="cost", name="C", formula=f"C = ½ |{top} - y|²", lines=(line,)))
    steps += _backward(chain, parts, pairs)
    steps.append(_update(chain, parts, eta))
    return Iteration(steps=tuple(steps), cost=cost, cost_after=float(chain.costs(x, y).sum()), check=check)


def _backward(chain: Chain, parts: list[Arithmetic], pairs: list[tuple[float, float]]) -> list[Step]:
    """From the cost down: to the weights and to the input of each module."""
    top = parts[-1].output
    lines = tuple(
        Line(f"dC/d{top}[{i}]", f"{top}[{i}] - y[{i}]", f"{number(a)} - {number(b)}", a - b)
        for i, (a, b) in enumerate(pairs, 1)
    )
    found = [
        Step(phase="backward", box="cost", name=f"dC/d{top}", formula=f"dC/d{top} = {top} - y", lines=lines)
    ]
    dy = [line.value for line in lines]
    for part in reversed(parts):
        if part.weights:
            gradients = part.module.gradients["weight"].flatten().tolist()
            lines = part.to_weights(dy, gradients)
            formula = f"dC/dw = dC/d{part.output} · d{part.output}/dw"
            found.append(Step(phase="backward", box=part.box, name="dC/dw", formula=formula, lines=lines))
        lines = part.to_input(dy)
        found.append(
            Step(phase="backward", box=part.box, name=f"dC/d{part.input}", formula=part.backward, lines=lines)
        )
        dy = [line.value for line in lines]
    return found


def _update(chain: Chain, parts: list[Arithmetic], eta: float) -> Step:
    before = {part.first_weight: part.weights for part in parts if part.weights}
    gradients = {
        part.first_weight: part.module.gradients["weight"].flatten().tolist()
        for part in parts
        if part.weights
    }
    chain.update(eta=eta)
    lines = []
    for part in parts:
        if not part.weights:
            continue
        after = part.module.parameters["weight"].flatten().tolist()
        rows = zip(before[part.first_weight], gradients[part.first_weight], after, strict=True)
        for place, (old, gradient, new) in enumerate(rows):
            name = f"w{part.first_weight + place}"
            shown = f"{number(old)} + ({number(eta)}) · {number(gradient, signed=True)}"
            lines.append(Line(f"new {name}", f"{name} + η dC/d{name}", shown, new))
    return Step(
        phase="update",
        box="weights",
        name="w",
        formula=f"w ← w + η dE/dw with η = {number(eta)}, which is w ← w - λ dE/dw with λ = {number(-eta)}",
        lines=tuple(lines),
    )


def _bad_layers(text: str, why: str) -> ConvworksError:
    return ConvworksError(
        "U152", f"the layers '{text}' make no network", why=why, try_="convworks trace --layers 6-c3-p2-1"
    )


def _bad_numbers(name: str, given: int, needed: int, layers: str) -> ConvworksError:
    numbers = ",".join(["0.5"] * needed)
    flag = {"weights": "weights", "inputs": "input", "targets": "target"}[name]
    return ConvworksError(
        "U153",
        f"the layers {layers} need {needed} {name}, {given} given",
        try_=f"convworks trace --layers {layers} --{flag}={numbers}",
    )
