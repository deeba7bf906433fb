"""Problems on sizes: strides, padding, volumes, chains of layers, receptive fields."""

from __future__ import annotations

from random import Random

from convworks.exercises.problem import NO, Part, Problem, Value, pick
from convworks.ops.cost import Cost, convolution_cost
from convworks.ops.shape import fit, output_size, solve_padding
from convworks.ops.stack import parse_stack, trace_stack, volume


def hwc(cost: Cost) -> tuple[int, ...]:
    """The output of a layer as HxWxC."""
    return (*cost.output[1:], cost.output[0])


def strides(draw: Random | None) -> Problem:
    """7x7 with 3x3 at stride 1, 2, 3 and with padding 1."""
    n = pick(draw, 7, range(6, 20))
    f = pick(draw, 3, (3, 5))
    third = pick(draw, 3, (3, 4))
    pad = (f - 1) // 2
    rows = [(1, 0), (2, 0), (third, 0), (1, pad)]
    parts, lines = [], []
    for stride, padding in rows:
        found = fit(n, f, stride=stride, padding=padding)
        value: Value = found.output if found.exact else NO
        floor = f"{found.output} is the floor: the quotient is {found.quotient:.2f}, so it does not fit"
        remarks: dict[Value, str] = {} if found.exact else {found.output: floor}
        parts.append(Part(name=f"stride {stride}, padding {padding}", value=value, remarks=remarks))
        total = f"({n} - {f} + {2 * padding}) / {stride} + 1 = {found.quotient:.4g}"
        lines.append(total if found.exact else f"{total}: it does not fit, {found.remainder} left over")

    def measure() -> list[Value]:
        import torch

        line = torch.arange(n)
        return [_positions(line, f, stride, padding) for stride, padding in rows]

    asked = ", ".join(f"stride {s}" for s in (1, 2, third))
    statement = (
        f"A {n}x{n} input and a {f}x{f} filter. How wide is the output with {asked}, and with stride 1 and "
        f"a border of {pad}? Say no where the filter does not fit."
    )
    return Problem(statement, tuple(parts), "\n".join(lines), measure)


def _positions(line: object, kernel: int, stride: int, padding: int) -> Value:
    """How many windows a padded line of cells has, by cutting them; NO where cells are left over."""
    import torch
    import torch.nn.functional as F

    assert isinstance(line, torch.Tensor)
    windows = F.pad(line, (padding, padding)).unfold(0, kernel, stride)
    reached = (len(windows) - 1) * stride + kernel
    return len(windows) if reached == len(line) + 2 * padding else NO


def volumes(draw: Random | None) -> Problem:
    """32x32x3 with ten 5x5 filters at stride 1, padding 2: output and parameters."""
    f = pick(draw, 5, (3, 5, 7))
    n, c = pick(draw, 32, range(16, 65, 2)), pick(draw, 3, (1, 3, 4, 8))
    k, p, s = pick(draw, 10, range(4, 33, 2)), pick(draw, 2, range(f)), pick(draw, 1, (1, 2))
    if not fit(n, f, stride=s, padding=p).exact:
        s = 1
    return _volume(n=n, c=c, k=k, f=f, s=s, p=p)


def feature_maps(draw: Random | None) -> Problem:
    """Six 5x5 filters on 32x32x3 without padding: the stack of maps."""
    n, c = pick(draw, 32, range(16, 65)), pick(draw, 3, (1, 3, 4))
    return _volume(n=n, c=c, k=pick(draw, 6, range(4, 33)), f=pick(draw, 5, (3, 5, 7)), s=1, p=0)


def _volume(*, n: int, c: int, k: int, f: int, s: int, p: int) -> Problem:
    cost = convolution_cost((n, n), c, k, f, stride=s, padding=p)
    text = f"{n}x{n}x{c}: {k}@{f}x{f} s{s} p{p}"
    side = cost.output[1]
    remarks: dict[Value, str] = {
        cost.weights: "that is without the biases",
        f * f * k + k: f"every filter has a slice for each of the {c} input channels",
    }
    parts = (
        Part("output volume", hwc(cost)),
        Part(
            "parameters", cost.parameters, remarks=remarks if c > 1 else {cost.weights: remarks[cost.weights]}
        ),
    )
    statement = (
        f"Input volume {n}x{n}x{c}; {k} filters of {f}x{f}, stride {s}, padding {p}. "
        "What is the output volume, and how many parameters has the layer, biases counted?"
    )
    solution = (
        f"({n} - {f} + {2 * p}) / {s} + 1 = {side}, and one map for each filter: {volume(cost.output)}.\n"
        f"Each filter has {f} x {f} x {c} + 1 = {f * f * c + 1} parameters; {k} of them have "
        f"{cost.parameters:,}."
    )

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        (row,) = measure_stack(text, macs=False)
        return [row.output, row.parameters]

    return Problem(statement, parts, solution, measure)


def padding(draw: Random | None) -> Problem:
    """32x32 with 5x5: 28x28; which padding keeps 32x32?"""
    n, f = pick(draw, 32, range(16, 65)), pick(draw, 5, (3, 5, 7, 9, 11))
    inner, p = output_size(n, f), (f - 1) // 2
    statement = (
        f"A {n}x{n} input, {f}x{f} filters, stride 1. How large is the output without "
        "padding, how much padding "
        "on each side keeps the size of the input, and how large is the output then?"
    )
    parts = (
        Part("output without padding", (inner, inner)),
        Part("padding", p, remarks={2 * p: "that is both sides together"}),
        Part("output with it", (n, n)),
    )
    solution = (
        f"{n} - {f} + 1 = {inner}. The {f - 1} cells that are lost come back as ({f} - 1) / 2 = {p} on each "
        f"side.\nA slide writes k/2 for it: that is its floor, for odd kernels only."
    )

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        (valid,) = measure_stack(f"{n}x{n}x1: 1@{f}x{f}", macs=False)
        found = [
            p
            for p in range(f)
            if measure_stack(f"{n}x{n}x1: 1@{f}x{f} p{p}", macs=False)[0].output == (n, n, 1)
        ]
        (same,) = measure_stack(f"{n}x{n}x1: 1@{f}x{f} p{found[0]}", macs=False)
        return [valid.output[:2], found[0], same.output[:2]]

    return Problem(statement, parts, solution, measure)


def same_padding(draw: Random | None) -> Problem:
    """F = 3, 5, 7 and an even one: the padding that preserves the size."""
    kernels = (
        (3, 5, 7, 4) if draw is None else (*draw.sample(range(3, 20, 2), 3), draw.choice(range(2, 13, 2)))
    )
    size = 32
    parts = tuple(
        Part(
            f"F = {f}",
            (f - 1) // 2 if f % 2 else NO,
            remarks={f // 2: "that makes the map one larger"} if f % 2 == 0 else {},
        )
        for f in kernels
    )
    statement = (
        "Stride 1 and the same whole padding on every side: which padding preserves the size of the map for "
        + ", ".join(f"F = {f}" for f in kernels)
        + "? Say no where there is none."
    )
    solution = "\n".join(
        f"F = {f}: ({f} - 1) / 2 = {(f - 1) / 2:g}"
        + ("" if f % 2 else ": no whole number, one side must have more")
        for f in kernels
    )

    def measure() -> list[Value]:
        import torch

        found: list[Value] = []
        for f in kernels:
            keep = [p for p in range(f) if _positions(torch.arange(size), f, 1, p) == size]
            found.append(keep[0] if keep else NO)
        return found

    return Problem(statement, parts, solution, measure)


def whatever_fits(draw: Random | None) -> Problem:
    """F = 5, S = 2, P = "whatever fits"."""
    n, f, s = pick(draw, 32, range(20, 60)), pick(draw, 5, (3, 5, 7)), pick(draw, 2, (2, 3))
    table = solve_padding(n, f, s)
    exact: Value = table.exact[0].padding if table.exact else NO
    parts = [Part("smallest padding that fits exactly", exact)]
    parts += [Part(f"floor of the output with P = {p}", table.rows[p].output) for p in (1, 2)]
    statement = (
        "The lecture's list of common settings has F = 5, S = 2, P = whatever fits. For "
        f"an input {n} wide, F = {f}, "
        f"S = {s}: what is the smallest padding on each side, less than F, that fits "
        "exactly (or no)? How wide is "
        "the output, rounded down, with P = 1 and with P = 2?"
    )
    solution = "\n".join(
        [f"P = {r.padding}: output {r.output}, remainder {r.remainder}" for r in table.rows] + [table.verdict]
    )

    def measure() -> list[Value]:
        import torch
        import torch.nn.functional as F

        line = torch.arange(n)
        keep = [p for p in range(f) if _positions(line, f, s, p) != NO]
        return [keep[0] if keep else NO, *(len(F.pad(line, (p, p)).unfold(0, f, s)) for p in (1, 2))]

    return Problem(statement, tuple(parts), solution, measure)


def chain(draw: Random | None) -> Problem:
    """Sizes after every layer of a chain of convolutions and pools."""
    text = "32x32x3: 16@5x5 p2, max 2x2/2, 32@3x3, max 3x3/2, 64@3x3 p1"
    if draw is not None:
        text = _random_chain(draw)
    rows = trace_stack(parse_stack(text))
    parts = tuple(Part(f"after {row.layer.text}", (*row.output[1:], row.output[0])) for row in rows)
    lines = [f"  {row.layer.text:<14} {volume(row.output)}" for row in rows]

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        return [row.output for row in measure_stack(text, macs=False)]

    head, layers = text.split(": ")
    statement = f"The input is {head}. What are the sizes after each of these layers: {layers}?\n{NOTATION}"
    return Problem(statement, parts, "\n".join(lines), measure)


NOTATION = (
    "16@5x5 p2 is a convolution with 16 filters of 5x5 and padding 2; max 3x3/2 is a pool of 3x3 at stride 2."
)


def _random_chain(draw: Random) -> str:
    """Convolutions and pools in turn that all fit without a remainder; no map is smaller than 4."""
    start, channels = draw.choice((24, 28, 32, 36, 40, 48, 64)), draw.choice((1, 3))
    parts: list[str] = []
    side, count = start, draw.choice((4, 5, 6))
    while len(parts) < count:
        pool = len(parts) % 2 == 1
        choices = [(2, 2, 0), (3, 2, 0)] if pool else [(3, 1, 0), (3, 1, 1), (5, 1, 0), (5, 1, 2)]
        found = [(f, p, fit(side, f, stride=s, padding=p)) for f, s, p in choices if side >= f]
        found = [row for row in found if row[2].exact and row[2].output >= 4]
        if not found:
            break
        f, p, row = draw.choice(found)
        parts.append(f"max {f}x{f}/2" if pool else f"{draw.choice((8, 16, 32))}@{f}x{f} p{p}")
        side = row.output
    return f"{start}x{start}x{channels}: {', '.join(parts)}"
