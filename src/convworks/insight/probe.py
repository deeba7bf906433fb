"""How much of the classes a linear classifier reads off the features of each stage of a network.

The features of a stage are its outputs, all of them where an image has at most 1,024, else their means on the
finest grid over the maps that has no more.
The classifier is multinomial logistic regression,

    minimise  1/n sum_i -log softmax(W x_i + b)[y_i]  +  lambda/2 |W|^2,

on features of mean 0 and variance 1, in float64, by L-BFGS; lambda is chosen on a fifth of the training
images. Sources: lectures, transfer learning ("tap off features" and train a linear classifier); Alain,
Bengio, "Understanding intermediate layers using linear classifier probes", 2016; Zeiler, Fergus,
"Visualizing and understanding convolutional networks", 2014, section 5.3."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Interval, wilson
from convworks.layers.auxiliary import AUXILIARY
from convworks.layers.fold import DROPOUTS
from convworks.randomness import permutation
from convworks.training.transfer import stages
from convworks.training.unit_variance import one_thread

FLAT = 1024  # numbers of an image up to which they are all taken
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # lambda, from strong to weak
HELD_OUT = 0.2  # of the training images, to choose lambda
ITERATIONS = 200  # of L-BFGS at the most
GRADIENT = 1e-7  # where it ends
ROUGH_ITERATIONS, ROUGH_GRADIENT = 50, 1e-4  # while lambda is chosen
INPUT = "input"
MEANS: tuple[Callable[..., Tensor], ...] = (
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """One stage: how many features, which, and how well they tell the classes apart."""

    layer: str
    features: int
    kind: str  # "all 16x5x5", or "means of 64x56x56 on 4x4"
    penalty: float  # lambda
    train_accuracy: float
    accuracy: float
    interval: Interval  # Wilson, 95 %


@dataclass(frozen=True, slots=True, eq=False)
class LogisticRegression:
    """W (K, D), b (K,), and the mean and deviation (D,) that features are standardised by."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    deviation: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """(N, K) of features (N, D)."""
        return ((x.double() - self.mean) / self.deviation) @ self.weight.T + self.bias

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        return float((self.logits(x).argmax(dim=1) == y).double().mean())


def tapped(network: nn.Module) -> tuple[str, ...]:
    """The children whose outputs are looked at: all before the last stage, first to last."""
    names = [name for name, _ in network.named_children()]
    found = stages(network)
    return tuple(
        name
        for name in (names[: names.index(found[-1])] if found else ())
        if not name.startswith(AUXILIARY) and not isinstance(network.get_submodule(name), DROPOUTS)
    )


@torch.no_grad()
def stage_features(network: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, str], Tensor]:
    """(features (N, D) float32 of the input and every stage, what they are in words, the network's outputs).

    The network is used in the mode it is in.
    """
    kept: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}

    def keep(name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
            kept[name], kinds[name] = pooled(value)

    handles = [
        network.get_submodule(name).register_forward_hook(lambda m, i, output, name=name: keep(name, output))
        for name in tapped(network)
    ]
    keep(INPUT, x)
    try:
        outputs = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return kept, kinds, outputs


def pooled(value: Tensor, *, most: int = FLAT) -> tuple[Tensor, str]:
    """Features (N, D) of outputs (N, D) or (N, C, ...), a copy, and what they are.

    Maps of more than `most` numbers become their means on the finest grid with no more; 1 x 1 at the least.
    """
    shape = tuple(value.shape[1:])
    if value.ndim == 2 or value[0].numel() <= most:
        return value.float().flatten(1).clone(), f"all {'x'.join(map(str, shape))}"
    channels, *sides = shape
    grid = next(
        cells
        for finest in range(max(sides), 0, -1)
        if channels * math.prod(cells := [min(side, finest) for side in sides]) <= most or finest == 1
    )
    means = MEANS[len(sides) - 1](value.float(), grid).flatten(1)
    return means, f"means of {'x'.join(map(str, shape))} on {'x'.join(map(str, grid))}"


def fit_logistic(
    x: Tensor,
    y: Tensor,
    *,
    classes: int,
    penalty: float,
    start: LogisticRegression | None = None,
    iterations: int = ITERATIONS,
    gradient: float = GRADIENT,
) -> LogisticRegression:
    """The minimum for features (N, D) and classes (N,): where no slope is above `gradient`, or the iterations
    end. `start` is where to look from."""
    mean = x.double().mean(dim=0)
    deviation = x.double().std(dim=0, correction=0)
    deviation = torch.where(deviation > 1e-9 * (1 + mean.abs()), deviation, torch.ones_like(deviation))
    standard = (x.double() - mean) / deviation
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64) if start is None else start.weight.clone()
    bias = torch.zeros(classes, dtype=torch.float64) if start is None else start.bias.clone()
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        tolerance_grad=gradient,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(standard @ weight.T + bias, y) + 0.5 * penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad(), one_thread():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    return LogisticRegression(weight.detach(), bias.detach(), mean, deviation)


def choose_penalty(x: Tensor, y: Tensor, *, classes: int, seed: int) -> float:
    """The lambda of PENALTIES with the best accuracy on a fifth of the images; of equals the strongest."""
    order = torch.from_numpy(permutation(seed, "probe", 0, len(y)))
    held = max(1, round(HELD_OUT * len(y)))
    kept, out = order[held:], order[:held]
    best, found, start = -1.0, PENALTIES[0], None
    for penalty in PENALTIES:
        start = fit_logistic(
            x[kept],
            y[kept],
            classes=classes,
            penalty=penalty,
            start=start,
            iterations=ROUGH_ITERATIONS,
            gradient=ROUGH_GRADIENT,
        )
        score = start.accuracy(x[out], y[out])
        if score > best:
            best, found = score, penalty
    return found


def probe_stage(
    layer: str,
    kind: str,
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    *,
    classes: int,
    seed: int = 0,
) -> ProbeRow:
    """Choose lambda, fit on all training images, measure on the others. Each pair is (features, classes)."""
    with one_thread():
        penalty = choose_penalty(*train, classes=classes, seed=seed)
        fitted = fit_logistic(*train, classes=classes, penalty=penalty)
        right = int((fitted.logits(val[0]).argmax(dim=1) == val[1]).sum())
        train_accuracy = fitted.accuracy(*train)
    return ProbeRow(
        layer=layer,
        features=train[0].shape[1],
        kind=kind,
        penalty=penalty,
        train_accuracy=train_accuracy,
        accuracy=right / len(val[1]),
        interval=wilson(right, len(val[1])),
    )


def require_enough(labels: NDArray[np.int64], val: Sequence[int] | NDArray[np.int64]) -> None:
    """Raises U234 without two classes among the training images, five of them, and an image to measure on."""
    if len(np.unique(labels)) < 2 or len(labels) < 5 or not len(val):
        raise ConvworksError(
            "U234",
            f"{len(labels)} training images of {len(np.unique(labels))} classes and {len(val)} others "
            "are too "
            "few for a linear classifier",
            why="it needs two classes, five images to learn from and one to be measured on",
            try_="--images 2000, or a larger data set",
        )
