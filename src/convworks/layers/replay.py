"""A small network whose whole training pass is captured once for a shape, and replayed.

`use_replay(network)` changes the class of the `nn.Sequential` that is the network, `without_replay(network)`
changes it back; nothing else changes. It applies to networks all of whose layers train by kernels of ours
(`AmxConv2d`, `AmxLinear`, fused max pooling) or are ReLUs or flatten. To autograd, forward and backward are
then one function, in which kernel follows kernel on memory that is kept: the same kernels on the same
numbers, so that not a bit differs from the layers' own passes. These remain where somebody looks into the
network (hooks), where a parameter is frozen, and outside training.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from convworks.layers import fused
from convworks.layers.amx import AmxConv2d, AmxLinear, window_of
from convworks.layers.fused import FusedMaxPool2d, FusedReLU
from convworks.ops import amx_convolution, amx_linear, fused_batch_norm
from convworks.ops.native import linear
from convworks.ops.native.captured import Captured

MOST_BYTES = 32e6  # of a pass: beyond it, nobody feels what is saved
MOST_KINDS = 4  # of passes that are kept: an epoch has whole batches and a smaller one at its end
_REPLAY = "replay"  # the attribute of such a network; no part of the state_dict

# From dy to dx, which is None where nobody asks, and the gradients of a layer's parameters.
Back = Callable[[Tensor, Captured, bool], tuple[Tensor | None, list[Tensor]]]


class ReplayedSequential(nn.Sequential):
    """A network that replays its training passes where it can."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> what its layers make of it."""
        replay: Replay = self.__dict__[_REPLAY]
        found = replay.take(x)
        if found is None:
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        else:
            y = _Replayed.apply(x, found, *replay.parameters())  # type: ignore[no-untyped-call]
        return y


def use_replay(network: nn.Module) -> None:
    """Let a network replay its passes, if it is an `nn.Sequential` of layers that can all be captured."""
    without_replay(network)
    if type(network) is not nn.Sequential or fused.shared_layers(network):
        return
    layers = [place.layer for row in fused.rows(network) for place in row]
    own = [each for each in layers if isinstance(each, AmxConv2d | AmxLinear)]
    if len(own) > 1 and all(map(_is_known, layers)):
        network.__class__ = ReplayedSequential
        network.__dict__[_REPLAY] = Replay(network, layers)


def without_replay(network: nn.Module) -> nn.Module:
    """Undo `use_replay`, in place; returns the same network."""
    if _REPLAY in network.__dict__:
        del network.__dict__[_REPLAY]
        network.__class__ = nn.Sequential
    return network


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer) in (FusedMaxPool2d, FusedReLU):
        return fused.pooling_of(layer) is not None
    return type(layer) in (AmxConv2d, AmxLinear, nn.ReLU)


class Replay:
    """The passes of a network that were captured, those that are under way left out."""

    def __init__(self, network: nn.Sequential, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._every = [(each, type(each), tuple(each._modules.values())) for each in network.modules()]
        self._spare: dict[Hashable, list[Pass] | None] = {}  # None: passes of that kind are not captured

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_spare": {}}  # a copy of the network has passes of its own

    def take(self, x: Tensor) -> Pass | None:
        """A pass for x that nobody else is using, or None where the layers must do it themselves."""
        if not self._may_replay(x):
            return None
        parameters = self.parameters()
        places = tuple((each.data_ptr(), each.stride()) for each in parameters)
        kind = (x.shape, torch.get_num_threads(), places)
        if kind not in self._spare:
            while len(self._spare) >= MOST_KINDS:
                del self._spare[next(iter(self._spare))]
            found = capture(self._layers, x.shape, parameters)
            self._spare[kind] = None if found is None else [found]
        spare = self._spare[kind]
        if spare is None:
            return None
        taken = spare.pop() if spare else capture(self._layers, x.shape, parameters)
        assert taken is not None
        taken.home = spare
        return taken

    def parameters(self) -> list[Tensor]:
        """Those that the layers have now, in their order."""
        return [each for layer in self._layers for each in layer._parameters.values() if each is not None]

    def _may_replay(self, x: Tensor) -> bool:
        return (
            torch.is_grad_enabled()
            and not x.requires_grad
            and x.is_floating_point()
            and x.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and amx_convolution.available()
            and all(map(self._is_as_it_was, self._every))
            and all(each.requires_grad for each in self.parameters())
        )

    @staticmethod
    def _is_as_it_was(known: tuple[nn.Module, type[nn.Module], tuple[nn.Module | None, ...]]) -> bool:
        """Whether a layer trains, nobody looks at it, and neither it nor what it holds was exchanged."""
        layer, kind, inside = known
        same = type(layer) is kind and tuple(layer._modules.values()) == inside
        return same and layer.training and not fused.hooked(layer)


class Pass:
    """Forward and backward through `layers` for an x of one shape, and the memory of both."""

    def __init__(self, layers: Sequence[nn.Module], shape: Sequence[int]) -> None:
        self.home: list[Pass] = []  # where it goes when it is over
        self._forward, self._backward = Captured(), Captured()
        memory = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        self._x = torch.empty(tuple(shape), dtype=torch.bfloat16, memory_format=memory)
        y, backs = self._x, []
        for layer in layers:
            y, back = _captured(layer, y, self._forward)
            backs.append(back)
        self._y, self._dy = y, torch.empty_like(y)
        self._gradients = self._capture_backward(layers, backs)

    def _capture_backward(self, layers: Sequence[nn.Module], backs: Sequence[Back]) -> list[Tensor]:
        learns = [next(layer.parameters(), None) is not None for layer in layers]
        first, dy, gradients = learns.index(True), self._dy, list[Tensor]()
        for number in reversed(range(first, len(layers))):
            dx, own = backs[number](dy, self._backward, number > first)
            gradients = own + gradients
            dy = dy if dx is None else dx
        return gradients

    def size(self, parameters: Sequence[Tensor]) -> int:
        """Bytes that it holds, besides those of the parameters."""
        tensors = [self._x, self._y, self._dy, *self._forward.tensors, *self._backward.tensors]
        held, others = _storages(tensors), _storages(parameters)
        return sum(size for place, size in held.items() if place not in others)

    def forward(self, x: Tensor) -> Tensor:
        self._x.copy_(x)
        self._forward.replay()
        return self._y.clone()

    def backward(self, dy: Tensor) -> list[Tensor]:
        """The gradients of all parameters; the pass is over."""
        self._dy.copy_(dy)
        self._backward.replay()
        gradients = [each.clone() for each in self._gradients]
        home, self.home = self.home, []  # a pass that is spare does not refer to its own place
        home.append(self)
        return gradients


def capture(layers: Sequence[nn.Module], shape: Sequence[int], parameters: Sequence[Tensor]) -> Pass | None:
    """A pass for an x of that shape; None where a kernel does not apply, or it needs much memory."""
    try:
        found = Pass(layers, shape)
    except _DoesNotApplyError:
        return None
    return found if found.size(parameters) <= MOST_BYTES else None


def _storages(tensors: Sequence[Tensor]) -> dict[int, int]:
    """Where the memory of each begins -> its bytes."""
    storages = [each.untyped_storage() for each in tensors]
    return {each.data_ptr(): each.nbytes() for each in storages}


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, replayed: Pass, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)  # so that autograd finds out if they are changed meanwhile
        ctx.replayed = replayed
        return replayed.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        replayed: Pass | None = ctx.replayed
        if replayed is None:
            raise RuntimeError("a pass that is replayed can go backward once only")
        ctx.replayed = None
        return None, None, *replayed.backward(dy)


# --- the layers ------------------------------------------------------------------------------------------


class _DoesNotApplyError(Exception):
    """A kernel does not compute this."""


def _captured(layer: nn.Module, x: Tensor, run: Captured) -> tuple[Tensor, Back]:
    """What the layer makes of x, once `run` has run, and how its gradients are captured."""
    if isinstance(layer, AmxConv2d):
        return _convolution(layer, x, run)
    if isinstance(layer, AmxLinear):
        return _dense(layer, x, run)
    if isinstance(layer, FusedMaxPool2d):
        return _max_pooling(layer, x, run)
    if isinstance(layer, nn.Flatten):
        return _flat(x, run)
    return (x, _unchanged) if isinstance(layer, FusedReLU) else _relu(x, run)


def _unchanged(dy: Tensor, run: Captured, wanted: bool) -> tuple[Tensor | None, list[Tensor]]:
    return dy, []


def _convolution(layer: AmxConv2d, x: Tensor, run: Captured) -> tuple[Tensor, Back]:
    window = window_of(layer)
    if window is None:
        raise _DoesNotApplyError
    stride, padding, groups = *window, layer.groups
    if not amx_convolution.applies(x, layer.weight, stride=stride, padding=padding, groups=groups):
        raise _DoesNotApplyError
    y = amx_convolution.forward(
        x, layer.weight, layer.bias, stride=stride, padding=padding, groups=groups, run=run
    )

    def back(dy: Tensor, run: Captured, wanted: bool) -> tuple[Tensor | None, list[Tensor]]:
        if wanted and stride > 1:
            raise _DoesNotApplyError  # that gradient is torch's
        found = amx_convolution.backward(
            x,
            dy,
            layer.weight,
            stride=stride,
            padding=padding,
            groups=groups,
            wanted=(wanted, True, layer.bias is not None),
            run=run,
        )
        return found.x, [each for each in found[1:] if each is not None]

    return y, back


def _dense(layer: AmxLinear, x: Tensor, run: Captured) -> tuple[Tensor, Back]:
    if not (x.ndim == 2 and amx_linear.applies(x, layer.weight, layer.bias)):
        raise _DoesNotApplyError

    def back(dy: Tensor, run: Captured, wanted: bool) -> tuple[Tensor | None, list[Tensor]]:
        asked = (wanted, True, layer.bias is not None)
        found = linear.backward(x, dy, layer.weight, wanted=asked, run=run)
        return found.x, [each for each in found[1:] if each is not None]

    return linear.forward(x, layer.weight, layer.bias, run=run), back


def _max_pooling(layer: FusedMaxPool2d, x: Tensor, run: Captured) -> tuple[Tensor, Back]:
    pooling = fused.pooling_of(layer)
    if pooling is None or not fused_batch_norm.pool_applies(x, pooling[0]):
        raise _DoesNotApplyError
    window, relu = pooling
    y, place = fused_batch_norm.pooled(x, window, relu=relu, run=run)

    def back(dy: Tensor, run: Captured, wanted: bool) -> tuple[Tensor | None, list[Tensor]]:
        return fused_batch_norm.unpooled(dy, place, x.shape, window, run=run), []

    return y, back


def _flat(x: Tensor, run: Captured) -> tuple[Tensor, Back]:
    if x.ndim == 2:
        return x, _unchanged
    y = torch.empty(len(x), x[0].numel(), dtype=x.dtype)
    run.then(Tensor.copy_, y.view(x.shape), x)

    def back(dy: Tensor, run: Captured, wanted: bool) -> tuple[Tensor | None, list[Tensor]]:
        dx = torch.empty_like(x)
        run.then(Tensor.copy_, dx, dy.view(x.shape))
        return dx, []

    return y, back


def _relu(x: Tensor, run: Captured) -> tuple[Tensor, Back]:
    """In place: what gave x needs it no more."""
    run.then(torch.relu_, x)

    def back(dy: Tensor, run: Captured, wanted: bool) -> tuple[Tensor | None, list[Tensor]]:
        run.then(_mask, dy, x)
        return dy, []

    return x, back


def _mask(dy: Tensor, y: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(dy, y, 0, grad_input=dy)
