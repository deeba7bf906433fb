"""The receptive field as the gradient shows it: the cells of the input that move one unit of a layer."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from convworks.errors import unknown_name

DRAWS = 24  # images; maximum pooling shows the gradient one path, and other images show other paths


def measured_field(
    network: nn.Module, input_shape: tuple[int, ...], layer: str, *, draws: int = DRAWS, seed: int = 0
) -> tuple[tuple[int, int], ...]:
    """(first, last) cell of the input, for each dimension, that the middle unit of a layer depends on.

    The gradient of the sum over that unit's maps is taken for `draws` random images in float64, and where it
    is not zero for one of them counts. The network is copied and stays as it is; it is in evaluation mode.
    A unit that no cell moves has (0, -1). Raises U101 for a layer that is not there.
    Source: Luo, Li, Urtasun, Zemel, "Understanding the effective receptive field", 2016.
    """
    twin = copy.deepcopy(network).double().eval()
    modules = dict(twin.named_modules())
    if layer not in modules or not layer:
        raise unknown_name("layer", layer, [name for name in modules if name])
    seen: list[Tensor] = []
    handle = modules[layer].register_forward_hook(lambda _, __, output: seen.append(output))
    generator = torch.Generator().manual_seed(seed)
    moved = torch.zeros(input_shape[1:], dtype=torch.bool)
    try:
        for _ in range(draws):
            image = torch.randn(1, *input_shape, generator=generator, dtype=torch.float64, requires_grad=True)
            seen.clear()
            twin(image)
            (gradient,) = torch.autograd.grad(_middle(seen[0]).sum(), image)
            moved |= (gradient[0] != 0).any(dim=0)
    finally:
        handle.remove()
    return tuple(_ends(moved, dim) for dim in range(moved.dim()))


def middle(size: tuple[int, ...]) -> tuple[int, ...]:
    """The position in the middle of a map."""
    return tuple((n - 1) // 2 for n in size)


def _middle(output: Tensor) -> Tensor:
    return output[(0, slice(None), *middle(tuple(output.shape[2:])))]


def _ends(moved: Tensor, dim: int) -> tuple[int, int]:
    others = [d for d in range(moved.dim()) if d != dim]
    line = moved.any(dim=others) if others else moved
    cells = line.nonzero().flatten()
    return (int(cells[0]), int(cells[-1])) if len(cells) else (0, -1)
