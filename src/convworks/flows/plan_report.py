"""What `convworks plan` measures: each option's speed, where the time goes, the ceiling, the best batch.

Nothing is written but the cache of images and, on a machine that can, of the kernels. Speeds are medians of
steps that were taken in turn, so that a machine that drifts drifts for all of them.
Sources: lectures, minibatches of 1,000 to 64,000 images, batches split over threads, processor beside
accelerator; Goyal et al. 2017, section 2.1 (linear scaling).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convworks import environment, models
from convworks.data.loader import Batch
from convworks.errors import ConvworksError, unknown_name
from convworks.flows.cost import free_memory
from convworks.flows.plan import kernels_for, measure_plan
from convworks.flows.prepare import (
    DataRequest,
    Prepared,
    build_network,
    optimizer_for,
    prepare_data,
    step_settings,
    top_rate,
    training_loader,
)
from convworks.recipes.defaults import adapt_to_size, resolve_named
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import Resolved
from convworks.training.ceiling import convolutions_alone
from convworks.training.convolution_choice import Choice, convolutions_of, layers_alone
from convworks.training.planner import Plan, choose_device
from convworks.training.step_timing import Candidate, Trainee

SECONDS = 3.0  # of steps for the shares; as many again for the batches
STEPS = 3  # of anything, at the least
SHARE_OF_MEMORY = 0.5  # of what is free: a batch that may take more is not tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Seconds of one training step, by what they are for."""

    data: float  # reading, augmenting and normalising a batch on one thread
    step: float  # the whole step, without data
    convolution: float | None  # the step's convolutions alone; None for a network without
    ceiling: float | None  # the same convolutions, all of them torch's own, in the same precision

    @property
    def rest(self) -> float:
        """Batch norm, activations, pooling, dense layers, the loss and the optimizer."""
        return max(self.step - (self.convolution or 0.0), 0.0)

    @property
    def of_ceiling(self) -> float | None:
        """The step's speed as a share of what torch's own convolutions alone would reach.

        Above 1 where convolutions by kernels of ours save more than everything else takes.
        """
        return None if self.ceiling is None else self.ceiling / self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpeed:
    """Training with batches of one size."""

    batch: int
    images_per_second: float
    steps_per_epoch: int
    lr: float  # by linear scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """All that was found. `devices` has two entries where there is an accelerator."""

    recipe: Recipe
    plan: Plan
    shares: Shares
    batches: tuple[BatchSpeed, ...]
    too_large: tuple[int, ...]  # batches that were not tried, for their memory or for want of images
    devices: dict[str, float]  # images a second of the best option of each
    images: int
    dense: int = 0  # of the layers on matrix units those that are no convolutions

    @property
    def ceiling(self) -> float | None:
        """Images a second of the step's convolutions alone, as torch computes them."""
        seconds = self.shares.ceiling
        return None if seconds is None else self.recipe.batch / seconds

    def to_dict(self) -> dict[str, Any]:
        shares = asdict(self.shares)
        return {
            "model": self.recipe.model,
            "batch": self.recipe.batch,
            "plan": self.plan.to_dict(),
            "options": dict(self.plan.measured),
            "seconds": {**shares, "rest": self.shares.rest},
            "ceiling_images_per_second": self.ceiling,
            "share_of_ceiling": self.shares.of_ceiling,
            "batches": [asdict(each) for each in self.batches],
            "batches_not_tried": list(self.too_large),
            "devices": self.devices,
            "images": self.images,
        }


def explore(
    data: DataRequest,
    resolved: Resolved,
    *,
    batches: tuple[int, ...] = (),
    progress: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PlanReport:
    """Measure everything for this model on these images; `batches` are tried beside the recipe's own.

    Without `batches` they are a quarter, half, twice and four times the recipe's. Raises U101 for an unknown
    model, U240 for a batch below 2, and what preparing the data raises.
    """
    recipe = resolved.recipe
    if recipe.model not in models.names():
        raise unknown_name("model", recipe.model, models.names(), try_="convworks plan {near} DATA")
    for size in batches:
        if size < 2:
            raise ConvworksError(
                "U240",
                f"a batch of {size} is not measured",
                why="batch norm needs two images",
                try_="--batches 8,32",
            )
    with data.open() as source:
        resolved = adapt_to_size(resolved, sum(entry.split in {None, "train"} for entry in source.entries))
    recipe = resolved.recipe
    progress("preparing the images")
    prepared = prepare_data(data, recipe, expected=None, geometry=None, should_stop=should_stop)
    threads_before = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            network = build_network(recipe, len(prepared.dataset.classes), prepared.dataset.geometry)
            return _measured(prepared, recipe, network, data, batches, progress)
        finally:
            torch.set_num_threads(threads_before)


def plan(
    model: str,
    data: str | Path,
    *,
    recipe: str | None = None,
    batches: Sequence[int] = (),
    cache: str | Path | None = None,
    **settings: Any,
) -> PlanReport:
    """`convworks plan` from Python; settings as for `train`: batch=64, optimizer__name="adam"."""
    request = DataRequest(
        location=str(data),
        cache=environment.cache_folder(None if cache is None else Path(cache)),
        data_root=environment.data_root(None),
        offline=environment.is_offline(False),
    )
    flags = {key.replace("__", "."): value for key, value in {"model": model, **settings}.items()}
    return explore(request, resolve_named(recipe, flags=flags), batches=tuple(batches))


def _measured(
    prepared: Prepared,
    recipe: Recipe,
    network: nn.Module,
    data: DataRequest,
    batches: tuple[int, ...],
    progress: Callable[[str], None],
) -> PlanReport:
    device = choose_device(recipe.device)
    ready = kernels_for(data.cache)

    def kernels(_compile: bool) -> str:
        return ready(True)  # who asks may wait the few seconds of a compiler

    progress("measuring each option")
    plan = measure_plan(prepared, recipe, network, device, kernels)
    devices = {device: plan.images_per_second}
    if device != "cpu":
        progress("measuring the processor too")
        beside = measure_plan(prepared, replace(recipe, device="cpu"), network, "cpu", kernels)
        devices["cpu"] = beside.images_per_second
    torch.set_num_threads(plan.threads)
    progress("measuring where the time goes")
    shares, bytes_each = shares_of(prepared, recipe, network, plan)
    tried = sorted({recipe.batch, *(batches or _around(recipe.batch))})
    images = len(prepared.dataset.split_rows("train"))
    room = int(SHARE_OF_MEMORY * free_memory(device) / max(bytes_each, 1))
    fits = [size for size in tried if size <= min(images, room)]
    rows = []
    for size in fits:
        progress(f"measuring batches of {size}")
        rate = recipe.batch / shares.step
        if size != recipe.batch:
            rate = size / _median_step(
                prepared, replace(recipe, batch=size), network, plan, SECONDS / len(fits)
            )
        scaled = top_rate(recipe) * size / recipe.batch
        rows.append(BatchSpeed(batch=size, images_per_second=rate, steps_per_epoch=images // size, lr=scaled))
    return PlanReport(
        recipe=recipe,
        plan=plan,
        shares=shares,
        batches=tuple(rows),
        too_large=tuple(size for size in tried if size not in fits),
        devices=devices,
        images=images,
        dense=len(plan.amx) - len(convolutions_of(network, plan.amx)),
    )


def _around(batch: int) -> Iterator[int]:
    for size in (batch // 4, batch // 2, 2 * batch, 4 * batch):
        if size >= 2:
            yield size


def _trainee(
    prepared: Prepared, recipe: Recipe, network: nn.Module, plan: Plan, batch: Batch
) -> tuple[Trainee, Candidate]:
    """A copy of the network, and how the plan trains it."""
    dataset = prepared.dataset
    labels = dataset.labels[torch.from_numpy(dataset.split_rows("train"))]
    settings = step_settings(recipe, labels, len(dataset.classes), plan.device)
    trainee = Trainee(network, lambda each: optimizer_for(recipe, each), batch, settings)
    return trainee, Candidate(plan.numerics, plan.threads, plan.fused, plan.winograd, plan.amx)


def shares_of(prepared: Prepared, recipe: Recipe, network: nn.Module, plan: Plan) -> tuple[Shares, float]:
    """The shares of a step, and the bytes that one image holds on to between forward and backward."""
    loader = training_loader(prepared, recipe, numerics=plan.numerics, workers=0)
    data: list[float] = []
    start = time.perf_counter()
    for batch, _ in zip(loader.epoch(0), range(STEPS), strict=False):  # noqa: B007  the last one is used
        data.append(time.perf_counter() - start)
        start = time.perf_counter()
    trainee, candidate = _trainee(prepared, recipe, network, plan, batch)
    step = trainee.timer(candidate)
    torchs_step = trainee.timer(replace(candidate, winograd=(), amx=()))
    torchs_step()  # the first call may make two steps
    ceiling = convolutions_alone(torchs_step)  # all of them torch's own
    chosen = Choice(candidate.winograd, convolutions_of(network, candidate.amx))
    own = _with_own(trainee, candidate, chosen, step) if any(chosen) else None
    held = _Held()
    step()
    with torch.autograd.graph.saved_tensors_hooks(held.see, lambda x: x):
        step()
    steps: list[float] = []
    convolutions: list[float] = []
    torchs: list[float] = []
    begun = time.perf_counter()
    while len(steps) < STEPS or time.perf_counter() - begun < SECONDS:
        steps.append(step())
        if ceiling is not None:
            torchs.append(ceiling())
        if own is not None:
            convolutions.append(own())
        if time.perf_counter() - begun > 10 * SECONDS:
            break
    alone = statistics.median(torchs) if torchs else None
    found = Shares(
        data=statistics.median(data),
        step=statistics.median(steps),
        convolution=statistics.median(convolutions) if convolutions else alone,
        ceiling=alone,
    )
    return found, 2 * held.bytes / len(batch.y)  # gradients of the same size come beside them


def _with_own(
    trainee: Trainee, candidate: Candidate, chosen: Choice, step: Callable[[], float]
) -> Callable[[], float]:
    """A function that makes the convolutions of a step alone, as the plan does, and returns their seconds."""
    rest = convolutions_alone(step, whole=True)  # torch's that remain
    network, x = trainee.of_layers(candidate)
    own = layers_alone(network, chosen, x, candidate.numerics)
    return lambda: (rest() if rest is not None else 0.0) + trainee.passes * own()


class _Held:
    """Counts what autograd keeps for the backward pass, each piece of memory once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen: set[int] = set()

    def see(self, x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if not isinstance(x, nn.Parameter) and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return x


def _median_step(prepared: Prepared, recipe: Recipe, network: nn.Module, plan: Plan, seconds: float) -> float:
    """Seconds of a step with the recipe's batch."""
    loader = training_loader(prepared, recipe, numerics=plan.numerics, workers=0)
    trainee, candidate = _trainee(prepared, recipe, network, plan, next(iter(loader.epoch(0))))
    step = trainee.timer(candidate)
    step()
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < STEPS or (time.perf_counter() - begun < seconds and len(taken) < 100):
        taken.append(step())
        if time.perf_counter() - begun > 10 * seconds:
            break
    return statistics.median(taken)
