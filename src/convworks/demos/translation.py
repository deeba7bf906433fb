"""What happens when the input moves: dense layers, convolutions, strides, pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.demos.experiment import Examples, accuracy, convnet, digits, fit, shifted, whole_digits
from convworks.demos.result import Result
from convworks.layers.pooling import GlobalMaxPool
from convworks.ops.convolution import convolve
from convworks.ops.stack import parse_stack, trace_stack

CANVAS = 16  # pixels of a side that the 8x8 digits stand on
FAR = 3  # pixels of the largest shift


def shifts(*, seed: int, quick: bool) -> Result:
    """Trained on digits in the middle of a 16x16 canvas, tested 0 to 3 pixels away in 8 directions."""
    train, test = (_on_canvas(part) for part in digits(seed=seed))
    fill = float(test.x.min())
    steps = 80 if quick else 300
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(CANVAS**2, 128), nn.ReLU(), nn.Linear(128, 10))
    pooled = nn.Sequential(*list(convnet(side=CANVAS).children())[:3], GlobalMaxPool(), nn.Linear(32, 10))
    networks = {"perceptron": perceptron, "convnet": convnet(side=CANVAS), "global pooling": pooled}
    for network in networks.values():
        fit(network, train, test, steps=steps, lr=0.02, seed=seed)
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    rows: list[tuple[int, float, float, float]] = []
    for far in range(FAR + 1):
        places = [(far * y, far * x) for y, x in around] if far else [(0, 0)]
        scores = [
            sum(accuracy(network, Examples(shifted(test.x, *place, fill=fill), test.y)) for place in places)
            / len(places)
            for network in networks.values()
        ]
        rows.append((far, scores[0], scores[1], scores[2]))
    lost = [rows[0][at] - sum(row[at] for row in rows[1:]) / FAR for at in (1, 2, 3)]
    return Result(
        columns=("pixels", "perceptron", "convnet", "convnet, global pooling"),
        rows=tuple(rows),
        lecture="the receptive field of a dense layer is all inputs: a shifted digit is new to it",
        found=f"1 to {FAR} pixels cost the perceptron {100 * lost[0]:.1f} points of accuracy, the convnet "
        f"{100 * lost[1]:.1f}, globally pooled {100 * lost[2]:.1f} (at stride 2: even shifts are free)",
    )


def _on_canvas(part: Examples) -> Examples:
    border = (CANVAS - 8) // 2
    return Examples(F.pad(part.x, [border] * 4, value=float(part.x.min())), part.y)


def pooling(*, seed: int, quick: bool) -> Result:
    """Share of active outputs that a shift by one pixel leaves unchanged; receptive field and work saved."""
    images = F.pad(whole_digits(100 if quick else 500), [4] * 4)
    weight = _whole_weights(16, seed=seed)
    pools: dict[str, nn.Module] = {
        "none (the raw maps)": nn.Identity(),
        "mean 3x3, stride 1": nn.AvgPool2d(3, 1),
        "max 3x3, stride 1": nn.MaxPool2d(3, 1),
        "max 5x5, stride 1": nn.MaxPool2d(5, 1),
        "max over the map": GlobalMaxPool(),
    }
    moves = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    rows: list[tuple[str, float | None, int | None, int | None]] = []
    for name, pool in pools.items():
        shares = []
        before = pool(F.relu(convolve(images, weight)))
        for move in moves:
            after = pool(F.relu(convolve(shifted(images, *move), weight)))
            active = (before != 0) | (after != 0)  # background that stays 0 is no detection
            shares.append(float((before == after)[active].double().mean()))
        rows.append((name, sum(shares) / len(shares), None, None))
    work = {}
    for name, line in STACKS.items():
        traced = trace_stack(parse_stack(line))
        work[name] = sum(row.macs for row in traced)
        rows.append((name, None, traced[-1].field[0], work[name]))
    without, with_pools = work.values()
    return Result(
        columns=("16 maps of 3x3 kernels", "unchanged", "receptive field", "multiply-adds"),
        rows=tuple(rows),
        lecture="pooling is invariant to small translations, enlarges the receptive field, cuts the cost",
        found=f"a shift by one pixel leaves {100 * (rows[2][1] or 0):.0f} % of the active outputs alone "
        f"with 3x3 maxima, {100 * (rows[0][1] or 0):.0f} % without; two poolings enlarge the field from "
        f"{rows[-2][2]} to {rows[-1][2]} pixels and save {100 * (1 - with_pools / without):.0f} % of work",
    )


def equivariance(*, seed: int, quick: bool) -> Result:
    """The largest difference between conv(shift(x)) and shift(conv(x)) away from the borders, by stride."""
    images = F.pad(whole_digits(50 if quick else 400), [4] * 4)
    weight = _whole_weights(16, seed=seed)
    rows: list[tuple[str, int, float, float]] = []
    for name, stride, pool in (
        ("convolution, stride 1", 1, 1),
        ("convolution, stride 2", 2, 1),
        ("convolution, then max 2x2/2", 1, 2),
    ):
        jump = stride * pool

        def maps(x: Tensor, stride: int = stride, pool: int = pool) -> Tensor:
            return F.max_pool2d(convolve(x, weight, stride=stride), pool)

        for pixels in (1, 2):
            moved = maps(shifted(images, 0, pixels))
            inside = (..., slice(FAR, -FAR), slice(FAR, -FAR))
            choices = {pixels // jump, -(-pixels // jump)}  # maps move by whole places: the nearest two
            differences = [(moved - shifted(maps(images), 0, to))[inside].abs() for to in choices]
            nearest = min(differences, key=lambda each: float(each.mean()))
            size = moved[inside].abs().mean()
            rows.append((name, pixels, float(nearest.max()), float(nearest.mean() / size)))
    return Result(
        columns=("layer", "shift in pixels", "largest difference", "mean difference / mean size"),
        rows=tuple(rows),
        lecture="convolution is equivariant to translation: f(g(x)) = g(f(x))",
        found=f"exact at stride 1 (difference {rows[0][2]:g}); at stride 2 a shift by one pixel changes "
        f"maps by {100 * rows[2][3]:.0f} % in the mean, a shift by two by {rows[3][2]:g}",
    )


def _whole_weights(filters: int, *, seed: int) -> Tensor:
    """(filters, 1, 3, 3) of whole numbers from -3 to 3: with whole pixels every sum is exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, (filters, 1, 3, 3), generator=generator).float()


STACKS = {
    "three layers, no pooling": "16x16x1: 16@3x3 same, relu, 32@3x3 same, relu, 32@3x3 same",
    "with two of max 2x2/2": (
        "16x16x1: 16@3x3 same, relu, max 2x2/2, 32@3x3 same, relu, max 2x2/2, 32@3x3 same"
    ),
}
