"""Exact batch norm statistics after training: all training data, layer by layer, from the first to the last.

During training every layer keeps a moving average of the batches' means and variances: of the last few
hundred steps, of weights that have changed since, and of augmented images. Here, with the weights as they
are, all images are passed to the first batch norm and the mean and variance of its input are stored; then,
with that layer already in its final state, to the second; and so on. The variance is the unbiased one of all
values, m/(m-1) times the biased, m the number of images times places.
Sources: Ioffe and Szegedy 2015, Algorithm 2, lines 8 to 11; lectures, convolutional networks by Fergus and
LeCun, "Batch normalization": "requires a final phase where, from the first to the last hidden layer, 1.
propagate all training data to that layer, 2. compute and store the global mean and stddev of each unit".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from convworks.errors import ConvworksError
from convworks.ops.batch_norm import PopulationStatistics
from convworks.training.loop import Numerics

Inputs = Callable[[], Iterable[Tensor]]  # all training data from the start, in batches; called for each layer


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """One batch norm and how far its statistics moved."""

    name: str
    values: int  # m: images times places
    mean_shift: float  # root mean square of (new mean - old mean) / old standard deviation, over features
    std_ratio: float  # geometric mean of new standard deviation / old standard deviation


class StoppedRecalibrationError(Exception):
    """The recalibration was asked to stop; the network is as it was."""


class _Reached(Exception):  # noqa: N818 - no error: the rest of the pass is not needed
    """The layer that is measured has seen its input."""


def recalibrated_layers(network: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms that keep population statistics, by name, in the order of definition."""
    return {
        name: each
        for name, each in network.named_modules()
        if isinstance(each, _BatchNorm) and each.running_mean is not None
    }


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    inputs: Inputs,
    *,
    numerics: Numerics | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, layers: None,
) -> list[Recalibrated]:
    """Replace the running mean and variance of every batch norm by those of all data, in order of execution.

    `inputs()` gives the same batches (N, C, H, W) each time, and is called once for each layer and once more
    to find their order, so the cost is about half of (layers x a pass over the data). Sums are kept in
    float64, so neither the order nor the size of the batches matters but for rounding. Passes are made in
    evaluation mode; training flags come back as they were, and nothing but the running statistics changes.
    A batch norm that is never called keeps its own.
    Raises U161 without batch norm, U163 where one is called more than once in a pass or sees fewer than two
    values, N602 where statistics are not finite, StoppedRecalibrationError when asked to stop. The network is
    unchanged then.
    """
    layers = recalibrated_layers(network)
    if not layers:
        raise ConvworksError(
            "U161",
            f"this {type(network).__name__} has no batch norm with running statistics to measure again",
            why="only batch norm keeps statistics of its inputs for evaluation",
            try_="convworks train DATA --model fastnet",
        )
    numerics = numerics or Numerics()
    with _evaluation(network), _undone_on_failure(layers):
        order = _order(network, layers, inputs, numerics)
        found = []
        for done, name in enumerate(order):
            progress(done, len(order))
            statistics = _measure(network, layers[name], inputs, numerics, should_stop)
            found.append(_store(name, layers[name], statistics))
        progress(len(order), len(order))
    return found


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module's own flag."""
    flags = [(each, each.training) for each in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for each, flag in flags:
            each.training = flag


@contextmanager
def _undone_on_failure(layers: dict[str, _BatchNorm]) -> Iterator[None]:
    """All statistics or none: where the work ends early, the old ones come back."""
    before = [(each, _mean(each).clone(), _var(each).clone()) for each in layers.values()]
    try:
        yield
    except BaseException:
        for each, mean, var in before:
            _mean(each).copy_(mean)
            _var(each).copy_(var)
        raise


def _mean(layer: _BatchNorm) -> Tensor:
    assert layer.running_mean is not None
    return layer.running_mean


def _var(layer: _BatchNorm) -> Tensor:
    assert layer.running_var is not None
    return layer.running_var


def _order(
    network: nn.Module, layers: dict[str, _BatchNorm], inputs: Inputs, numerics: Numerics
) -> list[str]:
    """The names in the order in which one batch meets them."""
    met: list[str] = []
    handles = [
        each.register_forward_pre_hook(lambda _layer, _args, name=name: met.append(name))
        for name, each in layers.items()
    ]
    try:
        first = next(iter(inputs()), None)
        if first is not None:
            with numerics.autocast():
                network(first)
    finally:
        for handle in handles:
            handle.remove()
    if not met:
        raise ConvworksError("U163", "no image reached a batch norm, so there is nothing to measure")
    twice = next((name for name in met if met.count(name) > 1), None)
    if twice is not None:
        raise ConvworksError(
            "U163",
            f"the batch norm '{twice}' is called {met.count(twice)} times in one pass",
            why="its own output is among its inputs, so there is no first-to-last order",
            try_="give each call a batch norm of its own",
        )
    return met


def _measure(
    network: nn.Module,
    layer: _BatchNorm,
    inputs: Inputs,
    numerics: Numerics,
    should_stop: Callable[[], bool],
) -> PopulationStatistics:
    """Mean and variance of what reaches one layer; what comes behind it is not computed."""
    statistics = PopulationStatistics()

    def look(_layer: nn.Module, args: tuple[Any, ...]) -> None:
        statistics.add(args[0])
        raise _Reached

    handle = layer.register_forward_pre_hook(look)
    try:
        for x in inputs():
            if should_stop():
                raise StoppedRecalibrationError
            try:
                with numerics.autocast():
                    network(x)
            except _Reached:
                continue
    finally:
        handle.remove()
    return statistics


def _store(name: str, layer: _BatchNorm, statistics: PopulationStatistics) -> Recalibrated:
    if statistics.count < 2:
        raise ConvworksError(
            "U163",
            f"the batch norm '{name}' saw {statistics.count} value of each feature: that has no variance",
            try_="recalibrate on two images or more",
        )
    mean, var = statistics.mean, statistics.var
    if not bool(torch.isfinite(mean).all() and torch.isfinite(var).all()):
        raise ConvworksError(
            "N602", f"the input of the batch norm '{name}' is not finite", try_="a smaller --lr"
        )
    old_mean, old_std = _mean(layer).double(), (_var(layer).double() + layer.eps).sqrt()
    shift = ((mean - old_mean) / old_std).square().mean().sqrt()
    ratio = ((var + layer.eps).sqrt() / old_std).log().mean()
    _mean(layer).copy_(mean)
    _var(layer).copy_(var)
    return Recalibrated(name, statistics.count, float(shift), math.exp(float(ratio)))
