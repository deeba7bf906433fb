"""The receptive field as the gradient shows it: the cells of the input that move one unit of a layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convworks.anatomy.trace import Row
from convworks.errors import unknown_name

DRAWS = 24  # images; maximum pooling shows the gradient one path, and other images show other paths


Ends = tuple[tuple[int, int], ...]  # (first, last) cell of the input, for each dimension


def measured_field(
    network: nn.Module, input_shape: tuple[int, ...], layer: str, *, draws: int = DRAWS, seed: int = 0
) -> Ends:
    """(first, last) cell of the input, for each dimension, that the middle unit of a layer depends on.

    The gradient of the sum over that unit's maps is taken for `draws` random images in float64, and where it
    is not zero for one of them counts. The network is copied and stays as it is; it is in evaluation mode.
    A unit that no cell moves has (0, -1). Raises U101 for a layer that is not there.
    Source: Luo, Li, Urtasun, Zemel, "Understanding the effective receptive field", 2016.
    """
    return measured_fields(network, input_shape, (layer,), draws=draws, seed=seed)[layer]


def measured_fields(
    network: nn.Module,
    input_shape: tuple[int, ...],
    layers: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Ends]:
    """As `measured_field`, for several layers from the same passes."""
    twin = copy.deepcopy(network).double().eval().requires_grad_(False)
    modules = dict(twin.named_modules())
    for layer in layers:
        if layer not in modules or not layer:
            raise unknown_name("layer", layer, [name for name in modules if name])
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> RemovableHandle:
        handle: RemovableHandle = modules[name].register_forward_hook(
            lambda _, __, output: seen.update({name: output.clone()})
        )
        return handle

    handles = [keep(layer) for layer in layers]
    generator = torch.Generator().manual_seed(seed)
    moved = {layer: torch.zeros(input_shape[1:], dtype=torch.bool) for layer in layers}
    try:
        for _ in range(draws):
            image = torch.randn(1, *input_shape, generator=generator, dtype=torch.float64, requires_grad=True)
            twin(image)
            for layer in layers:
                unit = _middle(seen[layer]).sum()
                (gradient,) = torch.autograd.grad(unit, image, retain_graph=True)
                moved[layer] |= (gradient[0] != 0).any(dim=0)
            seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return {layer: tuple(_ends(cells, dim) for dim in range(cells.dim())) for layer, cells in moved.items()}


def predicted(row: Row, input_shape: tuple[int, ...]) -> Ends:
    """What `measured_field` gives for a layer by the rule: the middle unit's field inside the image."""
    cells = []
    for size, jump, centre, at, n in zip(
        row.field, row.jump, row.centre, middle(row.output[1:]), input_shape[1:], strict=False
    ):
        first = centre - (size - 1) / 2 + at * jump
        cells.append((int(max(0, first)), int(min(n - 1, first + size - 1))))
    return tuple(cells)


def middle(size: tuple[int, ...]) -> tuple[int, ...]:
    """The position in the middle of a map."""
    return tuple((n - 1) // 2 for n in size)


def _middle(output: Tensor) -> Tensor:
    maps = output[0]  # (C, ...)
    for at in middle(tuple(maps.shape[1:])):
        maps = maps[:, at]
    return maps


def _ends(moved: Tensor, dim: int) -> tuple[int, int]:
    others = [d for d in range(moved.dim()) if d != dim]
    line = moved.any(dim=others) if others else moved
    cells = line.nonzero().flatten()
    return (int(cells[0]), int(cells[-1])) if len(cells) else (0, -1)
