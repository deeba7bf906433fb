"""What keeps a network from learning images by heart: terms, dropout, changed and mixed images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convworks.data.loader import Batch, Mixed
from convworks.demos.experiment import Shuffled, accuracy, convnet, digits, shifted
from convworks.demos.result import Cell, Result
from convworks.demos.speed import interval
from convworks.layers import stage
from convworks.randomness import uniform
from convworks.recipes import mlp128
from convworks.training.initialize import initialize
from convworks.training.loop import Batches, Numerics, Position, StepSettings, train_epoch
from convworks.training.optimizer import make_optimizer
from convworks.training.regularizers import Regularizers
from convworks.training.schedule import cosine

SERIES = {"baseline": mlp128.BASELINE, "L2": mlp128.L2, "L2 and sparsity": mlp128.L2_SPARSITY}
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, float("inf"))  # edges of the histogram of |w|
ACTIVITY = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)  # and of the hidden units' outputs
STRENGTH = 10.0  # on so few digits the terms are as much stronger as MNIST is larger, roughly


@dataclass(frozen=True)
class Changed(Shuffled):
    """Shuffled digits that are moved by a pixel and mixed where wanted."""

    shift: bool = False
    mixup: float = 0.0

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(super().epoch(epoch, start=start), start):
            x, y, rows = batch.x, batch.y, batch.rows
            if self.shift:
                draws = uniform(self.seed, "demos/changed", epoch, rows, 2)
                x = _moved(x, (3 * draws).astype(np.int64) - 1)
            yield self._mixed(x, y, rows, epoch * self.steps + number) if self.mixup else Batch(x, y, rows)

    def _mixed(self, x: Tensor, y: Tensor, rows: NDArray[np.int64], step: int) -> Batch:
        """x = s a + (1 - s) b with s ~ Beta(alpha, alpha) of its own for each image (Zhang et al. 2018)."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed, step]))
        share = torch.from_numpy(generator.beta(self.mixup, self.mixup, len(y))).float()
        partner = torch.from_numpy(generator.permutation(len(y)))
        weights = share[:, None, None, None]
        return Batch(weights * x + (1 - weights) * x[partner], y, rows, Mixed(y[partner], share))


def _moved(x: Tensor, by: NDArray[np.int64]) -> Tensor:
    """Each image (B, 1, H, W) moved by its own (down, right), -1 to 1."""
    moved = x.clone()
    for down, right in {(int(d), int(r)) for d, r in by}:
        at = torch.from_numpy((by == (down, right)).all(axis=1))
        moved[at] = shifted(x[at], down, right, fill=float(x.min()))
    return moved


def train_on(
    network: nn.Module,
    batches: Batches,
    *,
    steps: int,
    lr: float,
    seed: int,
    optimizer: str = "sgd",
    regularizers: Regularizers | None = None,
) -> None:
    """Initialise by He's rule and train, the rate down a cosine."""
    initialize(network, "he", seed=seed)
    rule = make_optimizer(optimizer, network, lr=lr, momentum=0.9)
    settings = StepSettings(seed=seed, lr=lr, regularizers=regularizers or Regularizers())
    position = Position()
    while position.step < steps:
        for step in train_epoch(
            network, batches, rule, position=position, schedule=cosine(steps), settings=settings,
            numerics=Numerics(),
        ):  # fmt: skip
            if step.step >= steps:
                return
        position.next_epoch()


def regularization(*, seed: int, quick: bool) -> Result:
    """The lectures' series: 128 hidden units, with L2, with L2 and sparsity; weights and activations."""
    train, test = digits(seed=seed, train=300)
    columns: dict[str, list[float]] = {}
    for name, entry in SERIES.items():
        spec = entry.recipe.regularize
        hidden = stage(linear=nn.Linear(64, 128), sigmoid=nn.Sigmoid())
        network = stage(flatten=nn.Flatten(), dense1=hidden, dense2=nn.Linear(128, 10))
        terms = Regularizers(
            l2_plain=STRENGTH * spec.l2_plain,
            sparsity=STRENGTH * spec.sparsity,
            sparsity_target=spec.sparsity_target,
            sparsity_layers=spec.sparsity_layers,
        )
        steps = 300 if quick else 2000
        batches = Changed(train, 50, seed)
        train_on(network, batches, steps=steps, lr=0.01, seed=seed, optimizer="adam", regularizers=terms)
        with torch.inference_mode():
            outputs = hidden(test.x.flatten(1))
        weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim > 1]).abs()
        columns[name] = [
            accuracy(network, train), accuracy(network, test), float(weights.square().sum()),
            *shares(weights, WEIGHTS), float(outputs.mean()), *shares(outputs, ACTIVITY),
        ]  # fmt: skip
    labels = ["accuracy, training", "accuracy, test", "sum of w^2"]
    labels += [f"share of |w| {words}" for words in bins(WEIGHTS)]
    labels += ["mean activation", *(f"share of activations {words}" for words in bins(ACTIVITY))]
    first, second, third = columns.values()
    rows = tuple(zip(labels, first, second, third, strict=True))
    squares, activity = rows[2], rows[3 + len(WEIGHTS) - 1]
    return Result(
        columns=("of 300 digits", *columns),
        rows=rows,
        lecture="MLP with 128 units on MNIST: L2 makes weights small, sparsity makes few units active",
        found=f"L2 takes the sum of squares from {squares[1]:.0f} to {squares[2]:.0f}; sparsity takes the "
        f"mean activation from {activity[2]:.3f} to {activity[3]:.3f} (target {mlp128.TARGET:g}); test "
        f"accuracy {rows[1][1]:.3f}, {rows[1][2]:.3f}, {rows[1][3]:.3f}",
    )


def shares(values: Tensor, edges: tuple[float, ...]) -> list[float]:
    """Of all values, the share between each two edges; the last interval is closed."""
    flat = values.flatten().double()
    inner = torch.tensor(edges[1:-1], dtype=torch.float64)
    counts = torch.bincount(torch.bucketize(flat, inner, right=True), minlength=len(edges) - 1)
    return [float(count) / flat.numel() for count in counts]


def bins(edges: tuple[float, ...]) -> list[str]:
    return [
        f"{low:g} to {high:g}" if high < float("inf") else f"above {low:g}" for low, high in pairwise(edges)
    ]


def ablation(*, seed: int, quick: bool) -> Result:
    """A convnet on 100 digits: dropout, moved images, mixup, each alone and all; mean over seeds."""
    seeds, steps = (2, 60) if quick else (8, 300)
    plain: Callable[[], nn.Module] = convnet
    cases: dict[str, tuple[float, bool, float]] = {
        "nothing": (0.0, False, 0.0),
        "dropout 0.5": (0.5, False, 0.0),
        "shifts by a pixel": (0.0, True, 0.0),
        "mixup 0.3": (0.0, False, 0.3),
        "all three": (0.5, True, 0.3),
    }
    scores: dict[str, list[float]] = {name: [] for name in cases}
    losses: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(seeds):
        own = seed + number
        train, test = digits(seed=own, train=100)
        for name, (drop, shift, mixup) in cases.items():
            network = convnet(drop=drop) if drop else plain()
            batches = Changed(train, 50, own, shift=shift, mixup=mixup)
            train_on(network, batches, steps=steps, lr=0.02, seed=own)
            scores[name].append(accuracy(network, test))
            with torch.inference_mode():
                losses[name].append(float(F.cross_entropy(network.eval()(test.x), test.y)))
    rows: list[tuple[Cell, ...]] = []
    for name in cases:
        gains = [now - before for now, before in zip(scores[name], scores["nothing"], strict=True)]
        mean, reach = interval(gains)
        own_mean = sum(scores[name]) / seeds
        against = (None, None) if name == "nothing" else (mean, reach)
        rows.append((name, own_mean, *against, sum(losses[name]) / seeds))
    best = max(rows[1:], key=lambda row: float(row[2] or 0))
    gain, wide = 100 * float(best[2] or 0), 100 * float(best[3] or 0)
    return Result(
        columns=("with", "accuracy", "gain", "95 % interval, +-", "cross-entropy"),
        rows=tuple(rows),
        lecture="data augmentation, dropout and mixup improve generalisation",
        found=f"most from {best[0]}: {gain:+.1f} points +- {wide:.1f} over {seeds} seeds, from "
        f"{100 * float(rows[0][1] or 0):.1f} % on 100 digits",
    )
