"""The same small convnet with one thing changed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convworks.demos.experiment import MakeModule, convnet, digits, fit
from convworks.demos.result import Result
from convworks.insight.health import dead_units, saturation
from convworks.layers import ScaledTanh
from convworks.layers.normalization import LocalResponseNorm
from convworks.ops.loss import cross_entropy
from convworks.training.regularize import monte_carlo_probabilities

ACTIVATIONS: dict[str, MakeModule] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "scaled tanh": ScaledTanh,
    "ReLU": nn.ReLU,
    "leaky ReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "ELU": nn.ELU,
    "SELU": nn.SELU,
    "softplus": nn.Softplus,
}


def activations(*, seed: int, quick: bool) -> Result:
    """Accuracy, steps to 90 %, dead units of rectifiers and saturated outputs, at one rate for all."""
    train, test = digits(seed=seed)
    steps = 80 if quick else 400
    rows = []
    for name, make in ACTIVATIONS.items():
        network = convnet(activation=make)
        trained = fit(network, train, test, steps=steps, lr=0.02, seed=seed)
        dead = dead_units(network, test.x)
        units = sum(layer.units for layer in dead)
        flat = [layer.share + layer.share_low for layer in saturation(network, test.x)]
        rows.append(
            (
                name,
                trained.accuracy,
                trained.reached,
                sum(layer.dead for layer in dead) / units if units else None,
                sum(flat) / len(flat) if flat else None,
            )
        )
    found = {row[0]: row for row in rows}
    relu, sigmoid = found["ReLU"], found["sigmoid"]
    return Result(
        columns=("activation", "accuracy", "steps to 90 %", "dead", "saturated"),
        rows=tuple(rows),
        lecture="use ReLU, mind the rate; try leaky ReLU, maxout, ELU; try tanh, expect little; no sigmoid",
        found=f"after {steps} steps ReLU has {relu[1]:.3f}, sigmoid {sigmoid[1]:.3f}; 90 % is reached after "
        f"{relu[2] or 'more than ' + str(steps)} and {sigmoid[2] or 'more than ' + str(steps)} steps",
    )


def normalization(*, seed: int, quick: bool) -> Result:
    """Accuracy and steps to 90 % at a usual and at a tenfold learning rate."""
    train, test = digits(seed=seed, train=600)
    steps = 60 if quick else 300

    def response(maps: int) -> nn.Module:
        return LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)

    cases: dict[str, tuple[object, float]] = {
        "none": (None, 0.0),
        "LRN": (response, 0.0),
        "BN": (nn.BatchNorm2d, 0.0),
        "dropout": (None, 0.5),
        "BN and dropout": (nn.BatchNorm2d, 0.5),
    }
    rows = []
    for name, (normalise, drop) in cases.items():
        cells: list[str | float | int | None] = [name]
        for lr in (0.02, 0.2):
            network = convnet(normalise=normalise, drop=drop)  # type: ignore[arg-type]
            trained = fit(network, train, test, steps=steps, lr=lr, seed=seed)
            cells += [trained.accuracy, trained.reached]
        rows.append(tuple(cells))
    none, batch = rows[0], rows[2]
    return Result(
        columns=(
            "normalisation",
            "accuracy at 0.02",
            "steps to 90 %",
            "accuracy at 0.2",
            "steps to 90 % at 0.2",
        ),
        rows=tuple(rows),
        lecture="recent models do without LRN; batch norm allows higher rates and replaces dropout",
        found=f"at ten times the rate batch norm has {batch[3]:.3f}, the network without it {none[3]:.3f}; "
        f"at the usual rate {batch[1]:.3f} and {none[1]:.3f}",
    )


def dropout(*, seed: int, quick: bool) -> Result:
    """A perceptron trained with dropout on 300 digits: weight scaling, and the mean over 1 to 200 masks."""
    train, test = digits(seed=seed, train=300)
    steps = 150 if quick else 600
    rows: list[tuple[str, float, float]] = []

    def add(name: str, probabilities: Tensor) -> None:
        right = (probabilities.argmax(dim=1) == test.y).double().mean()
        rows.append((name, float(right), float(cross_entropy(probabilities.clamp(min=1e-12).log(), test.y))))

    for drop in (0.0, 0.5):
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Dropout(drop),
            nn.Linear(256, 256), nn.ReLU(), nn.Dropout(drop), nn.Linear(256, 10),
        )  # fmt: skip
        fit(network, train, test, steps=steps, lr=0.02, seed=seed)
        with torch.inference_mode():
            scaled = network.eval()(test.x).softmax(dim=1)
        add("no dropout in training" if drop == 0 else "weight scaling", scaled)
    for masks in (1, 10, 50) if quick else (1, 10, 50, 200):
        name = f"mean over {masks} mask{'s' if masks > 1 else ''}"
        add(name, monte_carlo_probabilities(network, test.x, samples=masks, seed=seed))
    many = rows[-1]
    return Result(
        columns=("at test", "accuracy", "cross-entropy"),
        rows=tuple(rows),
        lecture="dropout trains an ensemble with shared parameters; at test weights are scaled",
        found=f"weight scaling {rows[1][1]:.3f} in one pass, {many[0]} {many[1]:.3f}, "
        f"one mask {rows[2][1]:.3f}, trained without dropout {rows[0][1]:.3f}",
    )
