"""What a network is made of: one dry pass with hooks gives every layer's shape, parameters and multiply-adds.

MACs are multiply-adds of one image, biases not counted; papers that write FLOPs often mean these, and twice
the number counts the multiplication and the addition apart. Activations, normalisation, pooling without
parameters and additions count as 0, as is usual in papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from convworks.anatomy.receptive_field import Fields
from convworks.anatomy.tracer import FieldTracer, Join, tensors_of
from convworks.anatomy.windows import windows_seen

Shape = tuple[int, ...]


@runtime_checkable
class Costed(Protocol):
    """A layer that knows its own cost: it is one row of the table, whatever it is made of."""

    def macs(self, output: Shape) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One layer, in the order of execution. Shapes are those of one image, without the batch axis."""

    name: str  # the path of the module, "conv2_x.0.conv1"
    kind: str  # the class, "Conv2d"
    kernel: Shape = ()
    stride: Shape = ()
    padding: Shape = ()
    output: Shape = ()  # (C, H, W) or (F,); empty for a module that the pass did not reach
    parameters: int = 0  # trained
    fixed: int = 0  # held by the layer and not trained: frozen parameters, RBF codes
    macs: int = 0
    dilation: Shape = ()
    biases: int = 0  # of the parameters
    field: Shape = ()  # receptive field in cells of the input, one number for each dimension
    jump: tuple[float, ...] = ()  # cells of the input between neighbours
    centre: tuple[float, ...] = ()  # of the first unit's field; 0 is the middle of the first cell
    sources: tuple[int, ...] = ()  # numbers of the rows whose outputs it reads; -1 is the image

    @property
    def neurons(self) -> int:
        """Units of the output of one image."""
        return math.prod(self.output) if self.output else 0

    @property
    def flops(self) -> int:
        """Twice the multiply-adds: the multiplication and the addition counted apart."""
        return 2 * self.macs

    @property
    def dense(self) -> bool:
        """Whether every output has a weight of its own for every input."""
        return not self.kernel and (self.macs > 0 or "Linear" in self.kind or "Dense" in self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all rows."""

    parameters: int
    fixed: int
    macs: int
    neurons: int  # outputs of the layers that multiply, as papers count them: not of pooling or ReLU
    idle: int  # of the parameters, those of layers that evaluation does not call


def totals(rows: Sequence[Row]) -> Totals:
    return Totals(
        parameters=sum(row.parameters for row in rows),
        fixed=sum(row.fixed for row in rows),
        macs=sum(row.macs for row in rows),
        neurons=sum(row.neurons for row in rows if row.macs),
        idle=sum(row.parameters for row in rows if not row.output),
    )


@dataclass(frozen=True, slots=True)
class Graph:
    """A trace with what reads what. A number from 0 on is a row, -1 the image, -2 - j the join j."""

    rows: list[Row]
    reads: list[tuple[int, ...]]  # for each row
    joins: list[Join]
    outputs: tuple[int, ...] = ()  # what the network returns


def trace(module: nn.Module, input_shape: tuple[int, ...]) -> list[Row]:
    """Rows of all leaf modules and own layers for one image of (C, H, W), or (C, L), or (C, D, H, W).

    The pass runs in evaluation mode without gradients on zeros; training flags come back as they were, no
    hook stays, and neither buffers nor the random generator change. A module that is called twice has two
    rows, and its parameters count in the first. One that holds parameters and is not called has a row
    without an output. What is not a module, such as the addition of a shortcut, has no row.
    """
    return trace_graph(module, input_shape).rows


def trace_graph(module: nn.Module, input_shape: tuple[int, ...]) -> Graph:
    """The rows of `trace`, and where several tensors meet: additions, concatenations, products."""
    rows: list[Row] = []
    reads: list[tuple[int, ...]] = []
    counted: set[int] = set()
    layers = dict(_layers(module))
    image = _zeros(module, input_shape)
    tracer = FieldTracer(image)

    def hook(layer: nn.Module, name: str, inputs: Any, output: Any) -> None:
        made = _first(output)
        read = next((tuple(each.shape[1:]) for each in tensors_of([inputs])), ())
        row = _row(name, layer, read, tuple(made.shape[1:]), counted)
        node = tracer.node_of(made)
        reads.append(() if node is None else (node,))
        rows.append(replace(row, sources=tracer.origins(reads[-1]), **_seen(tracer.fields_of(made))))
        tracer.passed(made, len(rows) - 1)

    seen = windows_seen(module, tracer)  # its hooks come first
    with _evaluation(module), seen, _hooks(layers, hook), torch.no_grad(), tracer:
        made = tensors_of([module(image)])
    outputs = tuple(node for node in map(tracer.node_of, made) if node is not None)
    for name, layer in module.named_modules():
        left = [p for p in layer.parameters(recurse=False) if id(p) not in counted]
        if left:
            rows.append(_row(name or type(layer).__name__, layer, (), (), counted))
            reads.append(())
    return Graph(rows, reads, tracer.joins, outputs)


def stages(rows: Sequence[Row]) -> list[Row]:
    """The rows summed over the children of the network, which are the stages that its paper names.

    Kind, kernel, stride and padding are those of the one layer of a stage that does the multiply-adds, or has
    a kernel, or parameters; a stage with N of them is "N layers", as papers count: without ReLU and pooling.
    """
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.name.split(".")[0], []).append(row)
    result = []
    for name, parts in grouped.items():
        main = (
            [row for row in parts if row.macs]
            or [row for row in parts if row.kernel]
            or [row for row in parts if row.parameters or row.fixed]
            or parts
        )
        single = main[0] if len(main) == 1 else None
        total = totals(parts)
        last = next((row for row in reversed(parts) if row.output), parts[-1])
        result.append(
            Row(
                name=name,
                kind=single.kind if single else f"{len(main)} layers",
                kernel=single.kernel if single else (),
                stride=single.stride if single else (),
                padding=single.padding if single else (),
                output=last.output,
                parameters=total.parameters,
                fixed=total.fixed,
                macs=total.macs,
                dilation=single.dilation if single else (),
                biases=sum(row.biases for row in parts),
                field=last.field,
                jump=last.jump,
                centre=last.centre,
            )
        )
    return result


def _layers(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Leaf modules and those with a cost of their own, by path; a module under two names comes once."""
    seen: set[int] = set()

    def walk(layer: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        children = list(layer.named_children())
        if isinstance(layer, Costed) or not children:
            yield path or type(layer).__name__, layer
            return
        for child_name, child in children:
            yield from walk(child, f"{path}.{child_name}" if path else child_name)

    yield from walk(module, name)


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then every module's own flag again."""
    flags = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, flag in flags:
            layer.training = flag


@contextmanager
def _hooks(layers: dict[str, nn.Module], hook: Any) -> Iterator[None]:
    """Call `hook(layer, name, its inputs, its output)` after every layer."""
    handles = [
        layer.register_forward_hook(lambda m, inputs, output, name=name: hook(m, name, inputs, output))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zeros(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """(1, C, H, W) of zeros where and as the network's first parameter is."""
    first = next(module.parameters(), None)
    if first is None:
        return torch.zeros(1, *shape)
    return torch.zeros(1, *shape, dtype=first.dtype, device=first.device)


def _first(output: Any) -> Tensor:
    """The first tensor where there are several."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    tensor: Tensor = output
    return tensor


def _seen(fields: Fields | None) -> dict[str, Any]:
    """The columns of the receptive field; none for a tensor that does not come from the image."""
    if fields is None:
        return {}
    return {
        "field": tuple(f.size for f in fields),
        "jump": tuple(float(f.jump) for f in fields),
        "centre": tuple(f.centre for f in fields),
    }


def _row(name: str, layer: nn.Module, read: Shape, output: Shape, counted: set[int]) -> Row:
    own = list(layer.parameters(recurse=isinstance(layer, Costed)))
    new = [p for p in own if id(p) not in counted]
    held = getattr(layer, "fixed_parameters", 0) if id(layer) not in counted else 0
    counted.update(id(part) for part in (layer, *new))
    trained = sum(p.numel() for p in new if p.requires_grad)
    frozen = sum(p.numel() for p in new if not p.requires_grad)
    kernel, stride, padding, dilation = (
        _sizes(getattr(layer, option, ()), len(output) - 1 if output else 2)
        for option in ("kernel_size", "stride", "padding", "dilation")
    )
    return Row(
        name=name,
        kind=type(layer).__name__,
        kernel=kernel,
        stride=stride,
        padding=padding,
        output=output,
        parameters=trained,
        dilation=dilation,
        biases=sum(p.numel() for p in new if p is getattr(layer, "bias", None)),
        fixed=frozen + held,
        macs=_macs(layer, read, output) if output else 0,
    )


def _sizes(value: Any, rank: int) -> Shape:
    """torch keeps 2 or (2, 2), for images; "same" padding is a string, which has no numbers."""
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) if isinstance(value, (tuple, list)) else ()


def _macs(layer: nn.Module, read: Shape, output: Shape) -> int:
    """Multiply-adds of one image: outputs times the inputs that each of them has.

    A transposed convolution spreads each input over outputs, so there it is inputs times outputs of each.
    """
    if isinstance(layer, Costed):
        return layer.macs(output)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        fan_in = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        return math.prod(output) * fan_in
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return math.prod(read) * (layer.out_channels // layer.groups * math.prod(layer.kernel_size))
    if isinstance(layer, nn.Linear):
        return math.prod(output) * layer.in_features
    return 0
