"""What the tests of the Inception families share."""

from __future__ import annotations

import torch
from torch import nn

from convworks import anatomy, layers, models

CONVOLUTIONS = (nn.Conv2d, layers.Conv2d)


def built(name: str, **options: object) -> nn.Module:
    """The published network at 1000 classes, without memory for its weights."""
    with torch.device("meta"):
        return models.create(name, num_classes=1000, **options)  # type: ignore[arg-type]


def stages(net: nn.Module, side: int) -> dict[str, anatomy.Row]:
    return {row.name: row for row in anatomy.stages(anatomy.trace(net, (3, side, side)))}


def weights(row: anatomy.Row) -> int:
    """Parameters without biases."""
    return row.parameters - row.biases


def weight_layers(net: nn.Module) -> int:
    return sum(isinstance(layer, (*CONVOLUTIONS, nn.Linear)) for layer in net.modules())


def kernels(net: nn.Module) -> set[tuple[int, ...]]:
    return {tuple(layer.kernel_size) for layer in net.modules() if isinstance(layer, CONVOLUTIONS)}


def check_depth(name: str, net: nn.Module, published: int) -> None:
    found = weight_layers(net)
    assert found == published, f"{name}: {found} weight layers, the paper says {published}"


def parameters_without_gradient(net: nn.Module, side: int) -> list[str]:
    """After one backward pass of four images through a network of ten classes."""
    torch.manual_seed(0)
    output = net(torch.randn(4, 3, side, side))
    torch.nn.functional.cross_entropy(output, torch.arange(4)).backward()
    return [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
