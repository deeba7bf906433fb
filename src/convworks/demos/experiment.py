"""What the demonstrations share: the digits, a small convnet, a short training, an accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from convworks.data.builtin import open_builtin
from convworks.data.loader import Batch
from convworks.layers import stage
from convworks.randomness import permutation
from convworks.training.initialize import Scheme, initialize
from convworks.training.loop import NotFiniteError, Numerics, Position, StepSettings, train_epoch
from convworks.training.optimizer import make_optimizer
from convworks.training.schedule import constant

TEST = 597  # of the 1,797 digits
MakeModule = Callable[[], nn.Module]


@dataclass(frozen=True, slots=True)
class Examples:
    """x (N, ...), y (N,)."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Batches of tensors in an order that follows from the seed and the epoch."""

    examples: Examples
    size: int
    seed: int

    @property
    def steps(self) -> int:
        return len(self.examples.y) // self.size

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        order = permutation(self.seed, "order", epoch, len(self.examples.y))
        for number in range(start, self.steps):
            rows = order[number * self.size : (number + 1) * self.size]
            at = torch.from_numpy(rows)
            yield Batch(x=self.examples.x[at], y=self.examples.y[at], rows=rows)


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training went: accuracy on the test part, and the first step at which it had reached the goal."""

    accuracy: float
    reached: int | None


@cache
def _scans() -> Examples:
    """The digits (1797, 1, 8, 8), whole numbers 0 to 16 as the data set has them."""
    with open_builtin("digits") as source:
        images = np.stack([source.pixels(index) for index in range(len(source.entries))])
        labels = [int(str(entry.label)) for entry in source.entries]
    grey = torch.from_numpy(images).movedim(-1, 1).float()
    return Examples((grey * (16 / 255)).round(), torch.tensor(labels))


def digits(*, seed: int, train: int = 1200) -> tuple[Examples, Examples]:
    """`train` digits and 597 others to test, (N, 1, 8, 8), of mean 0 and variance 1."""
    scans = _scans()
    order = torch.from_numpy(permutation(seed, "demos/split", 0, len(scans.y)))
    x = (scans.x - scans.x.mean()) / scans.x.std()
    first, last = order[:train], order[-TEST:]
    return Examples(x[first], scans.y[first]), Examples(x[last], scans.y[last])


def whole_digits(count: int) -> Tensor:
    """(count, 1, 8, 8) digits of the whole numbers 0 to 16, whose sums of products are exact."""
    return _scans().x[:count].clone()


def convnet(
    *,
    activation: MakeModule = nn.ReLU,
    normalise: Callable[[int], nn.Module] | None = None,
    drop: float = 0.0,
    width: int = 16,
    side: int = 8,
) -> nn.Sequential:
    """Three 3x3 convolutions with two poolings and two dense layers for images (N, 1, side, side)."""
    parts: dict[str, nn.Module] = {}
    maps = 1
    for number, wide in enumerate((width, width, 2 * width), start=1):
        block: dict[str, nn.Module] = {"conv": nn.Conv2d(maps, wide, 3, padding=1)}
        if normalise is not None:
            block["norm"] = normalise(wide)
        block["act"] = activation()
        if number > 1:
            block["pool"] = nn.MaxPool2d(2)
        parts[f"conv{number}"] = stage(**block)
        maps = wide
    dense: dict[str, nn.Module] = {
        "flatten": nn.Flatten(),
        "linear": nn.Linear(maps * (side // 4) ** 2, 64),
        "act": activation(),
    }
    if drop:
        dense["drop"] = nn.Dropout(drop)
    return stage(**parts, fc1=stage(**dense), fc2=nn.Linear(64, 10))


def accuracy(network: nn.Module, test: Examples) -> float:
    """Share of right answers in evaluation mode; the training flag is put back."""
    training = network.training
    network.eval()
    with torch.inference_mode():
        right = (network(test.x).argmax(dim=1) == test.y).double().mean()
    network.train(training)
    return float(right)


def fit(
    network: nn.Module,
    train: Examples,
    test: Examples,
    *,
    steps: int,
    lr: float,
    seed: int,
    scheme: Scheme | str = "he",
    batch: int = 50,
    goal: float = 0.9,
    every: int = 10,
) -> Trained:
    """Initialise by `scheme` and train by SGD with momentum 0.9 for `steps` steps.

    The test accuracy is looked at every `every` steps, for the first that reaches `goal`. A training that
    diverges ends there, with the accuracy of its last weights.
    """
    initialize(network, scheme, seed=seed)
    optimizer = make_optimizer("sgd", network, lr=lr, momentum=0.9)
    batches, position = Shuffled(train, batch, seed), Position()
    settings, reached = StepSettings(seed=seed, lr=lr), None
    try:
        while position.step < steps:
            for step in train_epoch(
                network, batches, optimizer, position=position, schedule=constant(),
                settings=settings, numerics=Numerics(),
            ):  # fmt: skip
                if reached is None and step.step % every == 0 and accuracy(network, test) >= goal:
                    reached = step.step
                if step.step >= steps:
                    break
            position.next_epoch()
    except NotFiniteError:
        pass
    return Trained(accuracy(network, test), reached)


def shifted(x: Tensor, down: int, right: int, *, fill: float = 0.0) -> Tensor:
    """Images (N, C, H, W) moved by whole pixels; what comes in is `fill`."""
    moved = torch.full_like(x, fill)
    height, width = x.shape[-2:]
    to_y, to_x = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    from_y, from_x = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
    moved[..., to_y, to_x] = x[..., from_y, from_x]
    return moved
