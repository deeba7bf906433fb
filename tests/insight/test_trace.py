"""The numbers of a trace are those of the exercise and of an independent run; the lines add up."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from convworks.errors import ConvworksError
from convworks.insight.trace import Iteration, build, draw, parse_layers, trace
from convworks.insight.trace_lines import number
from convworks.ops.arguments import BadArgument

WEIGHTS = [1, 0.2, -1, 0.3, 0.5, -0.4]


def run(
    text: str, weights: list[float], inputs: list[float], targets: list[float], **options: float
) -> list[Iteration]:
    layers = parse_layers(text)
    chain = build(layers, weights, activation="tanh")
    return trace(
        layers, chain, inputs, targets, eta=options.get("eta", -0.2), steps=int(options.get("steps", 1))
    )


def test_the_exercise() -> None:
    (iteration,) = run("2-2-1", WEIGHTS, [1.0, 0.1], [0.5])
    steps = {(step.phase, step.box, step.name): step for step in iteration.steps}
    assert list(steps) == [
        ("forward", "linear 1", "x1"),
        ("forward", "h 1", "x2"),
        ("forward", "linear 2", "x3"),
        ("forward", "cost", "C"),
        ("backward", "cost", "dC/dx3"),
        ("backward", "linear 2", "dC/dw"),
        ("backward", "linear 2", "dC/dx2"),
        ("backward", "h 1", "dC/dx1"),
        ("backward", "linear 1", "dC/dw"),
        ("backward", "linear 1", "dC/dx0"),
        ("update", "weights", "w"),
    ]
    expected = {
        ("forward", "h 1", "x2"): [0.769867, -0.748704],
        ("forward", "linear 2", "x3"): [0.684415],
        ("forward", "cost", "C"): [0.017004],
        ("backward", "linear 1", "dC/dw"): [0.037557, 0.003756, -0.032416, -0.003242],
        ("backward", "linear 2", "dC/dw"): [0.141975, -0.138072],
    }
    for key, values in expected.items():
        assert steps[key].values == pytest.approx(values, abs=5e-7)
    assert iteration.cost == pytest.approx(0.017004, abs=5e-7)
    assert iteration.cost_after == pytest.approx(0.009707, abs=5e-7)
    assert iteration.check.ok
    assert iteration.check.checked == 8
    assert str(steps["forward", "linear 1", "x1"].lines[0]) == (
        "x1[1] = w1 x0[1] + w2 x0[2] = 1 · 1 + 0.2 · 0.1 = 1.02"
    )
    assert "η = -0.2, which is w ← w - λ dE/dw with λ = 0.2" in steps["update", "weights", "w"].formula


def value_of(text: str) -> float:
    """The value of a sum of products such as "0.5 · (-0.2) + 1 · 3", by hand."""
    total = 0.0
    for part in text.split(" + "):
        product = 1.0
        for factor in part.split(" · "):
            product *= float(factor.strip("()"))
        total += product
    return total


@pytest.mark.parametrize("text", ["3-4-2", "6-c3-p2-1", "7-c2-c2-p2", "5-1"])
def test_every_line_of_products_adds_up(text: str) -> None:
    layers = parse_layers(text)
    generator = torch.Generator().manual_seed(3)
    weights = draw(layers.weights, generator=generator)
    inputs = draw(layers.inputs, generator=generator)
    checked = 0
    for iteration in run(text, weights, inputs, [0.5] * layers.outputs, steps=2):
        assert iteration.check.ok
        for step in iteration.steps:
            for line in step.lines:
                if re.fullmatch(r"[-+().·\d ]+", line.numbers) and step.box != "cost":
                    assert value_of(line.numbers) == pytest.approx(line.value, abs=2e-5), str(line)
                    checked += 1
    assert checked > 10


def test_the_convolution_by_numpy() -> None:
    w, x, y = [0.5, -1, 0.25, 2, -0.5], [1, 2, -1, 3, 0.5, 1], [0.3]
    (iteration,) = run("6-c3-p2-1", w, x, y)
    steps = {(step.phase, step.box, step.name): step.values for step in iteration.steps}
    signal = np.tanh(np.correlate(x, w[:3], "valid"))
    pooled = signal.reshape(2, 2).max(axis=1)
    out = float(pooled @ w[3:])
    down = np.zeros(4)
    for t, row in enumerate(signal.reshape(2, 2)):
        down[2 * t + row.argmax()] = (out - 0.3) * w[3 + t]
    below = down * (1 - signal**2)
    assert steps["forward", "max pooling 1", "x3"] == pytest.approx(pooled)
    assert steps["backward", "max pooling 1", "dC/dx2"] == pytest.approx(down)
    assert steps["backward", "convolution 1", "dC/dw"] == pytest.approx(np.correlate(x, below, "valid"))
    assert steps["backward", "convolution 1", "dC/dx0"] == pytest.approx(np.convolve(below, w[:3]))
    assert steps["update", "weights", "w"][3:] == pytest.approx(
        [w[3] - 0.2 * (out - 0.3) * pooled[0], w[4] - 0.2 * (out - 0.3) * pooled[1]]
    )


def test_each_iteration_goes_on_from_the_last() -> None:
    several = run("2-2-1", WEIGHTS, [1.0, 0.1], [0.5], steps=3)
    assert several[1].cost == several[0].cost_after
    assert several[2].cost < several[1].cost < several[0].cost
    climbing = run("2-2-1", WEIGHTS, [1.0, 0.1], [0.5], eta=0.2)[0]
    assert climbing.cost_after > climbing.cost


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2", "it begins with the number of inputs"),
        ("", "it begins with the number of inputs"),
        ("c3-2", "it begins with the number of inputs"),
        ("2-x", "'x' is no number of units, convolution"),
        ("2-0-1", "'0' is no number of units"),
        ("4-2-c2", "stands after a dense layer"),
        ("4-c5", "'c5' does not fit into 4 places"),
        ("4-p2", "it has no weights"),
        ("20-20-1", "up to 64 weights"),
        ("²-1", "it begins with the number of inputs"),
    ],
)
def test_layers_that_make_no_network(text: str, said: str) -> None:
    with pytest.raises(ConvworksError, match=said) as caught:
        parse_layers(text)
    assert caught.value.code == "U152"


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(ConvworksError, match="need 6 weights, 2 given") as caught:
        run("2-2-1", [1, 2], [1, 0.1], [0.5])
    assert caught.value.code == "U153"
    assert caught.value.try_ == "convworks trace --layers 2-2-1 --weights=0.5,0.5,0.5,0.5,0.5,0.5"
    with pytest.raises(ConvworksError, match="need 2 inputs, 1 given"):
        run("2-2-1", WEIGHTS, [1], [0.5])
    with pytest.raises(ConvworksError, match="need 1 targets, 2 given"):
        run("2-2-1", WEIGHTS, [1, 0.1], [0.5, 1])
    with pytest.raises(BadArgument, match="tanh"):
        build(parse_layers("2-2-1"), WEIGHTS, activation="tanj")


def test_numbers_as_they_are_shown() -> None:
    assert [number(v) for v in (1.0, -0.0, 0.2, 1e-9, -1e-9, 0.1234567)] == [
        "1", "0", "0.2", "1e-09", "-1e-09", "0.123457",
    ]  # fmt: skip
    assert number(-0.5, signed=True) == "(-0.5)"
    drawn = draw(200, generator=torch.Generator().manual_seed(0))
    assert all(abs(v) <= 1 and len(f"{v:g}") <= 4 for v in drawn)
