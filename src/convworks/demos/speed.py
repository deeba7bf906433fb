"""How soon a network learns: rectifiers against tanh, and batch norm under sigmoids and around rectifiers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convworks import environment
from convworks.data.decode import decode
from convworks.data.sources import Source, open_source
from convworks.demos.experiment import Examples, MakeModule, Shuffled, accuracy, convnet, digits, fit
from convworks.demos.result import Cell, Result
from convworks.errors import ConvworksError
from convworks.layers import stage
from convworks.randomness import permutation
from convworks.training.initialize import Gaussian, Scheme, initialize
from convworks.training.loop import NotFiniteError, Numerics, Position, StepSettings, train_epoch
from convworks.training.optimizer import make_optimizer
from convworks.training.schedule import constant

# The lectures' table, from D. Mishkin's caffenet-benchmark: CaffeNet on ImageNet at 128 pixels.
CAFFENET128 = {  # where batch norm stands, and whether a scale and bias follow it: accuracy, log loss
    ("before", False): (0.474, 2.35),
    ("before", True): (0.478, 2.33),
    ("after", False): (0.499, 2.21),
    ("after", True): (0.493, 2.24),
}
RAW = 64.0  # about the standard deviation of pixels from 0 to 255
STUDENT = {
    2: 12.7062,
    3: 4.3027,
    4: 3.1824,
    5: 2.7764,
    6: 2.5706,
    7: 2.4469,
    8: 2.3646,
}  # t at 97.5 %, by number of values


def steps_to(
    goal: float,
    network: nn.Module,
    train: Examples,
    judge: Examples,
    *,
    lr: float,
    most: int,
    seed: int,
    scheme: Scheme | str = "he",
    batch: int = 50,
    momentum: float = 0.9,
    every: int = 10,
) -> int | None:
    """Steps of SGD until the accuracy on `judge`, looked at now and then, reaches `goal`; or None."""
    initialize(network, scheme, seed=seed)
    batches = Shuffled(train, batch, seed)
    for step, _ in _sgd(network, batches, lr=lr, momentum=momentum, most=most):
        if step % every == 0 and accuracy(network, judge) >= goal:
            return step
    return None


def steps_to_training_error(
    error: float,
    network: nn.Module,
    train: Examples,
    *,
    std: float,
    lr: float,
    most: int,
    seed: int,
    batch: int = 50,
) -> int | None:
    """Steps of SGD until the error over the last epoch's images, each as it was met, is at most `error`."""
    initialize(network, Gaussian(std=std), seed=seed)
    batches = Shuffled(train, batch, seed)
    window: deque[int] = deque(maxlen=batches.steps)
    for step, correct in _sgd(network, batches, lr=lr, momentum=0.9, most=most):
        window.append(correct)
        if len(window) == batches.steps and sum(window) >= (1 - error) * batch * batches.steps:
            return step
    return None


def _sgd(
    network: nn.Module, batches: Shuffled, *, lr: float, momentum: float, most: int
) -> Iterator[tuple[int, int]]:
    """(steps made, images of the step that were right) after each step; ends where training diverges."""
    optimizer = make_optimizer("sgd", network, lr=lr, momentum=momentum)
    settings, position = StepSettings(seed=batches.seed, lr=lr), Position()
    with suppress(NotFiniteError):
        while position.step < most:
            before = 0
            for step in train_epoch(
                network, batches, optimizer, position=position, schedule=constant(), settings=settings,
                numerics=Numerics(),
            ):  # fmt: skip
                yield step.step, position.correct - before
                before = position.correct
                if step.step >= most:
                    return
            position.next_epoch()


def fastest(
    make: MakeModule, examples: Examples, rates: Sequence[float], *, std: float, most: int, seed: int
) -> int | None:
    """Steps to 25 % training error at the rate of these that comes there first; None where none does."""
    best: int | None = None
    for rate in rates:
        limit = most if best is None else best - 1
        found = steps_to_training_error(0.25, make(), examples, std=std, lr=rate, most=limit, seed=seed)
        best = best if found is None else found
    return best


def four_layers(activation: MakeModule, *, channels: int, side: int, width: int = 16) -> nn.Sequential:
    """Three 5x5 convolutions with poolings and a dense layer: four layers of weights."""
    cells = side // 8
    return stage(
        conv1=stage(conv=nn.Conv2d(channels, width, 5, padding=2), act=activation(), pool=nn.MaxPool2d(2)),
        conv2=stage(conv=nn.Conv2d(width, width, 5, padding=2), act=activation(), pool=nn.MaxPool2d(2)),
        conv3=stage(conv=nn.Conv2d(width, 2 * width, 5, padding=2), act=activation(), pool=nn.MaxPool2d(2)),
        fc4=stage(flatten=nn.Flatten(), linear=nn.Linear(2 * width * cells**2, 10)),
    )


def cifar10(count: int, *, seed: int) -> tuple[Examples, str] | None:
    """Training images (count, 3, 32, 32), standardised, and what they are; None where there are none."""
    try:
        source = open_source(
            "cifar10",
            data_root=environment.data_root(None),
            cache=environment.cache_folder(None),
            offline=True,
        )
    except ConvworksError:
        return None
    with source:
        rows = [at for at, each in enumerate(source.entries) if each.split in {None, "train"}]
        chosen = [rows[at] for at in permutation(seed, "demos/cifar10", 0, len(rows))[:count].tolist()]
        images = np.stack([_pixels(source, at) for at in chosen])
        names = sorted({str(source.entries[at].label) for at in rows})
        labels = [names.index(str(source.entries[at].label)) for at in chosen]
    x = torch.from_numpy(images).movedim(-1, 1).float()
    what = "CIFAR-10 (JPEG copy)" if source.encoded else "CIFAR-10"
    return Examples((x - x.mean()) / x.std(), torch.tensor(labels)), f"{count:,} images of {what}"


def _pixels(source: Source, at: int) -> NDArray[np.uint8]:
    return decode(source.read(at)).pixels if source.encoded else source.pixels(at)


def relu(*, seed: int, quick: bool) -> Result:
    """Steps to a training error of 25 %, each activation at the rate that makes it fastest.

    On pixels as the paper has them, of which only the mean is subtracted, and on standardised ones.
    """
    examples, data = digits(seed=seed, train=600)[0], "600 digits"
    if not quick:
        found = cifar10(1000, seed=seed)
        examples, data = found or (examples, "600 digits (CIFAR-10 is not at hand)")
    channels, side = examples.x.shape[1:3]
    most = 120 if quick else 500
    rows: list[tuple[Cell, ...]] = []
    cases = (("raw", RAW, 0.02, (0.001, 0.003)), ("standardised", 1.0, 0.05, (0.01, 0.03)))
    for pixels, scale, std, rates in cases:
        inputs = Examples(scale * examples.x, examples.y)
        first, second = (
            fastest(
                partial(four_layers, make, channels=channels, side=side), inputs, rates,
                std=std, most=most, seed=seed,
            )
            for make in (nn.ReLU, nn.Tanh)
        )  # fmt: skip
        rows.append((pixels, first, second, second / first if first and second else None))
    return Result(
        columns=("pixels", "steps with ReLU", "steps with tanh", "ratio"),
        rows=tuple(rows),
        lecture="ReLU converges much faster than tanh (e.g. 6x); the paper: four layers, CIFAR-10, 25 %",
        found="; ".join(_ratio(row, most) for row in rows) + f" ({data}, to 25 % training error)",
    )


def _ratio(row: tuple[Cell, ...], most: int) -> str:
    """'raw pixels: tanh takes 3.1 times the steps', or what did not arrive."""
    pixels, first, second, ratio = row
    if isinstance(ratio, float):
        return f"{pixels} pixels: tanh takes {ratio:.1f} times the steps of ReLU"
    if isinstance(first, int):
        return f"{pixels} pixels: tanh takes more than {most / first:.1f} times the steps of ReLU"
    return f"{pixels} pixels: ReLU is not there after {most} steps, tanh after {second or 'no'} of them"


def batch_norm(*, seed: int, quick: bool) -> Result:
    """Three layers of 100 sigmoids, as in section 4.1 of the paper: steps to accuracies, with and without."""
    train, test = digits(seed=seed)
    most = 600 if quick else 6000
    goals = (0.5, 0.8, 0.9) if quick else (0.5, 0.8, 0.9, 0.95)

    def perceptron(normed: bool) -> nn.Sequential:
        parts: dict[str, nn.Module] = {"flatten": nn.Flatten()}
        width = 64
        for number in (1, 2, 3):
            block: dict[str, nn.Module] = {"linear": nn.Linear(width, 100)}
            if normed:
                block["norm"] = nn.BatchNorm1d(100)
            parts[f"fc{number}"] = stage(**block, act=nn.Sigmoid())
            width = 100
        return stage(**parts, fc4=nn.Linear(width, 10))

    rows: list[tuple[Cell, ...]] = []
    for goal in goals:
        plain, normed = (
            steps_to(
                goal, perceptron(kind), train, test, lr=0.1, most=most, seed=seed, scheme="xavier", batch=60,
                momentum=0.0, every=5,
            )
            for kind in (False, True)
        )  # fmt: skip
        rows.append((f"{100 * goal:.0f} %", plain, normed, plain / normed if plain and normed else None))
    last = rows[-1]
    ratio = f"{last[3]:.0f} times fewer" if isinstance(last[3], float) else f"those of more than {most}"
    return Result(
        columns=("steps to accuracy", "without", "with batch norm", "ratio"),
        rows=tuple(rows),
        lecture="batch norm reaches the same accuracy in far fewer steps (the paper's figures 1 and 2)",
        found=f"{last[0]} after {last[2] or 'no'} steps with batch norm: {ratio} than without, at one rate",
    )


class _Free(nn.BatchNorm2d):
    """Batch norm without scale and bias."""

    def __init__(self, maps: int) -> None:
        super().__init__(maps, affine=False)


def norm_order(*, seed: int, quick: bool) -> Result:
    """The small convnet with batch norm before or after its rectifiers, with and without scale and bias."""
    seeds = 3 if quick else 8
    steps = 40 if quick else 120
    rows: list[tuple[Cell, ...]] = []
    every: dict[tuple[str, bool], list[float]] = {}
    for (where, affine), (theirs, loss) in CAFFENET128.items():
        scores = []
        for number in range(seeds):
            train, test = digits(seed=seed + number, train=300)
            kind = nn.BatchNorm2d if affine else _Free
            network = convnet(normalise=kind) if where == "before" else _normed_after(kind)
            scores.append(fit(network, train, test, steps=steps, lr=0.02, seed=seed + number).accuracy)
        every[where, affine] = scores
        mean, reach = interval(scores)
        rows.append((where + (", scale and bias" if affine else ""), theirs, loss, mean, reach))
    pairs = zip(every["after", False], every["before", False], strict=True)
    gap, wide = interval([after - before for after, before in pairs])  # same digits, same order
    verdict = "no difference that this can see" if abs(gap) <= wide else "a difference"
    return Result(
        columns=("batch norm", "CaffeNet accuracy", "log loss", "accuracy here", "95 % interval, +-"),
        rows=tuple(rows),
        lecture="caffenet-benchmark, 128 pixels: after the ReLU 0.499, before it, as in the paper, 0.474",
        found=f"after minus before {100 * gap:+.1f} points +- {100 * wide:.1f} over {seeds} seeds on 300 "
        f"digits: {verdict}",
    )


def _normed_after(kind: Callable[[int], nn.Module]) -> nn.Sequential:
    """The convnet of `experiment`, with every normalisation behind its rectifier."""
    network = convnet(normalise=kind)
    for number in (1, 2, 3):
        part = network.get_submodule(f"conv{number}")
        names = dict(part.named_children())
        order = ["conv", "act", "norm", *(["pool"] if "pool" in names else [])]
        setattr(network, f"conv{number}", stage(**{name: names[name] for name in order}))
    return network


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, STUDENT[len(values)] * spread / math.sqrt(len(values))
