"""Answers found by running: torch layers are built, fed and counted. No formula "
"for a size or a cost is used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.ops.stack import Layer, Stack, parse_stack


@dataclass(frozen=True, slots=True)
class Measured:
    """What one layer did: its output as HxWxC, its parameters, its weights alone, its multiply-adds."""

    output: tuple[int, ...]
    parameters: int
    weights: int
    macs: int


def measure_stack(text: str, *, macs: bool = True) -> list[Measured]:
    """Build every layer of a stack, run one input through it, and count.

    Multiply-adds are counted by a second pass in which the layer's weights, its input and the padding are 1
    and its biases 0: each product then adds exactly 1 to the sum of the outputs.
    """
    stack = parse_stack(text)
    x = torch.zeros(1, *stack.input, dtype=torch.float64)
    rows = []
    with torch.no_grad():
        for layer in stack.layers:
            module = build(layer, x)
            before, x = x, module(x)
            named = list(module.named_parameters())
            rows.append(
                Measured(
                    output=hwc(x),
                    parameters=sum(p.numel() for _, p in named),
                    weights=sum(p.numel() for name, p in named if name.endswith("weight")),
                    macs=count_macs(module, before, x) if macs else 0,
                )
            )
    return rows


def hwc(x: Tensor) -> tuple[int, ...]:
    """(1, C, H, W) -> (H, W, C); (1, C) -> (C,)."""
    return (*x.shape[2:], x.shape[1])


def build(layer: Layer, x: Tensor) -> nn.Module:
    """The torch module of a layer for an input of x's shape, in float64. Raises "
    "ValueError for other kinds."""
    channels, rank = x.shape[1], x.ndim - 2
    if layer.kind == "conv":
        assert isinstance(layer.padding, int | str)
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        return kind(
            channels,
            layer.filters,
            layer.kernel,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,
            dilation=layer.dilation,  # type: ignore[arg-type]
            groups=layer.groups,
            bias=layer.bias,
            dtype=torch.float64,
        )
    if layer.kind == "dense":
        inputs = x[0].numel()
        return nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, layer.filters, bias=layer.bias, dtype=torch.float64)
        )
    if layer.kind in ("max", "avg"):
        pool = nn.MaxPool2d if layer.kind == "max" else nn.AvgPool2d
        return pool(layer.kernel, layer.stride, layer.padding)  # type: ignore[arg-type]
    if layer.kind in ("relu", "tanh", "lrn"):
        return {"relu": nn.ReLU(), "tanh": nn.Tanh(), "lrn": nn.LocalResponseNorm(5)}[layer.kind]
    if layer.kind == "flatten":
        return nn.Flatten()
    raise ValueError(f"there is no module for '{layer.text}' here")


def count_macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Multiply-adds of a convolution or dense layer, 0 of another, by a pass of ones."""
    if isinstance(module, nn.Sequential):
        dense = module[-1]
        assert isinstance(dense, nn.Linear)
        weight = dense.weight
        return int(F.linear(torch.ones(1, weight.shape[1]).to(weight), torch.ones_like(weight)).sum())
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return 0
    sides: list[int] = []
    for dim in reversed(range(len(module.kernel_size))):
        reach = (y.shape[2 + dim] - 1) * module.stride[dim]
        reach += module.dilation[dim] * (module.kernel_size[dim] - 1) + 1
        extra = max(0, reach - x.shape[2 + dim])
        sides += [extra // 2, extra - extra // 2]
    ones = F.pad(torch.ones_like(x), sides, value=1.0)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(module.kernel_size) - 1]
    counted = convolve(
        ones,
        torch.ones_like(module.weight),
        stride=module.stride,
        dilation=module.dilation,
        groups=module.groups,
    )
    assert counted.shape == y.shape
    return int(counted.sum())


def measure_field(text: str) -> tuple[int, ...]:
    """The receptive field of the middle output: where its gradient on the input is not zero.

    Weights are 1, so that no gradient cancels, and maximum pooling becomes a mean, which uses every input.
    """
    stack = parse_stack(text)
    x = torch.zeros(1, *stack.input, dtype=torch.float64, requires_grad=True)
    y: Tensor = x
    for layer in _averaging(stack):
        module = build(layer, y)
        for parameter in module.parameters():
            nn.init.ones_(parameter)
        y = module(y)
    middle = y[(0, 0, *(n // 2 for n in y.shape[2:]))]
    (gradient,) = torch.autograd.grad(middle, x)
    places = gradient[0].abs().sum(dim=0).nonzero()
    return tuple(int(n) for n in places.amax(dim=0) - places.amin(dim=0) + 1)


def _averaging(stack: Stack) -> list[Layer]:
    return [replace(layer, kind="avg") if layer.kind == "max" else layer for layer in stack.layers]
