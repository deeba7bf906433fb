"""Problems on costs: multiply-adds, parameters, sharing, stacks of small kernels."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from convworks.exercises.problem import Part, Problem, Value, pick
from convworks.exercises.sizes import NOTATION, hwc
from convworks.ops.cost import Cost, connectivity, convolution_cost, dense_cost
from convworks.ops.stack import compare_stacks, parse_stack, trace_stack, volume


def sparse_edges(draw: Random | None) -> Problem:
    """Five units to five with a kernel of width 3: edges, edges of a dense layer, weights."""
    n, k = pick(draw, 5, range(5, 13)), pick(draw, 3, (3, 5))
    found = connectivity((n,), k)
    lost = n * k - found.edges
    statement = (
        f"{n} input units in a row, {n} output units, each connected to the {k} nearest "
        "inputs that exist. How "
        "many edges are there, how many would a complete bipartite graph have, and how "
        "many different weights "
        "when they are shared?"
    )
    parts = (
        Part("edges", found.edges, remarks={n * k: "at the ends some of the inputs do not exist"}),
        Part("edges of the complete graph", found.dense_edges),
        Part("shared weights", found.shared_weights),
    )
    solution = (
        f"{n} x {k} = {n * k}, less {lost} that would reach beyond the ends: {found.edges}.\n"
        f"{n} x {n} = {found.dense_edges}. The kernel has {k} weights, whatever n is."
    )

    def measure() -> list[Value]:
        import torch
        from torch import nn

        conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        nn.init.ones_(conv.weight)
        matrix = conv(torch.eye(n)[:, None]).squeeze(1)  # row i: where input i goes
        return [int((matrix != 0).sum()), nn.Linear(n, n, bias=False).weight.numel(), conv.weight.numel()]

    return Problem(statement, parts, solution, measure)


def map_sizes(draw: Random | None) -> Problem:
    """3@32x32 with 64@3x3."""
    return _maps(draw, m=3, side=32, n=64, k=3)


def conv_cost_5x5(draw: Random | None) -> Problem:
    """32@64x64 with 64@5x5."""
    return _maps(draw, m=32, side=64, n=64, k=5)


def conv_cost_3x3(draw: Random | None) -> Problem:
    """32@64x64 with 64@3x3."""
    return _maps(draw, m=32, side=64, n=64, k=3)


def _maps(draw: Random | None, *, m: int, side: int, n: int, k: int) -> Problem:
    side, n = pick(draw, side, (16, 20, 24, 28, 32, 48)), pick(draw, n, (8, 16, 32, 64))
    m = pick(draw, m, (1, 3) if m == 3 else (8, 16, 32))
    costs = {mode: convolution_cost((side, side), m, n, k, padding=mode) for mode in ("same", "valid")}
    statement = (
        f"Input maps {m}@{side}x{side}, kernels {n}@{k}x{k}, stride 1. What are the "
        "output maps and the cost in "
        "multiply-adds with padding that keeps the size, what without padding, and how many parameters are "
        "there, biases counted?"
    )
    parts: list[Part] = []
    lines = []
    for mode, cost in costs.items():
        parts += [
            Part(f"output maps, {mode}", hwc(cost)),
            Part(f"multiply-adds, {mode}", cost.macs, remarks=_macs_remarks(cost, m)),
        ]
        lines.append(
            f"{mode}: {n}@{cost.output[1]}x{cost.output[2]}; N O_R O_C K_r K_c K_M = {n} x "
            f"{cost.output[1]} x "
            f"{cost.output[2]} x {k} x {k} x {m} = {cost.macs:,}"
        )
    parts.append(Part("parameters", cost.parameters, remarks={cost.weights: "that is without the biases"}))
    lines.append(f"N K_r K_c K_M + N = {cost.parameters:,}")

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        rows = [measure_stack(f"{m}@{side}x{side}: {n}@{k}x{k} {mode}")[0] for mode in costs]
        return [*(value for row in rows for value in (row.output, row.macs)), rows[0].parameters]

    return Problem(statement, tuple(parts), "\n".join(lines), measure)


def _macs_remarks(cost: Cost, channels: int) -> dict[Value, str]:
    remarks: dict[Value, str] = {2 * cost.macs: "a multiply-add counts once here, not as two operations"}
    if channels > 1:
        remarks[cost.macs // channels] = f"each kernel runs over all {channels} input maps"
    return remarks


def conv_cost_twice(draw: Random | None) -> Problem:
    """32@64x64 with 64@3x3 and again 64@3x3, beside one 64@5x5: the trap."""
    m, n = pick(draw, 32, (8, 16, 32)), pick(draw, 64, (8, 16, 32, 64))
    side = pick(draw, 64, (16, 20, 24, 32))
    head = f"{m}@{side}x{side}"
    valid, same = (
        trace_stack(parse_stack(f"{head}: {n}@3x3 {mode}, {n}@3x3 {mode}")) for mode in ("valid", "same")
    )
    totals = [sum(row.macs for row in rows) for rows in (valid, same)]
    ratios = [
        compare_stacks(f"{head}: {n}@5x5 {mode}", f"{head}: 2*{n}@3x3 {mode}").macs
        for mode in ("valid", "same")
    ]
    first, second = (row.macs for row in valid)
    ignored: dict[Value, str] = {2 * first: f"the second convolution sees {n} maps, not {m}"}
    parts = (
        Part("output maps, valid", (*valid[-1].output[1:], n)),
        Part("multiply-adds, valid", totals[0], remarks=ignored),
        Part("multiply-adds, same", totals[1]),
        Part("parameters", sum(row.parameters for row in valid)),
        Part(f"times the cost of one {n}@5x5, valid", ratios[0], tolerance=0.006),
        Part(f"times the cost of one {n}@5x5, same", ratios[1], tolerance=0.006),
    )
    statement = (
        f"Input maps {head}, kernels {n}@3x3 and again {n}@3x3, stride 1. What are the "
        "output maps and the total "
        "cost in multiply-adds without padding, the cost with padding that keeps the "
        "size, and the parameters, biases "
        f"counted? How many times the cost of one {n}@5x5 is that, valid and same (two decimals)?"
    )
    trap = "dearer" if ratios[0] > 1 else "cheaper"
    solution = (
        f"valid: {first:,} + {second:,} = {totals[0]:,}; same: {totals[1]:,}.\nTwo 3x3 "
        "see as much as one 5x5, and "
        f"here they are {trap} ({ratios[0]:.2f} and {ratios[1]:.2f} times), because the "
        f"second convolution has {n} "
        f"input maps. At equal width, C maps in and out, they cost 18/25 = 0.72 of it."
    )

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        runs = {
            mode: [
                measure_stack(f"{head}: {layers}")
                for layers in (f"{n}@3x3 {mode}, {n}@3x3 {mode}", f"{n}@5x5 {mode}")
            ]
            for mode in ("valid", "same")
        }
        sums = {mode: [sum(row.macs for row in rows) for rows in pair] for mode, pair in runs.items()}
        twice = runs["valid"][0]
        counted: list[Value] = [twice[-1].output, sums["valid"][0], sums["same"][0]]
        counted.append(sum(row.parameters for row in twice))
        return [*counted, *(pair[0] / pair[1] for pair in sums.values())]

    return Problem(statement, parts, solution, measure)


def vgg_stack(draw: Random | None) -> Problem:
    """Three 3x3 convolutions beside one 7x7: 27 C^2 and 49 C^2 weights."""
    depth, c = pick(draw, 3, (2, 3, 4)), pick(draw, 1, (8, 16, 32, 64))
    side = 2 * depth + 1
    small, large = depth * 9 * c * c, side * side * c * c
    more = 100 * (large / small - 1)
    width = (
        "C channels in and out (answer in units of C^2, that is for C = 1)"
        if c == 1
        else f"{c} channels in and out"
    )
    statement = (
        f"A stack of {depth} 3x3 convolutions and one {side}x{side} convolution, each "
        f"with {width}, no biases. How "
        f"many weights has the stack, how many the single layer, and how many per cent more is that?"
    )
    parts = (
        Part("weights of the stack", small),
        Part(f"weights of the {side}x{side}", large),
        Part("per cent more", more, tolerance=0.06, remarks={}),
    )
    solution = (
        f"{depth} (3^2 C^2) = {9 * depth} C^2 and {side}^2 C^2 = {side * side} C^2; "
        f"{side * side}/{9 * depth} - 1 = "
        f"{more:.2f} %. Both see {side}x{side} cells; the stack has {depth} non-linearities instead of one."
    )

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_field, measure_stack

        texts = [
            f"{side}x{side}x{c}: {layers} nobias" for layers in (f"{depth}*{c}@3x3", f"{c}@{side}x{side}")
        ]
        assert {measure_field(text) for text in texts} == {(side, side)}
        one, other = (sum(row.weights for row in measure_stack(text, macs=False)) for text in texts)
        return [one, other, 100 * (other / one - 1)]

    return Problem(statement, parts, solution, measure)


def free_parameters(draw: Random | None) -> Problem:
    """100 filters of 3x3 on RGB, and a dense layer with 100 units on a 100x100 picture."""
    k, f = pick(draw, 100, (16, 32, 50, 64)), pick(draw, 3, (3, 5))
    side, units = pick(draw, 100, (28, 32, 50, 64)), pick(draw, 100, (10, 50, 128))
    conv = convolution_cost((side, side), 3, k, f)
    dense = dense_cost(3 * side * side, units)
    statement = (
        f"A convolution with {k} filters of {f}x{f} on a colour image of {side}x{side}, "
        f"and a dense layer with {units} "
        "units on the same image. How many weights has the convolution without biases, "
        "how many parameters with "
        "them, and how many weights has the dense layer?"
    )
    parts = (
        Part(
            "weights of the convolution",
            conv.weights,
            remarks={k * f * f: "each filter has 3 input channels"},
        ),
        Part("parameters with biases", conv.parameters),
        Part(
            "weights of the dense layer", dense.weights, remarks={dense.parameters: "that counts the biases"}
        ),
    )
    solution = (
        f"in x height x width x filters = 3 x {f} x {f} x {k} = {conv.weights:,}; one bias for each filter: "
        f"{conv.parameters:,}.\nThe dense layer has 3 x {side} x {side} x {units} = "
        f"{dense.weights:,}, and would have "
        "more for a larger image; the convolution would not."
    )
    return Problem(statement, parts, solution, _measure_two(side, f"{k}@{f}x{f}", f"dense {units}"))


def _measure_two(side: int, conv: str, dense: str) -> Callable[[], list[Value]]:
    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        (one,), (other,) = (measure_stack(f"{side}x{side}x3: {layer}", macs=False) for layer in (conv, dense))
        return [one.weights, one.parameters, other.weights]

    return measure


def weights_of_a_cnn(draw: Random | None) -> Problem:
    """How many weights has this network, and where is the big amount?"""
    side, c = pick(draw, 32, (28, 32, 48, 64)), pick(draw, 3, (1, 3))
    a, b = pick(draw, 32, (8, 16, 32)), pick(draw, 64, (32, 64))
    units, classes = pick(draw, 512, (64, 128, 256, 512)), pick(draw, 10, (2, 10, 26, 100))
    layers = f"{a}@3x3 p1, max 2x2/2, {b}@3x3 p1, max 2x2/2, dense {units}, dense {classes}"
    text = f"{side}x{side}x{c}: {layers}"
    rows = trace_stack(parse_stack(text))
    total = sum(row.parameters for row in rows)
    largest = max(range(len(rows)), key=lambda i: rows[i].parameters)
    share = 100 * rows[largest].parameters / total
    weights = sum(row.weights for row in rows)
    statement = (
        f"A network on {side}x{side}x{c} with these layers: {layers}. How many parameters "
        "has it, biases counted; "
        f"which layer has the most (1 is the first); and what per cent of all is that?\n{NOTATION}"
    )
    parts = (
        Part("parameters", total, remarks={weights: "that is without the biases"}),
        Part("layer with the most", largest + 1),
        Part("its share in per cent", share, tolerance=0.06, digits=1),
    )
    lines = [
        f"  {i}  {row.layer.text:<12} {volume(row.output):<10} {row.parameters:>10,}"
        for i, row in enumerate(rows, start=1)
    ]
    solution = "\n".join([*lines, f"total {total:,}; {share:.1f} % of it in layer {largest + 1}"])

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        counts = [row.parameters for row in measure_stack(text, macs=False)]
        return [sum(counts), counts.index(max(counts)) + 1, 100 * max(counts) / sum(counts)]

    return Problem(statement, parts, solution, measure)
