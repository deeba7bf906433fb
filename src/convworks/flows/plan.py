"""The plan of a training on this machine: measured with its own network and images, or remembered."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from convworks import environment
from convworks.durable import read_json, to_json, write_atomic
from convworks.errors import ConvworksError
from convworks.flows.prepare import Prepared, optimizer_for, step_settings, training_loader
from convworks.layers.arrangement import arrange
from convworks.machine import processor_name
from convworks.ops import amx_convolution, fast_winograd
from convworks.ops.native.build import NOT_BUILT, find_compiler
from convworks.ops.native.library import INTERFACE, available, open_kernels
from convworks.recipes.recipe import Recipe
from convworks.training.allocator import keep_pages
from convworks.training.loop import Numerics, StepSettings, accumulate_gradients
from convworks.training.planner import (
    Plan,
    choose_device,
    choose_workers,
    make_plan,
    measuring_seconds,
    plan_from_dict,
    usable_cpus,
)

MISLED = 1.5  # times the speed that was planned with: the machine was busy while that was measured
SURE = 60.0  # seconds of training that tell its speed
_WORKERS_TRIED = (0, 1, 2)
_WORTH_AHEAD = 0.02  # of a step's time: where preparing takes less, no thread can gain more than that


def plan_training(prepared: Prepared, recipe: Recipe, network: nn.Module, *, cache: Path | None) -> Plan:
    """The plan for this network, these images and this machine: measured, or remembered from last time.

    It is remembered so that the same command twice computes in the same way and ends in the same bits.
    """
    device = choose_device(recipe.device)
    file = None if cache is None else _remembered(prepared, recipe, device, cache)
    if file is not None and file.is_file():
        try:
            return with_kernels(plan_from_dict(read_json(file)), cache=cache)
        except ConvworksError:
            file.unlink(missing_ok=True)
    plan = measure_plan(prepared, recipe, network, device, kernels_for(cache))
    if file is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a measurement next time
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, to_json(plan.to_dict()))
    return plan


def forget_misled(
    plan: Plan, prepared: Prepared, recipe: Recipe, *, images: int, seconds: float, cache: Path | None
) -> str:
    """Forget a remembered plan whose run trained much faster than the plan had measured; what to say, or ''.

    The machine was busy while it measured, and what wins on a busy machine need not win on a quiet one. The
    run keeps its plan. Short runs say nothing sure.
    """
    rate = images / max(seconds, 1e-9)
    if cache is None or seconds < SURE or rate < MISLED * plan.images_per_second:
        return ""
    file = _remembered(prepared, recipe, choose_device(recipe.device), cache)
    if not file.is_file():
        return ""
    file.unlink(missing_ok=True)
    return (
        f"trained {rate:,.0f} images a second, where planning had measured {plan.images_per_second:,.0f}: "
        "the machine was busy then, and the plan will be measured anew next time"
    )


def _remembered(prepared: Prepared, recipe: Recipe, device: str, cache: Path) -> Path:
    return cache / "plans" / f"{_plan_key(prepared, recipe, device)}.json"


def kernels_for(cache: Path | None) -> Callable[[bool], str]:
    """What makes the fused kernels ready for this process: '' where they are, else why there are none."""

    def ready(compile_: bool) -> str:
        if not environment.wants_kernels():
            return "CONVWORKS_NATIVE=0"
        if cache is None:
            return "there is no cache folder to build them in"
        missing = open_kernels(cache / "kernels", compile_=compile_)
        late = missing == NOT_BUILT and not compile_
        return "the run is too short to pay for building them" if late else missing

    return ready


def with_kernels(plan: Plan, *, cache: Path | None) -> Plan:
    """The plan, its kernels loaded. Where they cannot be, torch's operators give the same to rounding."""
    if plan.fused or plan.winograd or plan.amx:
        kernels_for(cache)(True)
    return plan


def differences_of(plan: Plan) -> list[str]:
    """What this process computes in another way than the plan says, in words."""
    lost = []
    if plan.fused and not available():
        lost.append("the fused kernels of the plan cannot be used here")
    if plan.winograd and not fast_winograd.available():
        lost.append("Winograd's algorithm of the plan cannot be used here")
    if plan.amx and not amx_convolution.available():
        lost.append("the matrix units (AMX) of the plan cannot be used here")
    return lost


def _plan_key(prepared: Prepared, recipe: Recipe, device: str) -> str:
    parts = [
        recipe.model,
        sorted(recipe.model_options.items()),
        recipe.batch,
        recipe.accumulate,
        recipe.optimizer.name,
        asdict(recipe.augment),
        asdict(recipe.regularize),
        asdict(recipe.transfer),
        recipe.precision,
        recipe.memory_format,
        recipe.winograd,
        recipe.amx,
        recipe.threads,
        recipe.workers,
        recipe.checkpoint_every,
        asdict(prepared.dataset.geometry),
        len(prepared.dataset.classes),
        device,
        usable_cpus(),
        processor_name(),
        torch.__version__,
        INTERFACE,  # other kernels, other plans
        environment.wants_kernels() and find_compiler(),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def measure_plan(
    prepared: Prepared, recipe: Recipe, network: nn.Module, device: str, kernels: Callable[[bool], str]
) -> Plan:
    """Measure now, remember nothing. `kernels` as for `training.planner.make_plan`."""
    dataset = prepared.dataset
    train_rows = dataset.split_rows("train")
    settings = step_settings(
        recipe, dataset.labels[torch.from_numpy(train_rows)], len(dataset.classes), device
    )
    plain = training_loader(prepared, recipe, numerics=Numerics(device=device), workers=0)
    first = next(iter(plain.epoch(0)))
    plan = make_plan(
        network,
        first,
        make_optimizer=lambda trainee: optimizer_for(recipe, trainee),
        settings=settings,
        device=device,
        precision=recipe.precision,
        memory_format=recipe.memory_format,
        threads=recipe.threads,
        winograd=recipe.winograd,
        amx=recipe.amx,
        batch_path=dataset.storage,
        allocator=keep_pages(),
        steps=plain.steps * recipe.epochs,
        kernels=kernels,
    )
    if recipe.checkpoint_every:
        plan = dataclasses.replace(plan, checkpoint_every=recipe.checkpoint_every)
    tried = _WORKERS_TRIED if recipe.workers < 0 else (recipe.workers,)
    return _plan_workers(plan, prepared, recipe, network, settings, tried)


def _plan_workers(
    plan: Plan,
    prepared: Prepared,
    recipe: Recipe,
    network: nn.Module,
    settings: StepSettings,
    tried: tuple[int, ...],
) -> Plan:
    """Train a copy end to end for a moment with each number of batch threads."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    numerics = plan.numerics
    trainee = copy.deepcopy(network).to(plan.device)
    trainee = trainee.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
    arrange(trainee.train(), fused=plan.fused, winograd=plan.winograd, amx=plan.amx)
    optimizer = optimizer_for(recipe, trainee)
    rates: dict[int, float] = {}
    run_seconds = recipe.epochs * len(prepared.dataset.split_rows("train")) / plan.images_per_second
    seconds = measuring_seconds(run_seconds) / 6
    batch_seconds = step_seconds = 0.0
    for workers in tried:
        loader = training_loader(prepared, recipe, numerics=numerics, workers=workers)
        images, start = 0, time.perf_counter()
        before = start
        for batch in loader.epoch(0):
            ready = time.perf_counter()
            accumulate_gradients(trainee, optimizer, batch, settings, numerics)
            optimizer.step()
            if workers == 0:
                batch_seconds, step_seconds = (
                    batch_seconds + ready - before,
                    step_seconds + time.perf_counter() - ready,
                )
            before = time.perf_counter()
            images += len(batch.y)
            if before - start > seconds:
                break
        rates[workers] = images / (time.perf_counter() - start)
        if workers == 0 and batch_seconds < _WORTH_AHEAD * step_seconds:
            break
    torch.set_num_threads(threads_before)
    return choose_workers(plan, rates, batch_seconds=batch_seconds, step_seconds=step_seconds)
