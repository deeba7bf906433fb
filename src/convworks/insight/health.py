"""How a network is doing inside: dead units, saturated units, and the size of the gradient at every layer.

One recorder with hooks reads the outputs and their gradients in one pass. Afterwards the network is as it
was: training flags, buffers, gradients, hooks and torch's random generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convworks.ops.gradient_check_network import layers_of

RECTIFIERS = ("ReLU", "ReLU6")  # classes whose units can die
SATURATED = 0.95  # of the largest absolute value


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadUnits:
    """A layer of rectifiers: how many units gave 0 for every example (and, of maps, at every place)."""

    name: str
    units: int
    dead: int

    @property
    def share(self) -> float:
        return self.dead / self.units


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """A layer of sigmoid or tanh units, over all units, examples and places.

    `share` counts |activation| > 0.95 of the largest value; `share_low` counts, of a sigmoid alone, the other
    flat end, activation < 0.05. `shrinkage` is the root mean square of h' divided by the largest h': the
    factor by which the layer shrinks a gradient compared with one in the middle of its range, 1 at best.
    """

    name: str
    kind: str
    share: float
    share_low: float
    shrinkage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNorm:
    """Euclidean norms at one layer: of dE/d(output), and of dE/dw over its own parameters, 0 without."""

    name: str
    kind: str
    output: float
    parameters: float


def dead_units(network: nn.Module, x: Tensor, *, kinds: tuple[str, ...] = RECTIFIERS) -> list[DeadUnits]:
    """Dead units of every layer whose class is in `kinds`, for a batch x (N, ...), in evaluation mode.

    A unit is a column of (N, F), or a map of (N, C, ...), whose places share their weights. A dead unit has
    the gradient 0 for these examples and is not moved by them. Take a batch of many images: a unit may be
    silent on a few. Source: lectures, activation functions ("a ReLU neuron can die").
    """
    result = []
    for name, layer in record(network, x, kinds=kinds).items():
        alive = (layer.output != 0).movedim(1, 0).flatten(1).any(dim=1)
        result.append(DeadUnits(name=name, units=alive.numel(), dead=int((~alive).sum())))
    return result


def saturation(network: nn.Module, x: Tensor, *, threshold: float = SATURATED) -> list[Saturation]:
    """Saturation of every layer of sigmoid, tanh or scaled tanh units for a batch x, in evaluation mode.

    The derivative is computed from the output a: 1 - a^2 for tanh, a (1 - a) for the sigmoid, and
    1 - (a/A)^2 for A tanh(S x), each relative to its largest. Source: lectures, activation functions
    ("saturated neurons kill the gradients"); Glorot and Bengio, AISTATS 2010, section 3.
    """
    result = []
    for name, layer in record(network, x, kinds=("Tanh", "ScaledTanh", "Sigmoid")).items():
        a = layer.output.double()
        if layer.kind == "Sigmoid":
            slope, low = 4 * a * (1 - a), float((a < 1 - threshold).double().mean())
        else:
            a = a / abs(getattr(layer.module, "amplitude", 1.0))
            slope, low = 1 - a.square(), 0.0
        result.append(
            Saturation(
                name=name,
                kind=layer.kind,
                share=float((a.abs() > threshold).double().mean()),
                share_low=low,
                shrinkage=float(slope.square().mean().sqrt()),
            )
        )
    return result


def gradient_norms(
    network: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], *, training: bool = True
) -> list[GradientNorm]:
    """Norms of the gradient of `loss(network(x))` at every layer, in the order of the forward pass.

    Norms that fall from the last layer to the first vanish, norms that rise explode. In training mode, as
    gradients are used there; batch norm then has the statistics of x. Source: lectures, residual networks and
    batch normalisation; Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks".
    """
    return [
        GradientNorm(
            name=name,
            kind=layer.kind,
            output=0.0 if layer.gradient is None else float(layer.gradient.double().norm()),
            parameters=math.sqrt(sum(float(g.double().square().sum()) for g in layer.parameters)),
        )
        for name, layer in record(network, x, loss=loss, training=training).items()
    ]


@dataclass(slots=True, kw_only=True)
class Recorded:
    """What went through one layer: its first output, and with a loss the gradients."""

    module: nn.Module
    kind: str
    output: Tensor
    gradient: Tensor | None = None  # of the loss, with respect to the output
    parameters: tuple[Tensor, ...] = ()  # gradients of the layer's own parameters


def record(
    network: nn.Module,
    x: Tensor,
    *,
    kinds: tuple[str, ...] | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
    training: bool = False,
) -> dict[str, Recorded]:
    """One forward pass with hooks, and with a loss one backward pass: what each layer gave, by its path.

    Layers are modules without modules inside or with parameters of their own, those of class `kinds` where
    given. A layer that is called again has a row "name (2)".
    """
    found: dict[str, Recorded] = {}
    traced: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def keep(layer: nn.Module, _: Any, output: Any) -> Tensor | None:
            first = _first_tensor(output)
            if first is None:
                return None
            row = _next_name(name, found)
            found[row] = Recorded(module=layer, kind=type(layer).__name__, output=first.detach().clone())
            if first.requires_grad:
                traced[row] = first
                # a later layer that works in place gets a copy, so that this output keeps its gradient
                return first.clone() if isinstance(output, Tensor) else None
            return None

        return keep

    chosen = {n: m for n, m in layers_of(network) if kinds is None or type(m).__name__ in kinds}
    handles = [module.register_forward_hook(hook(name)) for name, module in chosen.items()]
    with unchanged(network, training=training):
        try:
            with torch.set_grad_enabled(loss is not None):
                answer = network(x)
                if loss is not None:
                    _backward(loss(answer), found, traced)
        finally:
            for handle in handles:
                handle.remove()
    return found


def _backward(energy: Tensor, found: dict[str, Recorded], traced: dict[str, Tensor]) -> None:
    """Gradients by autograd.grad, which leaves the `grad` of the parameters alone."""
    own = {
        name: [p for p in found[name].module.parameters(recurse=False) if p.requires_grad] for name in traced
    }
    flat = [p for parameters in own.values() for p in parameters]
    gradients = torch.autograd.grad(energy, [*traced.values(), *flat], allow_unused=True)
    for (name, _), gradient in zip(traced.items(), gradients, strict=False):
        found[name].gradient = gradient
    rest = iter(gradients[len(traced) :])
    for name, parameters in own.items():
        values = [next(rest) for _ in parameters]
        found[name].parameters = tuple(value for value in values if value is not None)


@contextmanager
def unchanged(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Training flags, buffers and torch's generators as before."""
    flags = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    network.train(training)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def _next_name(name: str, found: dict[str, Recorded]) -> str:
    number = sum(row == name or row.startswith(f"{name} (") for row in found)
    return name if number == 0 else f"{name} ({number + 1})"


def _first_tensor(output: Any) -> Tensor | None:
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None
