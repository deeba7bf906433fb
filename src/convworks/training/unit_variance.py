"""Layer-sequential unit variance: weights scaled until every layer's outputs have variance 1 for a batch.

Mishkin, Matas, "All you need is a good init", 2016, algorithm 1; lectures, initializers (LSUV).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError


class _ReachedError(Exception):
    """The layer in question has run; the rest of the forward pass is not needed."""


@torch.no_grad()
def scale_to_unit_variance(
    network: nn.Module, layers: Mapping[str, Any], batch: Tensor, *, tolerance: float, max_iterations: int
) -> None:
    """Divide the weights of each layer by the standard deviation of its outputs, in the order of the pass.

    In evaluation mode and on one thread, so that the bits do not depend on their number. A layer that is not
    run stays as it is. Raises U173 where the outputs do not vary, or not within the tolerance in time.
    """
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with one_thread():
            for name in _order(network, layers, batch):
                _scale(network, name, layers[name], batch, tolerance, max_iterations)
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread inside, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _scale(
    network: nn.Module, name: str, layer: Any, batch: Tensor, tolerance: float, max_iterations: int
) -> None:
    variance = _variance(network, layer, batch)
    for _ in range(max_iterations):
        if abs(variance - 1) < tolerance or not (math.isfinite(variance) and variance > 0):
            break
        layer.weight.div_(variance**0.5)
        variance = _variance(network, layer, batch)
    if abs(variance - 1) < tolerance:
        return
    dead = "its inputs are all the same: the units before it are dead, or the batch does not vary"
    late = f"it is not within {tolerance:g} of 1 after {max_iterations} iterations"
    raise ConvworksError(
        "U173",
        f"the outputs of {name} have the variance {variance:.3g}",
        why=dead if variance == 0 else late,
        try_="LSUV(batch=...) with a batch of normalised images, or more max_iterations",
    )


def _variance(network: nn.Module, layer: nn.Module, batch: Tensor) -> float:
    """Of all outputs of the layer's first call; the network is run no further than that."""
    found: list[float] = []

    def measure(_: nn.Module, __: Any, output: Tensor) -> None:
        found.append(float(output.double().var(correction=0)))
        raise _ReachedError

    handle = layer.register_forward_hook(measure)
    try:
        network(batch)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return found[0]


def _order(network: nn.Module, layers: Mapping[str, nn.Module], batch: Tensor) -> list[str]:
    """The layers that are run, each once, in the order in which they are."""
    called: dict[str, None] = {}
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.setdefault(name))
        for name, layer in layers.items()
    ]
    try:
        network(batch)
    finally:
        for handle in handles:
            handle.remove()
    return list(called)
