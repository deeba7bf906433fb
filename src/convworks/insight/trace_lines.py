"""The arithmetic of one module as lines of text: which weight meets which input in which output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from convworks.ops.backprop import BackpropModule, Chain, Flatten, Linear, Pointwise
from convworks.ops.backprop_spatial import Convolution1d, MaxPool1d

Meeting = tuple[int, int, int]  # output, weight, input; from 0


def number(value: float, *, signed: bool = False) -> str:
    """Six decimals without trailing zeros; in brackets where a minus would stand after a sign."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    text = "0" if text in ("-0", "") else text
    if text == "0" and value:
        text = f"{value:.3g}"
    return f"({text})" if signed and text.startswith("-") else text


@dataclass(frozen=True, slots=True)
class Line:
    """name = symbols = numbers = value, as in "x1[1] = w1 x0[1] + w2 x0[2] = 1 · 1 + 0.2 · 0.1 = 1.02"."""

    name: str
    symbols: str
    numbers: str
    value: float

    def __str__(self) -> str:
        middle = [text for text in (self.symbols, self.numbers) if text and text != number(self.value)]
        return " = ".join([self.name, *middle, number(self.value)])


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """One module with the numbers of the last forward pass."""

    module: BackpropModule
    box: str  # "linear 1"
    input: str  # "x0"
    output: str  # "x1"
    x: tuple[float, ...]
    y: tuple[float, ...]
    weights: tuple[float, ...]
    first_weight: int  # weights are numbered through the whole network

    @property
    def forward(self) -> str:
        match self.module:
            case Linear():
                return f"{self.output} = W {self.input}"
            case Convolution1d():
                return f"{self.output}[t] = sum over k of w[k] {self.input}[t + k - 1]"
            case Pointwise():
                return f"{self.output} = h({self.input}), h = {self.module.activation.name}"
        return f"{self.output}[t] = the largest of its window in {self.input}"

    @property
    def backward(self) -> str:
        below, above = f"dC/d{self.input}", f"dC/d{self.output}"
        match self.module:
            case Linear():
                return f"{below} = {above} · W"
            case Convolution1d():
                return f"{below} = the full convolution of {above} with the flipped kernel"
            case Pointwise():
                return f"{below} = {above} · h'({self.input})"
        return f"{below} = {above} at the place of the maximum, 0 elsewhere"

    def up(self) -> tuple[Line, ...]:
        """The forward box."""
        lines = []
        for o, value in enumerate(self.y):
            name = f"{self.output}[{o + 1}]"
            if isinstance(self.module, Pointwise):
                symbols = f"h({self.input}[{o + 1}])"
                shown = f"{self.module.activation.name}({number(self.x[o])})"
            elif isinstance(self.module, MaxPool1d):
                window = self._window(o)
                symbols = f"max({', '.join(f'{self.input}[{i + 1}]' for i in window)})"
                shown = f"max({', '.join(number(self.x[i]) for i in window)})"
            else:
                met = [(w, i) for out, w, i in self._meetings() if out == o]
                symbols = " + ".join(f"{self._weight(w)} {self.input}[{i + 1}]" for w, i in met)
                shown = _products((self.weights[w], self.x[i]) for w, i in met)
            lines.append(Line(name, symbols, shown, value))
        return tuple(lines)

    def to_weights(self, dy: Sequence[float], gradients: Sequence[float]) -> tuple[Line, ...]:
        """The box "backward to the weights"; `gradients` are the module's."""
        lines = []
        for weight, value in enumerate(gradients):
            met = [(o, i) for o, w, i in self._meetings() if w == weight]
            symbols = " + ".join(f"dC/d{self.output}[{o + 1}] {self.input}[{i + 1}]" for o, i in met)
            shown = _products((dy[o], self.x[i]) for o, i in met)
            lines.append(Line(f"dC/d{self._weight(weight)}", symbols, shown, value))
        return tuple(lines)

    def to_input(self, dy: Sequence[float]) -> tuple[Line, ...]:
        """The box "backward to the input", its values from the module."""
        x = self.module.x
        if x is None:
            raise ValueError(f"{self.box} has seen no input")
        above = _like(dy, self.module.forward(x))
        values = self.module.to_input(x, above).flatten().tolist()
        return tuple(self._down(i, value, dy) for i, value in enumerate(values))

    def _down(self, i: int, value: float, dy: Sequence[float]) -> Line:
        name = f"dC/d{self.input}[{i + 1}]"
        if isinstance(self.module, Pointwise):
            slope = float(self.module.activation.derivative(_scalar(self.x[i], self.module.x)))
            symbols = f"dC/d{self.output}[{i + 1}] h'({self.input}[{i + 1}])"
            return Line(name, symbols, _products([(dy[i], slope)]), value)
        if isinstance(self.module, MaxPool1d):
            won = [o for o in range(len(self.y)) if self._winner(o) == i]
            symbols = " + ".join(f"dC/d{self.output}[{o + 1}]" for o in won)
            return Line(name, symbols or "no maximum", " + ".join(number(dy[o]) for o in won), value)
        met = [(w, o) for o, w, at in self._meetings() if at == i]
        symbols = " + ".join(f"dC/d{self.output}[{o + 1}] {self._weight(w)}" for w, o in met)
        return Line(name, symbols, _products((dy[o], self.weights[w]) for w, o in met), value)

    def _weight(self, place: int) -> str:
        return f"w{self.first_weight + place}"

    def _meetings(self) -> list[Meeting]:
        if isinstance(self.module, Linear):
            n = len(self.x)
            return [(o, o * n + i, i) for o in range(len(self.y)) for i in range(n)]
        return [(t, k, t + k) for t in range(len(self.y)) for k in range(len(self.weights))]

    def _window(self, o: int) -> list[int]:
        if not isinstance(self.module, MaxPool1d):
            raise ValueError(f"{self.box} has no windows")
        start = o * self.module.stride[0]
        return list(range(start, start + self.module.size[0]))

    def _winner(self, o: int) -> int:
        return max(self._window(o), key=lambda i: self.x[i])  # the first of equal values


def arithmetic(chain: Chain, x: Tensor) -> list[Arithmetic]:
    """Every module of a chain that computes something, after one forward pass with x of one example."""
    chain.outputs(x)
    parts: list[Arithmetic] = []
    counts: dict[str, int] = {}
    weight = 1
    for module in chain.modules:
        if isinstance(module, Flatten) or module.x is None:
            continue
        kind = {Linear: "linear", Convolution1d: "convolution", MaxPool1d: "max pooling"}.get(
            type(module), "h"
        )
        counts[kind] = counts.get(kind, 0) + 1
        held = module.parameters.get("weight")
        weights = () if held is None else tuple(held.flatten().tolist())
        parts.append(
            Arithmetic(
                module=module,
                box=f"{kind} {counts[kind]}",
                input=f"x{len(parts)}",
                output=f"x{len(parts) + 1}",
                x=tuple(module.x.flatten().tolist()),
                y=tuple(module.forward(module.x).flatten().tolist()),
                weights=weights,
                first_weight=weight,
            )
        )
        weight += len(weights)
    return parts


def _products(pairs: Iterable[tuple[float, float]]) -> str:
    return " + ".join(f"{number(a, signed=True)} · {number(b, signed=True)}" for a, b in pairs)


def _like(values: Sequence[float], shape_of: Tensor) -> Tensor:
    return shape_of.new_tensor(list(values)).reshape(shape_of.shape)


def _scalar(value: float, like: Tensor | None) -> Tensor:
    if like is None:
        raise ValueError("no input yet")
    return like.new_tensor(value)
