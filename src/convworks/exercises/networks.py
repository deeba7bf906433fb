"""Problems on whole networks, and the two that are worked with numbers: max pooling and back-propagation."""

from __future__ import annotations

import math
from random import Random

from convworks.exercises.problem import NO, Part, Problem, Value, pick
from convworks.exercises.sizes import NOTATION, hwc
from convworks.ops.cost import convolution_cost
from convworks.ops.shape import pooled_size
from convworks.ops.stack import parse_stack, stacks_with_field, trace_stack, volume

ALEXNET = (
    *(("CONV1", "96@11x11/4 p0"), ("MAX POOL1", "max 3x3/2"), ("NORM1", "lrn"), ("CONV2", "256@5x5 p2")),
    *(("MAX POOL2", "max 3x3/2"), ("NORM2", "lrn"), ("CONV3", "384@3x3 p1"), ("CONV4", "384@3x3 p1")),
    *(("CONV5", "256@3x3 p1"), ("MAX POOL3", "max 3x3/2")),
    *(("FC6", "dense 4096"), ("FC7", "dense 4096"), ("FC8", "dense 1000")),
)


def alexnet_first_layers(draw: Random | None) -> Problem:
    """227x227x3, 96 filters 11x11 at stride 4, then a 3x3 pool at stride 2."""
    f, s = pick(draw, (11, 4), ((11, 4), (7, 2), (9, 4)))
    k = pick(draw, 96, (32, 48, 64, 96))
    n = pick(draw, 227, [f + s * (out - 1) for out in range(27, 64, 4)])
    conv = convolution_cost((n, n), 3, k, f, stride=s)
    side = pooled_size(conv.output[1:], 3, stride=2)
    statement = (
        f"Input: {n}x{n}x3 images. CONV1: {k} {f}x{f} filters applied at stride {s}. "
        "POOL1: 3x3 filters applied at "
        "stride 2. What is the output volume of CONV1, how many weights has it, how many parameters with the "
        "biases; what is the output volume of POOL1, and how many parameters has that?"
    )
    parts = (
        Part("output of CONV1", hwc(conv)),
        Part("weights of CONV1", conv.weights, remarks={conv.parameters: "that counts the biases"}),
        Part("parameters of CONV1", conv.parameters, remarks={conv.weights: "that is without the biases"}),
        Part("output of POOL1", (*side, k)),
        Part("parameters of POOL1", 0),
    )
    solution = (
        f"({n} - {f}) / {s} + 1 = {conv.output[1]}: {volume(conv.output)}. "
        f"({f}*{f}*3)*{k} = {conv.weights:,} weights"
        f"{' (the 35K of the lecture)' if draw is None else ''}, {conv.parameters:,} with "
        f"biases.\n({conv.output[1]} - 3) / 2 + 1 = "
        f"{side[0]}: {side[0]}x{side[1]}x{k}, depth unchanged, 0 parameters."
    )

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        first, pool = measure_stack(f"{n}x{n}x3: {k}@{f}x{f}/{s}, max 3x3/2", macs=False)
        return [first.output, first.weights, first.parameters, pool.output, pool.parameters]

    return Problem(statement, parts, solution, measure)


def alexnet_shapes(draw: Random | None) -> Problem:
    """The fourteen lines of AlexNet, from the input to the class scores."""
    n = pick(draw, 227, (131, 163, 195, 227, 259, 291))
    text = f"{n}x{n}x3: {', '.join(layer for _, layer in ALEXNET)}"
    rows = trace_stack(parse_stack(text))
    shapes = [(n, n, 3), *((*row.output[1:], row.output[0]) for row in rows)]
    names = ["INPUT", *(name for name, _ in ALEXNET)]
    typo: dict[Value, str] = {(27, 27, 26): "one lecture prints 26 for 256"}
    parts = tuple(
        Part(name, shape, remarks=typo if shape == (27, 27, 256) else {})
        for name, shape in zip(names, shapes, strict=True)
    )
    layers = ", ".join(f"{name} {layer}".replace(" lrn", "") for name, layer in ALEXNET)
    statement = (
        f"AlexNet on {n}x{n}x3: {layers}. What are the sizes of all 14 lines, INPUT included?\n{NOTATION}"
    )
    lines = [f"  {name:<10} {part.shown()}" for name, part in zip(names, parts, strict=True)]
    lines.append(
        "One lecture prints [27x27x26] after CONV2 (NORM1) and CONV5 twice: 256 maps, and once, are meant."
    )

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_stack

        return [(n, n, 3), *(row.output for row in measure_stack(text, macs=False))]

    return Problem(statement, parts, "\n".join(lines), measure)


def keras_listing(draw: Random | None) -> Problem:
    """(10, 24, 24, 3) through Conv2D(8, 3, padding='same', activation='relu')."""
    batch, side = pick(draw, 10, (4, 10, 32)), pick(draw, 24, range(12, 65))
    k, f = pick(draw, 8, (4, 8, 16, 32)), pick(draw, 3, (3, 5, 7))
    cost = convolution_cost((side, side), 3, k, f, padding="same")
    statement = (
        f"A batch of shape ({batch}, {side}, {side}, 3) goes through Conv2D(filters={k}, kernel_size={f}, "
        "padding='same', activation='relu'). What is the shape of the output, and how "
        "many parameters has the layer?"
    )
    parts = (
        Part("output", (batch, *hwc(cost))),
        Part("parameters", cost.parameters, remarks={cost.weights: "that is without the biases"}),
    )
    solution = (
        f"Same padding keeps {side}x{side}; {k} filters give {k} channels. "
        f"({f} x {f} x 3 + 1) x {k} = {cost.parameters:,}."
    )

    def measure() -> list[Value]:
        import torch
        from torch import nn

        layer = nn.Sequential(nn.Conv2d(3, k, f, padding="same"), nn.ReLU())
        images = torch.zeros(batch, side, side, 3)  # channels last, as Keras has them
        with torch.no_grad():
            output = layer(images.movedim(-1, 1)).movedim(1, -1)
        return [tuple(output.shape), sum(p.numel() for p in layer.parameters())]

    return Problem(statement, parts, solution, measure)


def field_parity(draw: Random | None) -> Problem:
    """The field of an output of the second pool, and whether it can be 15."""
    first, second = pick(draw, (5, 5), ((3, 3), (3, 5), (5, 3), (5, 5), (3, 7)))
    odd = pick(draw, 15, range(11, 24, 2))
    text = f"64x64x1: 1@{first}x{first} same, max 2x2/2, 1@{second}x{second} same, max 2x2/2"
    field = trace_stack(parse_stack(text))[-1].field[0]
    statement = (
        f"Two stages, each a convolution ({first}x{first}, then {second}x{second}) and a "
        "2x2 pool at stride 2. How "
        "many input pixels across can an output of the second pool see? Can a network of odd kernels and two "
        f"2x2/2 pools have an output there that sees {odd} (its field, or no)?"
    )
    parts = (Part("receptive field", field), Part(f"a field of {odd}", NO))
    solution = (
        f"1 + {first - 1} + 1 + 2 x {second - 1} + 2 = {field}.\nAn odd kernel adds (k - "
        "1) j, which is even; the first "
        "2x2/2 pool adds 1, and everything after it a multiple of 2. So the field is "
        "even. One slide has 15 of "
        "28: that needs 3x3/2 pools, as in 3x3, 3x3, pool 3x3/2, 3x3, pool 3x3/2."
    )

    def measure() -> list[Value]:
        from convworks.exercises.measure import measure_field

        found = next(stacks_with_field(odd), None)
        return [measure_field(text)[0], NO if found is None else measure_field(found)[0]]

    return Problem(statement, parts, solution, measure)


def max_pool_matrix(draw: Random | None) -> Problem:
    """Max pooling of a 4x4 matrix with 2x2 filters and stride 2."""
    lecture = [[3, 9, 2, 4], [1, 4, 5, 7], [8, 9, 1, 7], [1, 0, 8, 1]]
    matrix = lecture if draw is None else [[draw.randrange(10) for _ in range(4)] for _ in range(4)]
    best = [max(matrix[2 * i + a][2 * j + b] for a in (0, 1) for b in (0, 1)) for i in (0, 1) for j in (0, 1)]
    shown = "\n".join("  " + "  ".join(str(n) for n in row) for row in matrix)
    statement = f"Max pool with 2x2 filters and stride 2, row by row:\n{shown}"
    names = ("top left", "top right", "bottom left", "bottom right")
    parts = tuple(Part(name, value) for name, value in zip(names, best, strict=True))
    solution = f"The largest of each 2x2 block:\n  {best[0]}  {best[1]}\n  {best[2]}  {best[3]}"

    def measure() -> list[Value]:
        import torch
        import torch.nn.functional as F

        image = torch.tensor([[matrix]], dtype=torch.float64)
        return [int(value) for value in F.max_pool2d(image, 2).flatten()]

    return Problem(statement, parts, solution, measure)


def backprop_step(draw: Random | None) -> Problem:
    """One iteration of back-propagation: two inputs, two tanh units, one linear output, Euclidean cost."""
    w = pick(draw, (1.0, 0.2, -1.0, 0.3, 0.5, -0.4), [()])
    if draw is not None:
        w = tuple(draw.choice([-1, 1]) * draw.randrange(1, 11) / 10 for _ in range(6))
    x, y, eta = (1.0, 0.1), 0.5, -0.2
    before, gradient, hidden, output = _pass(w, x, y)
    moved = tuple(a + eta * g for a, g in zip(w, gradient, strict=True))
    after = _pass(moved, x, y)[0]
    statement = (
        f"Nodes 1 and 2 are the inputs {x[0]} and {x[1]}, node 5 the output; the target "
        f"is {y}. Node 3 is tanh(w13 x1 + "
        "w23 x2), node 4 is tanh(w14 x1 + w24 x2), node 5 is w35 h3 + w45 h4, the cost C = 1/2 (h5 - y)^2.\n"
        f"w13 = {w[0]}, w23 = {w[1]}, w14 = {w[2]}, w24 = {w[3]}, w35 = {w[4]}, w45 = {w[5]}; eta = {eta} "
        "(w <- w + eta dC/dw: the learning rate is negative because the lecture adds).\n"
        "What is the cost, what are the six derivatives in this order, and what is the cost after one step? "
        "Four decimals or more."
    )
    names = ("w13", "w23", "w14", "w24", "w35", "w45")
    parts = (
        Part("cost before", before, tolerance=1e-4, digits=6),
        *(Part(f"dC/d{n}", g, tolerance=1e-4, digits=6) for n, g in zip(names, gradient, strict=True)),
        Part("cost after", after, tolerance=1e-4, digits=6),
    )
    solution = (
        f"h3 = {hidden[0]:.6f}, h4 = {hidden[1]:.6f}, h5 = {output:.6f}, C = {before:.6f}\n"
        f"dC/dh5 = h5 - y = {output - y:.6f}; dC/dw35 = dC/dh5 h3, dC/dw45 = dC/dh5 h4\n"
        "dC/dw13 = dC/dh5 w35 (1 - h3^2) x1, and so on:\n"
        + ", ".join(f"{n} {g:.6f}" for n, g in zip(names, gradient, strict=True))
        + "\nafter the step: "
        + ", ".join(f"{n} {v:.6f}" for n, v in zip(names, moved, strict=True))
        + f"; C = {after:.6f}"
    )
    return Problem(statement, parts, solution, lambda: _run_backprop(w, x, y, eta))


def _pass(
    w: tuple[float, ...], x: tuple[float, float], y: float
) -> tuple[float, list[float], tuple[float, float], float]:
    """Cost, derivatives, hidden units and output, by the chain rule written out."""
    h3, h4 = math.tanh(w[0] * x[0] + w[1] * x[1]), math.tanh(w[2] * x[0] + w[3] * x[1])
    output = w[4] * h3 + w[5] * h4
    d = output - y
    d3, d4 = d * w[4] * (1 - h3 * h3), d * w[5] * (1 - h4 * h4)
    gradient = [d3 * x[0], d3 * x[1], d4 * x[0], d4 * x[1], d * h3, d * h4]
    return 0.5 * d * d, gradient, (h3, h4), output


def _run_backprop(w: tuple[float, ...], x: tuple[float, float], y: float, eta: float) -> list[Value]:
    """The same by the modules of `ops.backprop`."""
    from convworks.ops.backprop import Chain, EuclideanCost, Linear, Pointwise

    chain = Chain(
        [Linear([list(w[:2]), list(w[2:4])]), Pointwise("tanh"), Linear([list(w[4:])])], EuclideanCost()
    )
    before = float(chain.forward_backward([list(x)], [[y]]))
    gradient = [float(g) for name in chain.parameters for g in chain.gradients[name].flatten()]
    chain.update(eta=eta)
    return [before, *gradient, float(chain.costs([list(x)], [[y]]).sum())]
