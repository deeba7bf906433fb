"""`convworks explain WHAT`: a layer, a stack of layers, a padding, a model's weights, the activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.parse import command
from convworks.cli.text import count, table
from convworks.errors import EXIT_OK, ConvworksError, unknown_name

if TYPE_CHECKING:
    from convworks.ops.activation import Activation
    from convworks.ops.gradient_check import GradientCheck
    from convworks.ops.stack import Layer, StackRow
    from convworks.ops.vector_activation import VectorActivation

What = Literal["layer", "stack", "padding", "weights", "activations"]
USES = {
    "layer": 'convworks explain layer "8@3x3 same relu" --input 24x24x3',
    "stack": 'convworks explain stack "32x32x3: 10@5x5 p2, max 2x2/2, dense 10"',
    "padding": 'convworks explain padding "5x5 s2" --input 32x32x3',
    "weights": "convworks explain weights lenet5",
    "activations": "convworks explain activations",
}
BAR = 30  # characters of a share of 100 %
Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExplainFlags(OutputFlags):
    """What to explain."""

    what: Annotated[What, Shown("WHAT", "layer", positional=True)]
    """layer, stack, padding, weights or activations"""
    words: Annotated[tuple[str, ...], Shown("LAYER", "8@3x3 same relu", positional=True)] = ()
    """a layer, kernel, stack or model, in quotes"""
    input: Annotated[str, Shown("SIZE", "24x24x3")] = "32x32x3"
    """input of a layer or kernel, HxWxC or C@HxW [32x32x3]"""


def run(args: ExplainFlags, console: Console) -> int:
    """Print the numbers of one thing. Raises U140 (not understood) and U125 (does not fit)."""
    console.document(WHATS[args.what](args, console))
    return EXIT_OK


def _words(args: ExplainFlags, *, least: int, most: int, joined: bool = False) -> tuple[str, ...]:
    """The words after WHAT; those of a layer that was not quoted are put together again."""
    words = (" ".join(args.words),) if joined and args.words else args.words
    if len(words) < least:
        what = f"explain {args.what} needs something to explain"
        raise ConvworksError("U004", what, where=USES[args.what], try_=USES[args.what])
    if len(words) > most:
        known = command("explain", args.what, *words[:most])
        raise ConvworksError(
            "U005", f"unexpected argument '{words[most]}'", where=USES[args.what], try_=known
        )
    return words


def _layer(args: ExplainFlags, console: Console) -> Facts:
    from convworks.ops.stack import Stack, parse_layer, parse_size, trace_stack, volume

    (text,) = _words(args, least=1, most=1, joined=True)
    layer, shape = parse_layer(text), parse_size(args.input)
    (row,) = trace_stack(Stack(input=shape, layers=(layer,)))
    seen = shape[0] // layer.groups if layer.kind in ("conv", "sep", "local") else 1
    numbers = {
        "layer": text,
        "input": shape,
        **_numbers(row),
        "channels": [shape[0], row.output[0]],
        "depth": row.output[0],
        "biases": row.biases,
        "neurons": math.prod(row.output),
    }
    shown = {
        "layer": text,
        "input": volume(shape),
        "output": volume(row.output),
        "receptive field": "all of the input"
        if layer.kind == "dense"
        else f"{_by(row.field)} of {count(seen, 'channel')}",
        "stride": _by(row.jump),
        "channels": f"{shape[0]} in, {row.output[0]} out",
        "depth": f"{row.output[0]}, the number of output channels",
        "parameters": f"{row.parameters:,} = {count(row.weights, 'weight')} + {count(row.biases, 'bias')}",
        "multiply-adds": f"{row.macs:,}",
        "neurons": f"{math.prod(row.output):,}",
    }
    if layer.kind in ("conv", "dw", "sep", "local", "max", "avg"):
        numbers |= _window(layer, shape)
        unused = numbers["unused"]
        shown["padding"] = ", ".join(
            f"{before} before and {after} after" for before, after in numbers["padding"]
        )
        if not layer.ceil_mode:
            shown["fit"] = f"does not fit, {_by(unused)} left over at the end" if any(unused) else "exact"
        memory = numbers["lowering"]
        if layer.kind == "conv":
            shown["lowering"] = f"{memory.bytes:,} bytes in float32, {memory.blow_up:.2f} times the input"
    if layer.activation:
        shown["activation"] = f"{layer.activation}: no parameters, shape unchanged"
    for line in table(list(shown.items())):
        console.answer(line)
    return numbers


def _window(layer: Layer, shape: tuple[int, ...]) -> Facts:
    """Padding, cells that no window reaches, and the memory of lowering."""
    from convworks.ops.arguments import per_dimension
    from convworks.ops.cost import lowering_memory
    from convworks.ops.shape import resolve_padding, span

    size, stride, dilation = shape[1:], layer.stride, layer.dilation
    pairs = resolve_padding(layer.padding, size=size, kernel=layer.kernel, stride=stride, dilation=dilation)
    rows = zip(
        size,
        pairs,
        per_dimension("kernel_size", layer.kernel, len(size)),
        per_dimension("stride", stride, len(size)),
        per_dimension("dilation", dilation, len(size)),
        strict=True,
    )
    unused = tuple((n + sum(pair) - span(f, d)) % s for n, pair, f, s, d in rows)
    memory = lowering_memory(
        size, shape[0], layer.kernel, stride=stride, padding=layer.padding, dilation=dilation
    )
    return {"padding": pairs, "unused": unused, "lowering": memory}


def _stack(args: ExplainFlags, console: Console) -> Facts:
    from convworks.ops.stack import compare_stacks, parse_stack, trace_stack

    texts = _words(args, least=1, most=2)
    stacks = []
    for text in texts:
        rows = trace_stack(parse_stack(text))
        for line in _stack_table(rows):
            console.answer(line)
        total = {name: sum(getattr(row, name) for row in rows) for name in ("parameters", "weights", "macs")}
        console.answer(f"{total['parameters']:,} parameters, {total['macs']:,} multiply-adds")
        console.answer()
        layers = [{"layer": row.layer.text, **_numbers(row)} for row in rows]
        stacks.append({"stack": text, **total, "layers": layers})
    if len(texts) == 1:
        return stacks[0]
    found = compare_stacks(*texts)
    console.answer(
        f"second to first: {found.weights:.4f} times the weights ({100 * (found.weights - 1):+.2f} %), "
        f"{found.macs:.4f} times the multiply-adds ({100 * (found.macs - 1):+.2f} %)"
    )
    return {"stacks": stacks, "second_to_first": found}


def _numbers(row: StackRow) -> Facts:
    return {
        "output": row.output,
        "parameters": row.parameters,
        "weights": row.weights,
        "macs": row.macs,
        "receptive_field": row.field,
        "stride": row.jump,
    }


def _stack_table(rows: Sequence[StackRow]) -> list[str]:
    from convworks.ops.stack import volume

    total = sum(row.parameters for row in rows)
    lines = [("layer", "output", "parameters", "multiply-adds", "field", "stride", "share of parameters")]
    lines += [
        (
            row.layer.text,
            volume(row.output),
            f"{row.parameters:,}",
            f"{row.macs:,}",
            _by(row.field),
            _by(row.jump),
            _bar(row.parameters, total),
        )
        for row in rows
    ]
    return table(lines, right=(2, 3))


def _by(sizes: tuple[int, ...]) -> str:
    """(3, 5) as "3x5"; a vector has one place."""
    return "x".join(map(str, sizes)) or "1"


def _bar(part: int, total: int) -> str:
    """'######## 40.0 %'"""
    share = part / total if total else 0.0
    return f"{'#' * round(BAR * share)} {100 * share:.1f} %".strip()


def _padding(args: ExplainFlags, console: Console) -> Facts:
    from convworks.ops.arguments import per_dimension
    from convworks.ops.shape import solve_padding
    from convworks.ops.stack import parse_layer, parse_size

    (text,) = _words(args, least=1, most=1, joined=True)
    layer, shape = parse_layer(text if "@" in text else f"1@{text}"), parse_size(args.input)
    rank = len(shape) - 1
    if not rank:
        known = command("explain", "padding", text, "--input", "32x32x3")
        raise ConvworksError("U140", f"the input {args.input} is a vector", try_=known)
    kernels, strides, dilations = (
        per_dimension(name, value, rank)
        for name, value in (
            ("kernel_size", layer.kernel),
            ("stride", layer.stride),
            ("dilation", layer.dilation),
        )
    )
    dimensions = dict.fromkeys(zip(shape[1:], kernels, strides, dilations, strict=True))  # each pair once
    tables = [solve_padding(n, f, s, d) for n, f, s, d in dimensions]
    for found in tables:
        console.answer(f"N = {found.size}, F = {found.kernel}, S = {found.stride}, dilation {found.dilation}")
        lines = [("padding", "output", "remainder")]
        lines += [(str(r.padding), str(r.output), str(r.remainder)) for r in found.rows]
        for line in table(lines, right=(0, 1, 2)):
            console.answer(line)
        console.answer(found.verdict)
        console.answer()
    return {"dimensions": [{"table": found, "verdict": found.verdict} for found in tables]}


def _weights(args: ExplainFlags, console: Console) -> Facts:
    """How many weights a model has, and where they are."""
    import torch

    from convworks import anatomy, models

    (name,) = _words(args, least=1, most=1)
    if name not in models.names():
        raise unknown_name("model", name, models.names(), try_="convworks explain weights {near}")
    info = models.info(name)
    with torch.random.fork_rng(devices=[]):
        network = models.create(name, num_classes=info.num_classes)
    rows = [
        row
        for row in anatomy.stages(anatomy.trace(network, (info.in_channels, *info.input_size)))
        if row.parameters
    ]
    total = sum(row.parameters for row in rows)
    lines = [("layer", "parameters", "share")]
    lines += [(row.name, f"{row.parameters:,}", _bar(row.parameters, total)) for row in rows]
    for line in table(lines, right=(1,)):
        console.answer(line)
    largest = max(rows, key=lambda row: row.parameters)
    console.answer(
        f"{total:,} parameters; most of them in {largest.name}, {100 * largest.parameters / total:.1f} %"
    )
    layers = [
        {"name": row.name, "parameters": row.parameters, "share": row.parameters / total} for row in rows
    ]
    return {"model": name, "parameters": total, "largest": largest.name, "layers": layers}


def _activations(args: ExplainFlags, console: Console) -> Facts:
    """All rows of the table, each derivative checked now. Raises N630 with the first that is wrong."""
    from convworks.ops.activation import ACTIVATIONS
    from convworks.ops.vector_activation import VECTOR_ACTIVATIONS

    _words(args, least=0, most=0)
    rows: list[Facts] = []
    table: dict[str, Activation | VectorActivation] = {**ACTIVATIONS, **VECTOR_ACTIVATIONS}
    checks = {name: _checked(row) for name, row in table.items()}
    for name, row in table.items():
        verdict = f"ok, {checks[name].worst_error:.0e}" if checks[name].ok else "WRONG"
        facts: Facts = {
            "name": name,
            "function": row.formula,
            "derivative": row.derivative_formula,
            "range": row.range,
        }
        facts |= {"saturates": row.saturates, "zero_centred": row.zero_centred, "source": row.source}
        rows.append({**facts, "gradient_ok": checks[name].ok, "gradient_error": checks[name].worst_error})
        console.answer(name)
        for label, text in (
            ("function", row.formula),
            ("derivative", row.derivative_formula),
            ("range", f"{row.range}, {'zero-centred' if row.zero_centred else 'not zero-centred'}"),
            ("saturation", row.saturates),
            ("gradient", verdict),
        ):
            console.answer(f"  {label:<12}{text}")
    for check in checks.values():
        check.require()
    console.answer(
        f"{count(len(rows), 'derivative')} right: relative error against central differences in float64"
    )
    return {"activations": rows}


def _checked(row: Activation | VectorActivation) -> GradientCheck:
    """The derivative of one activation beside central differences at points of [-4, 4], none of them 0.

    Of one that mixes units, along dimension 1, the gradient of a fixed combination of its outputs.
    """
    import torch

    from convworks.ops.activation import Activation
    from convworks.ops.gradient_check import check_gradient

    x = torch.linspace(-4, 4, 80, dtype=torch.float64) + 0.0123
    if isinstance(row, Activation):
        return check_gradient(lambda: row.forward(x), {row.name: x}, {row.name: row.derivative(x)})
    x = x.reshape(8, 10)
    g = torch.cos(torch.arange(row.forward(x).numel(), dtype=torch.float64)).reshape(row.forward(x).shape)
    return check_gradient(lambda: row.forward(x) * g, {row.name: x}, {row.name: row.backward(x, g)})


WHATS: dict[str, Callable[[ExplainFlags, Console], Facts]] = {
    "layer": _layer,
    "stack": _stack,
    "padding": _padding,
    "weights": _weights,
    "activations": _activations,
}

VERB = Verb(
    name="explain",
    flags=ExplainFlags,
    main=("input", "json"),
    examples=(USES["layer"], USES["activations"]),
    run=run,
    more=lambda: ["Uses", *(f"  {use}" for use in USES.values())],
)
