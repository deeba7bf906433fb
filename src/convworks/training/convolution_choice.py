"""Which layers of a network train faster by kernels of ours on this machine: each is measured.

There are two ways beside torch's: Winograd's F(4x4, 3x3) for convolutions, and the processor's matrix units
(AMX) for those and dense layers. Every layer that a way fits is timed alone, forward and backward, against
torch's own, on what has the shape that it meets in the network; layers of the same shape are measured once.
What wins depends on the channels, the size of the maps and the processor.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convworks.layers.amx import suitable_amx
from convworks.layers.arrangement import arrange
from convworks.layers.winograd import suitable
from convworks.ops import amx_convolution, fast_winograd
from convworks.training.loop import Numerics
from convworks.training.step_timing import ratio

SHORTEST = 0.02  # seconds for a shape and a way
Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of training a layer that is not torch's. `name` is that of the setting, too."""

    name: str
    margin: float  # it must be this much faster than torch's for a layer
    suitable: Callable[[nn.Module], list[str]]  # the layers that it fits
    available: Callable[[], bool]  # whether its kernels are loaded and the processor can run them


WINOGRAD = Way(
    name="winograd",
    margin=1.1,  # its numbers are coarser
    suitable=suitable,
    available=fast_winograd.available,
)
AMX = Way(
    name="amx",
    margin=1.03,  # its numbers are as good as torch's
    suitable=suitable_amx,
    available=amx_convolution.available,
)
WAYS = (WINOGRAD, AMX)


class Choice(NamedTuple):
    """The names of the layers that train by Winograd's algorithm, and of those on matrix units."""

    winograd: tuple[str, ...] = ()
    amx: tuple[str, ...] = ()


class Met(NamedTuple):
    """What a layer meets in a pass: the shape of its maps (vectors), its own, whether these need one."""

    maps: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]  # () for a dense layer
    padding: str  # and ""
    bias: bool
    input_gradient: bool


def layers_met(network: nn.Module, x: Tensor, numerics: Numerics) -> dict[str, Met]:
    """Of every layer that one of our ways fits and a training pass calls once: what it meets."""
    found: dict[str, Met] = {}
    often: set[str] = set()
    fitting = {name for way in WAYS for name in way.suitable(network)}
    modules = dict(network.named_modules())
    names = [name for name in modules if name in fitting]

    def watch(name: str) -> RemovableHandle:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name in found:
                often.add(name)
            assert isinstance(layer, Layer)
            shape, own = tuple(inputs[0].shape), tuple(layer.weight.shape)
            window = (layer.stride, str(layer.padding)) if isinstance(layer, nn.Conv2d) else ((), "")
            found[name] = Met(shape, own, *window, layer.bias is not None, inputs[0].requires_grad)

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


def gains(
    network: nn.Module, x: Tensor, numerics: Numerics, ways: Collection[Way] = WAYS
) -> dict[str, dict[str, float]]:
    """How many times as fast each layer trains by each way that fits it; x is a batch or a part of one.

    By name of the layer and of the way. Ways whose kernels or instructions are missing are left out, and it
    is empty where nothing fits. The network is not changed.
    """
    if numerics.precision != "bf16" or numerics.device != "cpu":
        return {}
    fitting = {way.name: set(way.suitable(network)) for way in ways if way.available()}
    if not any(fitting.values()):
        return {}
    measured: dict[tuple[Met, str], float] = {}
    found: dict[str, dict[str, float]] = {}
    modules = dict(network.named_modules())
    for name, shape in layers_met(network, x, numerics).items():
        layer = modules[name]
        assert isinstance(layer, Layer)
        for way, names in fitting.items():
            if name not in names:
                continue
            if (shape, way) not in measured:
                measured[shape, way] = _gain(layer, shape, numerics, way)
            found.setdefault(name, {})[way] = measured[shape, way]
    return found


def _gain(layer: Layer, met: Met, numerics: Numerics, way: str) -> float:
    x = _maps(met, numerics)
    direct, other = _twin(layer), _twin(layer, way)
    (margin,) = (each.margin for each in WAYS if each.name == way)
    return ratio(_timer(direct, x, numerics), _timer(other, x, numerics), seconds=SHORTEST, margin=margin)


def convolutions_of(network: nn.Module, names: Collection[str]) -> tuple[str, ...]:
    """Those of the names that are of convolutions, in their order; the others are of dense layers."""
    modules = dict(network.named_modules())
    return tuple(name for name in names if isinstance(modules.get(name), nn.Conv2d))


def layers_alone(network: nn.Module, chosen: Choice, x: Tensor, numerics: Numerics) -> Callable[[], float]:
    """A function that computes the chosen layers in their ways and returns their seconds.

    Each is computed forward and backward on what has the shape that it meets, as a training step does, with
    nothing between them. Layers of the same shape share their memory. The network is not changed.
    """
    modules = dict(network.named_modules())
    way_of = {name: way for way, names in chosen._asdict().items() for name in names}
    met = [
        (name, shape, way_of[name])
        for name, shape in layers_met(network, x, numerics).items()
        if name in way_of
    ]
    timers: dict[tuple[Met, str], Callable[[], float]] = {}
    for name, shape, way in met:
        if (shape, way) not in timers:
            layer = modules[name]
            assert isinstance(layer, Layer)
            timers[shape, way] = _timer(_twin(layer, way), _maps(shape, numerics), numerics)
    return lambda: sum(timers[shape, way]() for _, shape, way in met)


def _twin(layer: Layer, way: str = "") -> nn.Module:
    """A copy of the layer in training, computing in that way or as torch does."""
    twin = nn.Sequential(copy.deepcopy(layer)).train()
    named = ("0",)
    return arrange(
        twin,
        fused=False,
        winograd=named if way == WINOGRAD.name else (),
        amx=named if way == AMX.name else (),
    )


def _maps(met: Met, numerics: Numerics) -> Tensor:
    layout = torch.contiguous_format if not met.stride else numerics.torch_memory_format
    x = _noise(met.maps).to(torch.bfloat16, memory_format=layout)
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


def chosen(found: Mapping[str, Mapping[str, float]]) -> Choice:
    """The layers that win by their way's margin, in the order of the network."""
    taken = {name: _fastest(each) for name, each in found.items()}
    return Choice(*(tuple(name for name, each in taken.items() if each is way) for way in WAYS))


def _fastest(found: Mapping[str, float]) -> Way | None:
    """The way that wins, or None for torch's. Winograd's must win against matrix units by its margin, too."""
    winograd, amx = (found.get(way.name, 0.0) for way in WAYS)
    if winograd >= WINOGRAD.margin and (amx < AMX.margin or winograd >= WINOGRAD.margin * amx):
        return WINOGRAD
    return AMX if amx >= AMX.margin else None
