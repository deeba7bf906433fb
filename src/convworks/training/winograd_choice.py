"""Which convolutions of a network train faster by Winograd's F(4x4, 3x3) on this machine: each is measured.

Every convolution that the algorithm fits is timed alone, forward and backward, against torch's own, on maps
of the shape that it meets in the network; layers of the same shape are measured once. What wins depends on
the channels, the size of the maps and the processor: with matrix units torch's own may win everywhere.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convworks.layers.winograd import suitable, use_winograd
from convworks.ops.fast_winograd import available
from convworks.training.loop import Numerics
from convworks.training.step_timing import ratio

MARGIN = 1.1  # Winograd's must be this much faster for a layer: its numbers are coarser
SHORTEST = 0.02  # seconds for a shape


class Met(NamedTuple):
    """What a convolution meets in a pass: the shape of its maps, its own, whether they need a gradient."""

    maps: tuple[int, ...]
    weight: tuple[int, ...]
    padding: str
    bias: bool
    input_gradient: bool


def layers_met(network: nn.Module, x: Tensor, numerics: Numerics) -> dict[str, Met]:
    """Of every convolution that Winograd's algorithm fits and a training pass calls once: what it meets."""
    found: dict[str, Met] = {}
    often: set[str] = set()
    names = suitable(network)
    modules = dict(network.named_modules())

    def watch(name: str) -> RemovableHandle:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name in found:
                often.add(name)
            assert isinstance(layer, nn.Conv2d)
            shape, own = tuple(inputs[0].shape), tuple(layer.weight.shape)
            needs = inputs[0].requires_grad
            found[name] = Met(shape, own, str(layer.padding), layer.bias is not None, needs)

        handle: RemovableHandle = modules[name].register_forward_pre_hook(hook)
        return handle

    handles = [watch(name) for name in names]
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]), numerics.autocast():
            network.train()(x)
    finally:
        for handle in handles:
            handle.remove()
        for name, value in network.named_buffers():
            value.copy_(buffers[name])
    return {name: met for name, met in found.items() if name not in often}


def gains(network: nn.Module, x: Tensor, numerics: Numerics) -> dict[str, float]:
    """How many times as fast each convolution trains by Winograd's algorithm; x is a batch or a part of one.

    Empty where the kernels or the processor's instructions are missing, or nothing fits. The network is not
    changed.
    """
    if not available() or numerics.precision != "bf16" or numerics.device != "cpu":
        return {}
    measured: dict[Met, float] = {}
    modules = dict(network.named_modules())
    met = layers_met(network, x, numerics)
    for name, shape in met.items():
        if shape not in measured:
            layer = modules[name]
            assert isinstance(layer, nn.Conv2d)
            measured[shape] = _gain(layer, shape, numerics)
    return {name: measured[shape] for name, shape in met.items()}


def _gain(layer: nn.Conv2d, met: Met, numerics: Numerics) -> float:
    x = _maps(met, numerics)
    direct, other = (_twin(layer, winograd=winograd) for winograd in (False, True))
    return ratio(_timer(direct, x, numerics), _timer(other, x, numerics), seconds=SHORTEST)


def layers_alone(
    network: nn.Module, names: Collection[str], x: Tensor, numerics: Numerics
) -> Callable[[], float]:
    """A function that computes the named convolutions by Winograd's algorithm and returns their seconds.

    Each is computed forward and backward on maps of the shape that it meets, as a training step does, with
    nothing between them. Layers of the same shape share their memory. The network is not changed.
    """
    modules = dict(network.named_modules())
    met = {name: shape for name, shape in layers_met(network, x, numerics).items() if name in names}
    timers: dict[Met, Callable[[], float]] = {}
    for name, shape in met.items():
        if shape not in timers:
            layer = modules[name]
            assert isinstance(layer, nn.Conv2d)
            timers[shape] = _timer(_twin(layer, winograd=True), _maps(shape, numerics), numerics)
    return lambda: sum(timers[shape]() for shape in met.values())


def _twin(layer: nn.Conv2d, *, winograd: bool) -> nn.Module:
    """A copy of the layer in training, computing in the one way or the other."""
    twin = nn.Sequential(copy.deepcopy(layer)).train()
    use_winograd(twin, ["0"] if winograd else [])
    return twin


def _maps(met: Met, numerics: Numerics) -> Tensor:
    x = _noise(met.maps).to(torch.bfloat16, memory_format=numerics.torch_memory_format)
    return x.requires_grad_(met.input_gradient)


def _noise(shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, from a generator of their own: nobody else's draws change."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _timer(layer: nn.Module, x: Tensor, numerics: Numerics) -> Callable[[], float]:
    gradient: list[Tensor] = []

    def one_step() -> float:
        start = time.perf_counter()
        with numerics.autocast():
            y = layer(x)
        forward = time.perf_counter() - start
        if not gradient:
            gradient.append(torch.empty_like(y).copy_(_noise(tuple(y.shape))))
        start = time.perf_counter()
        if y.requires_grad:
            y.backward(gradient[0])
        taken = forward + time.perf_counter() - start
        for each in (x, *layer.parameters()):
            each.grad = None
        return taken

    return one_step


def chosen(found: dict[str, float]) -> tuple[str, ...]:
    """The layers that win by the margin, in the order of the network."""
    return tuple(name for name, gain in found.items() if gain >= MARGIN)
