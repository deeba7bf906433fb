"""The finite-difference check of any torch network: each layer by itself, and the whole.

The network is copied in float64 and the copy set to training mode: batch norm uses the statistics of the
batch, its running statistics are put back after every pass, and dropout draws the same mask each time. The
user's network, its gradients and torch's generator stay as they were.

A layer alone is fed what reached it in one forward pass of the whole, so that a wrong backward pass is found
in the layer that has it, and not in all those below. The whole network shows what is between the layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convworks.ops.gradient_check import GradientCheck, check_gradient

WHOLE = "(whole network)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCheck:
    """One line of the answer. `result` is None for a layer without numbers to check, and `why` says so."""

    name: str  # the path of the layer, "c1.conv"
    kind: str  # its class, "Conv2d"
    result: GradientCheck | None
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.result is None or self.result.ok


def check_network(
    network: nn.Module,
    x: Tensor,
    *,
    tolerance: float = 1e-6,
    samples: int = 8,
    seed: int = 0,
    report: Callable[[LayerCheck], None] | None = None,
) -> list[LayerCheck]:
    """Every layer with the gradients of its parameters and inputs, and then the whole network.

    `x` (N, ...) is a batch. A layer is a module that holds parameters itself or has no modules inside; one
    that is called twice is checked at its first call. The function checked is <c, output> with a fixed
    random c, summed over all outputs. Of a tensor with more than `samples` entries that many are checked one
    by one, and all together along one direction; in the whole network two, because each costs two passes.
    `report` is called with each line as it is known.
    """
    twin = copy.deepcopy(network).to(torch.float64).train()
    for parameter in twin.parameters():
        parameter.requires_grad_(True)  # frozen ones too: it is their gradient that is asked for
    layers = dict(layers_of(twin))
    inputs = _recorded(twin, layers, x.detach().to(torch.float64), seed)
    lines = []
    for name, layer in [*layers.items(), (WHOLE, twin)]:
        arguments = inputs.get(name)
        if arguments is None:
            line = LayerCheck(name=name, kind=type(layer).__name__, result=None, why="not reached")
        else:
            entries = samples if name != WHOLE else min(samples, 2)
            result = check_module(
                layer, *arguments[0], tolerance=tolerance, samples=entries, seed=seed, **arguments[1]
            )
            why = "" if result is not None else "no gradient: nothing differentiable goes in or comes out"
            line = LayerCheck(name=name, kind=type(layer).__name__, result=result, why=why)
        lines.append(line)
        if report is not None:
            report(line)
    return lines


def check_module(
    module: nn.Module,
    *arguments: Any,
    tolerance: float = 1e-6,
    samples: int | None = None,
    seed: int = 0,
    **named: Any,
) -> GradientCheck | None:
    """The gradients that autograd gives for one module in float64, against finite differences.

    Checked are its parameters, and its floating-point arguments as "input", "input 2", ... None where it has
    none of these, or its output has no gradient. Buffers come back as they were; torch's generator too.
    Raises BadArgument for parameters that are not float64.
    """
    given = [each.detach().clone() if _floats(each) else each for each in arguments]
    places = [at for at, each in enumerate(given) if _floats(each)]
    inputs = {"input" if n == 0 else f"input {n + 1}": given[at] for n, at in enumerate(places)}
    values = {**dict(module.named_parameters()), **inputs}
    weights: list[Tensor] = []

    def terms() -> Tensor:
        # a clone of each: a layer that works in place must not reach the value itself
        passed = [each.clone() if _floats(each) else each for each in given]
        outputs = list(_tensors(module(*passed, **named)))
        if not weights:
            generator = torch.Generator().manual_seed(seed)
            weights.extend(torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs)
        if not outputs:
            return torch.zeros(0, dtype=torch.float64)
        products = [y * c.to(y.device) for y, c in zip(outputs, weights, strict=True)]
        return torch.cat([each.flatten() for each in products])

    def again() -> Tensor:
        with _steady(module, seed):
            return terms()

    for value in inputs.values():
        value.requires_grad_(True)
    with torch.enable_grad(), _steady(module, seed):
        total = terms().sum()
        if not values or not total.requires_grad:
            return None
        found = torch.autograd.grad(total, list(values.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(values.items(), found, strict=True)
    }
    return check_gradient(again, values, gradients, tolerance=tolerance, samples=samples, seed=seed)


def layers_of(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with parameters of their own, or without modules inside; each once, under its first path."""
    seen: set[int] = set()

    def walk(layer: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        children = list(layer.named_children())
        if not children or next(layer.parameters(recurse=False), None) is not None:
            yield path or type(layer).__name__, layer
            return
        for name, child in children:
            yield from walk(child, f"{path}.{name}" if path else name)

    yield from walk(network, "")


def _recorded(
    network: nn.Module, layers: dict[str, nn.Module], x: Tensor, seed: int
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What each layer is given at its first call, and the network itself."""
    found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            copies = tuple(each.detach().clone() if isinstance(each, Tensor) else each for each in arguments)
            found.setdefault(name, (copies, named))

        return hook

    handles = [
        layer.register_forward_pre_hook(keep(name), with_kwargs=True) for name, layer in layers.items()
    ]
    try:
        with torch.no_grad(), _steady(network, seed):
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return {**found, WHOLE: ((x,), {})}


@contextmanager
def _steady(module: nn.Module, seed: int) -> Iterator[None]:
    """The same draws in every pass, and buffers and torch's generators as before after it."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, kept in buffers:
                    if not torch.equal(buffer, kept):
                        buffer.copy_(kept)


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors of an output, also inside tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
