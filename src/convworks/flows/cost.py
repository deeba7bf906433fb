"""What a training would cost here, before it begins: memory by arithmetic, time by a few real steps.

The memory is estimated on the meta device, where nothing is allocated. Then, if a batch fits into a third of
the free memory with room for what the estimate leaves out, some steps of training and of inference run on
random images, and their time is taken for every image of every epoch.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from convworks import models
from convworks.anatomy import Memory, Row, memory, totals
from convworks.data.loader import Batch
from convworks.data.splits import assign_splits
from convworks.data.store import available_memory, probe
from convworks.flows.prepare import (
    DataRequest,
    choose_geometry,
    optimizer_for,
    regularizers,
    top_rate,
)
from convworks.recipes.defaults import adapt_to_size
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import Resolved
from convworks.training.loop import Numerics, StepSettings
from convworks.training.planner import choose_device, usable_cpus
from convworks.training.step_timing import Candidate, step_timer

SHARE = 1 / 3  # of the free memory that measuring may take
MARGIN = 1.5  # times the estimate: operators need room of their own
SECONDS = 4.0  # of measured training steps, at the least three of them
STEPS = 3

Image = tuple[int, int, int]  # C, H, W


@dataclass(frozen=True, slots=True)
class Counts:
    """The images of a source, counted by their names: none of them decoded but a few for their size."""

    location: str
    train: int
    val: int
    test: int
    classes: int
    image: Image
    rule: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Measured seconds, for one image, at a batch that fits."""

    batch: int
    step: float
    inference: float
    device: str
    threads: int
    precision: str
    grown: int  # bytes by which the process grew, or that the device held at the most


@dataclass(frozen=True, slots=True)
class Cost:
    """All that is known beforehand; `timing` is None where `why_not` says why nothing was measured."""

    recipe: Recipe
    image: Image
    classes: int
    macs: int
    parameters: int
    need: Memory  # of a step: one part of the batch where it is accumulated
    states: int  # numbers that the optimizer keeps for each parameter
    average: int  # bytes of averaged weights
    free: int  # bytes
    counts: Counts | None = None
    timing: Timing | None = None
    why_not: str = ""
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.need.training + self.average

    @property
    def epoch_seconds(self) -> float | None:
        """Of training on every image and looking at the validation images."""
        if self.timing is None or self.counts is None:
            return None
        return self.counts.train * self.timing.step + self.counts.val * self.timing.inference

    @property
    def run_seconds(self) -> float | None:
        return None if self.epoch_seconds is None else self.recipe.epochs * self.epoch_seconds


def count_images(request: DataRequest, resolved: Resolved) -> tuple[Counts, Resolved]:
    """How many images of each split a training would have, and the recipe that it would take for so many.

    Raises D1xx where the source is not there or cannot be understood, as training does.
    """
    with request.open() as source:
        entries = source.entries
        wanted = sum(entry.split in {None, "train"} for entry in entries)
        resolved = adapt_to_size(resolved, wanted)
        recipe = resolved.recipe
        splits, rule = assign_splits(
            [entry.split for entry in entries],
            [entry.label or "" for entry in entries],
            range(len(entries)),
            seed=recipe.seed,
            val_fraction=recipe.val_fraction,
        )
        geometry = choose_geometry(recipe, probe(source))
        number = Counter(splits)
        found = Counts(
            location=source.location,
            train=number["train"],
            val=number["val"],
            test=number["test"],
            classes=len(source.classes),
            image=(geometry.channels, geometry.height, geometry.width),
            rule=rule,
        )
    return found, resolved


def estimate(
    resolved: Resolved, rows: list[Row], *, image: Image, classes: int, counts: Counts | None
) -> Cost:
    """The memory of a step with the recipe's batch and optimizer; no tensor is made. Raises R520."""
    recipe = resolved.recipe
    part = math.ceil(recipe.batch / recipe.accumulate)
    name = recipe.optimizer.name
    states = 2 if name in {"adam", "adamw"} else int(name == "rmsprop") + int(recipe.optimizer.momentum > 0)
    need = memory(rows, image, batch=part, optimizer_states=states)
    total = totals(rows)
    return Cost(
        recipe=recipe,
        image=image,
        classes=classes,
        macs=total.macs,
        parameters=total.parameters,
        need=need,
        states=states,
        average=need.weights if recipe.averages else 0,
        free=free_memory(choose_device(recipe.device)),
        counts=counts,
        sources=dict(resolved.sources),
    )


def free_memory(device: str) -> int:
    """Bytes that are free on a device; on the CPU those of the machine or the container."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def fitting_batch(cost: Cost) -> int:
    """The largest power of two, or the recipe's batch, whose step stays below a third of the free memory."""
    batch = math.ceil(cost.recipe.batch / cost.recipe.accumulate)
    each = cost.need.training_activations / batch
    fixed = cost.total - cost.need.training_activations
    room = (cost.free * SHARE / MARGIN - fixed) / each
    return batch if room >= batch else 2 ** int(math.log2(room)) if room >= 1 else 0


def measure(cost: Cost, *, progress: Callable[[str], None] = lambda _: None) -> Timing | str:
    """Train and look at random images for a few seconds; or why that is not done here."""
    batch = fitting_batch(cost)
    if not batch:
        each = cost.need.training_activations / math.ceil(cost.recipe.batch / cost.recipe.accumulate)
        needed = MARGIN * (cost.total - cost.need.training_activations + each)
        return (
            f"a step with one image would take about {needed / 1e9:,.1f} GB with what operators need, and "
            f"measuring takes no more than a third of the {cost.free / 1e9:,.1f} GB that are free"
        )
    recipe = cost.recipe
    device = choose_device(recipe.device)
    numerics = Numerics(
        _chosen(recipe.precision, "fp32"), _chosen(recipe.memory_format, "contiguous"), device
    )
    threads = recipe.threads or usable_cpus()
    before, threads_before = _held(device), torch.get_num_threads()
    progress(f"building {recipe.model}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.create(
            recipe.model,
            num_classes=cost.classes,
            in_channels=cost.image[0],
            input_size=cost.image[1:],
            **recipe.model_options,
        )
        regularizers(recipe).prepare(network)
        data = Batch(
            torch.randn(batch, *cost.image),
            torch.randint(cost.classes, (batch,)),
            np.arange(batch),
        )
        try:
            one_step = step_timer(
                Candidate(numerics, threads),
                network,
                lambda trainee: optimizer_for(recipe, trainee),
                data,
                _step_settings(recipe),
            )
            progress(f"training on {batch} random images")
            step = _median(one_step)
            progress(f"looking at {batch} random images")
            look = _median(lambda: _inference(network.to(device).eval(), data.x.to(device), numerics))
        finally:
            torch.set_num_threads(threads_before)
    return Timing(
        batch=batch,
        step=step / batch,
        inference=look / batch,
        device=device,
        threads=threads,
        precision=numerics.precision,
        grown=max(0, _held(device) - before),
    )


def _step_settings(recipe: Recipe) -> StepSettings:
    """Of one part of a batch, as the recipe trains it."""
    return StepSettings(
        seed=0,
        lr=top_rate(recipe),
        label_smoothing=recipe.label_smoothing,
        regularizers=regularizers(recipe),
    )


def _chosen(value: str, otherwise: str) -> str:
    """What is measured where training would try several."""
    return otherwise if value == "auto" else value


def _median(one: Callable[[], float]) -> float:
    """Seconds, after one time that does not count; three at the least, and as many as fit."""
    one()
    taken: list[float] = []
    while len(taken) < STEPS or (sum(taken) < SECONDS / 2 and len(taken) < 50):
        taken.append(one())
        if sum(taken) > 10 * SECONDS:
            break
    return statistics.median(taken)


def _inference(network: nn.Module, x: Tensor, numerics: Numerics) -> float:
    start = time.perf_counter()
    with torch.inference_mode(), numerics.autocast():
        network(x)
    if numerics.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _held(device: str) -> int:
    """Bytes that the device held at the most, or that this process did."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows has no resource
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
