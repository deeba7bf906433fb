"""Dense evaluation: a network at every place of an image of any size, fully connected layers as convolutions.

Simonyan, Zisserman 2015, section 3.2: the first fully connected layer becomes a convolution with the window
of the map that it was trained on (7 x 7 at 224 pixels), the further ones 1 x 1 convolutions. The result is a
map of class scores (N, K, h, w), averaged over its places. Sermanet et al. 2014 (OverFeat) did it first.

The weights are those of the network, not copies. A convolution is a matrix product over windows, and so it is
done here: windows of the map, and at each of them the head as it is. So heads of every kind are dense: linear
layers, maxout, radial basis functions, pyramid pooling.

Global mean pooling and one linear layer (ResNet, GoogLeNet, network in network) is such a network already:
scores at every cell, and their mean, are its own answer for the whole image (He et al. 2015, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convworks.errors import ConvworksError
from convworks.layers.structure import Flatten
from convworks.models.branches import AuxiliaryHead, Headed
from convworks.ops.arguments import bad_argument

FURTHER = 32  # pixels that a trial image is larger
GLOBAL = (nn.AdaptiveAvgPool2d,)
ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PASSED = (nn.Dropout, nn.Identity)  # that do nothing in evaluation


@dataclass(frozen=True, slots=True)
class _Step:
    """One module of a chain, and the shape of what goes into it."""

    module: nn.Module
    shape: tuple[int, ...]


class DenseNetwork(nn.Module):
    """A network as a convolution: (N, C, H, W) of any size -> class scores (N, K), the mean over all places.

    `score_map` gives the map (N, K, h, w). `window` is the part of the body's map that the head sees at once,
    () where there is no head but a linear layer on means.
    """

    def __init__(self, body: nn.Module, head: nn.Module, *, window: tuple[int, ...], name: str = "") -> None:
        super().__init__()
        self.body, self.head, self.window, self.name = body, head, window, name

    def score_map(self, x: Tensor) -> Tensor:
        """(N, K, h, w). Raises U252 for an image that is smaller than the network's window."""
        maps = self.body(x)
        if not self.window:
            return _at_every_place(self.head, maps)
        h, w = (side - window + 1 for side, window in zip(maps.shape[2:], self.window, strict=True))
        if h < 1 or w < 1:
            raise ConvworksError(
                "U252",
                f"an image of {x.shape[2]}x{x.shape[3]} pixels is too small for dense evaluation",
                where=f"its map has {maps.shape[2]}x{maps.shape[3]} cells, and the fully connected layers "
                f"see {self.window[0]}x{self.window[1]}",
                try_="an image of the size that the network was trained on, or larger",
            )
        windows = F.unfold(maps, self.window).transpose(1, 2)  # (N, h w, C m n), as flatten orders them
        parts = windows.reshape(-1, maps.shape[1], *self.window)  # (N h w, C, m, n)
        scores: Tensor = self.head(parts)
        return scores.reshape(len(x), h, w, -1).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.score_map(x).mean(dim=(2, 3))


def fully_convolutional(network: nn.Module, input_shape: Sequence[int], *, name: str = "") -> DenseNetwork:
    """A dense network that shares the weights of `network`, trained on images of `input_shape` (C, H, W).

    At that size its scores are those of the network. It is for evaluation: raises BadArgument for a network
    that is in training mode, and U250, with the protocols that do work, for one that cannot be converted: its
    layers before the first fully connected one must take any size.
    """
    if network.training:
        why = "it is in training mode, with training's dropout and batch norm"
        raise bad_argument("network", name or type(network).__name__, why=why, fits="network.eval()")
    steps, output = _trace(_chain(network), tuple(input_shape), name)
    first = next((i for i, (a, b) in enumerate(_pairs(steps, output)) if len(a) == 4 and len(b) == 2), None)
    if first is None:
        raise _cannot(name, "no layer turns maps of rows and columns into a vector")
    start = first - 1 if first and isinstance(steps[first - 1].module, ADAPTIVE) else first
    if isinstance(steps[first].module, nn.Flatten | Flatten):
        pass
    elif any(True for _ in steps[first].module.parameters()):
        raise _cannot(name, f"{type(steps[first].module).__name__} goes from maps to a vector in one piece")
    body = nn.Sequential(*(step.module for step in steps[:start]))
    head = nn.Sequential(*(step.module for step in steps[start:]))
    _require_any_size(body, tuple(input_shape), name)
    linear = _linear_on_means([step.module for step in steps[start:]])
    if linear is not None:
        return DenseNetwork(body, linear, window=(), name=name).eval()
    return DenseNetwork(body, head, window=steps[start].shape[2:], name=name).eval()


def takes_any_size(network: nn.Module, input_shape: Sequence[int]) -> bool:
    """Whether the network itself, without conversion, answers for larger images than those of training."""
    try:
        _require_any_size(network, tuple(input_shape), "")
    except ConvworksError:
        return False
    return True


def _chain(network: nn.Module) -> list[nn.Module]:
    """The modules that an image goes through one after the other in evaluation."""
    if isinstance(network, Headed):
        parts = [child for child in network.children() if not isinstance(child, AuxiliaryHead)]
    elif isinstance(network, nn.Sequential) and type(network).forward is nn.Sequential.forward:
        parts = list(network)
    else:
        return [network]
    return [each for part in parts for each in _chain(part)]


def _example(network: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Zeros (1, C, H, W) of the network's own type, where it is."""
    weight = next(network.parameters(), torch.zeros(()))
    return torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)


@torch.inference_mode()
def _trace(
    chain: Sequence[nn.Module], shape: tuple[int, ...], name: str
) -> tuple[list[_Step], tuple[int, ...]]:
    """Every module with the shape that it sees, and the shape at the end."""
    x = _example(nn.ModuleList(chain), shape)
    steps = []
    for module in chain:
        steps.append(_Step(module, tuple(x.shape)))
        x = module(x)
    if x.ndim != 2:
        raise _cannot(name, f"it answers with {tuple(x.shape)}, not with one score for each class")
    return steps, tuple(x.shape)


def _pairs(steps: Sequence[_Step], output: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    shapes = [*(step.shape for step in steps), output]
    return list(pairwise(shapes))


@torch.inference_mode()
def _require_any_size(body: nn.Module, shape: tuple[int, ...], name: str) -> None:
    """Try one larger image. Raises U250 where a layer has a weight for each place."""
    channels, height, width = shape
    try:
        body(_example(body, (channels, height + FURTHER, width + FURTHER)))
    except (RuntimeError, ValueError, IndexError, ConvworksError) as problem:
        raise _cannot(name, "its layers take images of one size only") from problem


def _linear_on_means(modules: Sequence[nn.Module]) -> nn.Module | None:
    """The linear layer that stands on global means, Identity where there is none; None for other heads."""
    head = [each for each in modules if not isinstance(each, PASSED)]
    if not head or not isinstance(head[0], GLOBAL) or head[0].output_size not in (1, (1, 1)):
        return None
    rest = head[2:]  # after flatten
    if not rest:
        return nn.Identity()
    return rest[0] if len(rest) == 1 and type(rest[0]) is nn.Linear else None


def _at_every_place(head: nn.Module, maps: Tensor) -> Tensor:
    """A layer of vectors as a 1 x 1 convolution: (N, C, h, w) -> (N, K, h, w)."""
    scores: Tensor = head(maps.movedim(1, -1))
    return scores.movedim(-1, 1)


def _cannot(name: str, why: str) -> ConvworksError:
    return ConvworksError(
        "U250",
        f"{name or 'this network'} cannot be evaluated densely: {why}",
        why="dense evaluation needs layers for any size, then fully connected ones",
        try_="--protocol centre,10-crop,144-crop,multi-crop",
    )
