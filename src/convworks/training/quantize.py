"""Eight-bit integers in training: weights and inputs of layers are rounded as an int8 network would round
them.

    weights  symmetric, a scale for each output channel:  q = round(w / s) in -127..127,  s = max |w| / 127
    inputs   affine, one scale for each layer:  q = round(x / s) + z in 0..255, with 0 exactly at z

The forward pass sees s q (or s (q - z)); the backward pass takes rounding for the identity, and is 0 where
an input is outside of its range (the straight-through estimator). Everything else stays in floating point:
biases, batch norm, pooling, the outputs.

The range of an input is that of the batch at hand while the network trains, so that nothing has to be
remembered between steps, and afterwards a fixed one, measured on training images (`observing`).

Batch norm is not folded into the weights, since nothing would change: it multiplies each output channel by
a factor, and a scale for each channel takes that factor up, so that the integers of the folded weights are
the same (for a negative factor with the other sign).

Sources: lectures, transfer learning (models with quantisation operations); Jacob et al., "Quantization and
training of neural networks for efficient integer-arithmetic-only inference", 2018, sections 2.1 and 3;
Bengio, Leonard, Courville, "Estimating or propagating gradients through stochastic neurons", 2013."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from convworks.errors import ConvworksError
from convworks.layers.convolution import Conv1d, Conv2d, Conv3d

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1d, Conv2d, Conv3d)
MOST_WEIGHT, MOST_INPUT = 127, 255
TINY = 1e-12  # the smallest scale: of a layer whose weights or inputs are all 0

Inputs = Literal["batch", "fixed", "float"]


class InputScale(NamedTuple):
    """How the inputs of a layer become integers: s and z above."""

    scale: float
    zero: int


def quantizable(network: nn.Module) -> dict[str, Any]:
    """The dense and convolutional layers whose weights are rounded, by name."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, KINDS) and not is_parametrized(layer)
    }


def weight_scales(weight: Tensor) -> Tensor:
    """(O,) float32: s for each output channel of weights (O, ...)."""
    largest = weight.detach().float().flatten(1).abs().amax(dim=1)
    return (largest / MOST_WEIGHT).clamp(min=TINY)


def rounded_weight(weight: Tensor) -> Tensor:
    """s q for weights (O, ...): the same shape and type, with the straight-through gradient."""
    scales = weight_scales(weight)
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=weight.device)
    found = torch.fake_quantize_per_channel_affine(
        weight.float(), scales, zeros, 0, -MOST_WEIGHT, MOST_WEIGHT
    )
    return found.to(weight.dtype)


def weight_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(q, s): int8 of the weights' shape, float32 (O,); s q is `rounded_weight` to the bit."""
    scales = weight_scales(weight)
    column = scales.view(-1, *[1] * (weight.ndim - 1))
    return (rounded_weight(weight.detach()).float() / column).round().to(torch.int8), scales


def input_scale(low: float, high: float) -> InputScale:
    """s and z of a range, widened so that 0 is in it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / MOST_INPUT, TINY)
    return InputScale(scale, min(MOST_INPUT, max(0, round(-low / scale))))


def rounded_input(x: Tensor, how: InputScale | None) -> Tensor:
    """s (q - z) of a layer's inputs, by a fixed scale, or by the range of this batch where it is None."""
    wide = x.float()
    if how is not None:
        found = torch.fake_quantize_per_tensor_affine(wide, how.scale, how.zero, 0, MOST_INPUT)
    else:
        low, high = torch.aminmax(wide.detach())
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = ((high - low) / MOST_INPUT).clamp(min=TINY)
        zero = (-low / scale).round().clamp(0, MOST_INPUT).to(torch.int32)
        found = torch.fake_quantize_per_tensor_affine(wide, scale, zero, 0, MOST_INPUT)
    return found.to(x.dtype)


@dataclass(slots=True, eq=False)
class _State:
    """What all hooks of a network and of its copies look at."""

    weights: bool = True  # whether weights are rounded
    inputs: Inputs = "batch"
    scales: dict[str, InputScale] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] | None = None  # while `observing`

    def __deepcopy__(self, memo: object) -> _State:
        return self


class Quantizer:
    """Rounds weights and inputs of a network's layers in every forward pass, also in copies made afterwards.

    The network's parameters, their order and its state stay those of the plain network: hooks put the rounded
    weight in the place of the parameter while a layer runs. Raises U235 where no layer can be rounded.
    """

    def __init__(self, network: nn.Module, *, weights: bool = True) -> None:
        self.layers = tuple(quantizable(network))
        if not self.layers:
            raise ConvworksError(
                "U235",
                f"{type(network).__name__} has no dense or convolutional layer to round to 8 bits",
                try_="--set transfer.quantize=none",
            )
        self._state = _State(weights=weights)
        for name in self.layers:
            layer = network.get_submodule(name)
            layer.register_forward_pre_hook(_Enter(name, self._state))
            layer.register_forward_hook(_leave, always_call=True)

    @property
    def scales(self) -> Mapping[str, InputScale]:
        """The fixed scales of the layers' inputs."""
        return self._state.scales

    def fix(self, scales: Mapping[str, InputScale]) -> None:
        """Take these scales for all inputs from now on."""
        self._state.scales, self._state.inputs = dict(scales), "fixed"

    @contextmanager
    def off(self) -> Iterator[None]:
        """The plain network while this is open."""
        before = self._state.weights, self._state.inputs
        self._state.weights, self._state.inputs = False, "float"
        try:
            yield
        finally:
            self._state.weights, self._state.inputs = before

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Measure the range of every layer's inputs over the forward passes inside; it is fixed afterwards.

        Weights are rounded meanwhile, inputs are not. A layer that no pass reaches keeps its inputs as they
        are."""
        state, before = self._state, self._state.inputs
        ranges: dict[str, tuple[float, float]] = {}
        state.ranges, state.inputs = ranges, "float"
        try:
            yield
        finally:
            state.ranges, state.inputs = None, before
        self.fix({name: input_scale(*ranges[name]) for name in self.layers if name in ranges})


class _Enter:
    """Before a layer runs: its inputs are rounded, and its weight stands in for the parameter."""

    def __init__(self, name: str, state: _State) -> None:
        self.name, self.state = name, state

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        state = self.state
        if state.weights:
            layer.__dict__["weight"] = rounded_weight(layer._parameters["weight"])  # type: ignore[arg-type]
        if state.ranges is not None:
            low, high = (float(each) for each in torch.aminmax(inputs[0].detach().float()))
            before = state.ranges.get(self.name, (low, high))
            state.ranges[self.name] = (min(low, before[0]), max(high, before[1]))
        how = state.scales.get(self.name)
        if state.inputs == "float" or (state.inputs == "fixed" and how is None):
            return None
        return (rounded_input(inputs[0], how if state.inputs == "fixed" else None), *inputs[1:])


def _leave(layer: nn.Module, inputs: object, output: object) -> None:
    layer.__dict__.pop("weight", None)
