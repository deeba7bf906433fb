"""Training of which a part is at rest: a frozen backbone with stored features, or stages that join in time.

The session is the same one; only what it is given differs: the part that learns, its batches, and what
happens before an epoch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from convworks.errors import ConvworksError
from convworks.flows.events import Event, Note
from convworks.flows.feature_store import FeatureLoader, backbone_features
from convworks.flows.prepare import Prepared, optimizer_for
from convworks.flows.quantized import QuantizedSession
from convworks.flows.session import Session, StopRequest
from convworks.layers.fold import DROPOUTS
from convworks.recipes.recipe import AugmentSpec, Recipe, leaves
from convworks.recipes.resolve import Resolved
from convworks.runs import Run
from convworks.training.checkpoint import Checkpoint, load_into
from convworks.training.loop import StepSettings, accumulate_gradients
from convworks.training.optimizer import belongs
from convworks.training.planner import Plan
from convworks.training.transfer import (
    StagedUnfreezing,
    fixed_parameters,
    freeze_backbone,
    head_names,
    head_of,
    learning_stages,
    resting_after,
    stages,
)

CHECKPOINT_SECONDS = 30
_TRIAL_SECONDS, _TRIAL_STEPS = 0.3, 50


def require_consistent(recipe: Recipe) -> None:
    """Raises U232 where two settings exclude each other."""
    transfer = recipe.transfer
    frozen = transfer.freeze == "backbone"
    pairs = (
        (frozen and transfer.unfreeze > 0, "transfer.freeze = backbone", f"unfreeze = {transfer.unfreeze}",
         "--unfreeze alone begins with the last stage and frees the others later", "--freeze none"),
        (frozen and transfer.quantize != "none", "transfer.freeze = backbone", "quantize = int8",
         "features are stored once, and rounding would change them in every step", "--freeze none"),
        (recipe.pretrained is not None and recipe.init is not None, "pretrained", "init",
         "both say what the weights begin with", "--pretrained for the same network, --init for another"),
    )  # fmt: skip
    for both, first, second, why, way in pairs:
        if both:
            raise ConvworksError("U232", f"{first} and {second} exclude each other", why=why, try_=way)


def fitted(resolved: Resolved) -> tuple[Resolved, list[Note]]:
    """The recipe as it can be carried out, and a note on what was switched off for it. Raises U232.

    For a frozen backbone everything is off that would change its features from epoch to epoch.
    """
    recipe = resolved.recipe
    require_consistent(recipe)
    quiet = without_chance(recipe)
    if quiet == recipe:
        return resolved, []
    off = ["augmentation"] if recipe.augment != quiet.augment else []
    off += ["noise and stochastic depth"] if recipe.regularize != quiet.regularize else []
    changed = {key for key, value in leaves(quiet) if dict(leaves(recipe))[key] != value}
    note = f"{' and '.join(off)} off: the frozen backbone sees every image once, for all epochs"
    sources = {**resolved.sources, **dict.fromkeys(changed, "auto, for a frozen backbone")}
    return replace(resolved, recipe=quiet, sources=sources), [Note(note)]


def without_chance(recipe: Recipe) -> Recipe:
    """The recipe without what would change the features of a frozen backbone from epoch to epoch."""
    if recipe.transfer.freeze != "backbone":
        return recipe
    still = replace(recipe.regularize, noise=0.0, stochastic_depth=0.0)
    return replace(recipe, augment=AugmentSpec(), regularize=still)


def new_session(
    run: Run,
    recipe: Recipe,
    prepared: Prepared,
    network: nn.Module,
    plan: Plan,
    manifest: str,
    checkpoint: Checkpoint | None,
    cache: Path | None,
    should_stop: StopRequest,
) -> Generator[Event, None, Session]:
    """The session that `recipe.transfer` asks for, not yet begun or restored.

    Raises U230, U231 (a network that cannot be frozen so), R521, and FeaturesInterruptedError where it was
    asked to stop before the features were complete.
    """
    if recipe.transfer.freeze == "backbone":
        return (
            yield from _frozen(run, recipe, prepared, network, plan, manifest, checkpoint, cache, should_stop)
        )
    begin: Callable[[int], None] | None = None
    if recipe.transfer.unfreeze:
        yield from _told(recipe, network)
        fixed = fixed_parameters(network)
        begin = StagedUnfreezing(network, every=recipe.transfer.unfreeze, fixed=fixed).begin_epoch
    begin = resting_after(network, recipe.transfer.freeze_after, begin)
    given: dict[str, Any] = {"manifest": manifest, "before_epoch": begin}
    if recipe.transfer.quantize == "int8":
        return QuantizedSession(run, recipe, prepared, network, plan, **given).attach()
    return Session(run, recipe, prepared, network, plan, **given)


def _told(recipe: Recipe, network: nn.Module) -> Iterator[Note]:
    names, every = stages(network), recipe.transfer.unfreeze
    learning = learning_stages(len(names), every=every, epoch=recipe.epochs - 1)
    each = "epoch" if every == 1 else f"{every} epochs"
    text = f"{names[-1]} learns first, one stage more after every {each}"
    if learning < len(names):
        resting = names[: len(names) - learning]
        text += f"; {', '.join(resting)} never in {recipe.epochs} epochs"
    yield Note(text)


def _frozen(
    run: Run,
    recipe: Recipe,
    prepared: Prepared,
    network: nn.Module,
    plan: Plan,
    manifest: str,
    checkpoint: Checkpoint | None,
    cache: Path | None,
    should_stop: StopRequest,
) -> Generator[Event, None, Session]:
    """Features of the training and validation images once, then a session of the head alone."""
    recipe, dataset, numerics = without_chance(recipe), prepared.dataset, plan.numerics
    if recipe.pretrained is None and recipe.init is None:
        yield Note(
            "the frozen backbone has random weights: neither --pretrained nor --init was given",
            level="warning",
        )
    freeze_backbone(network)
    network = network.to(plan.device)
    network = network.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
    if checkpoint is not None:  # the weights that the features follow from
        load_into(network.state_dict(), checkpoint.tensors["network"], where=checkpoint.path)
    train, val = dataset.split_rows("train"), dataset.split_rows("val")
    features = yield from backbone_features(
        network,
        dataset,
        prepared.preprocess,
        np.concatenate([train, val]),
        numerics=numerics,
        batch=recipe.batch,
        workers=plan.workers,
        cache=cache,
        should_stop=should_stop,
    )

    def loader(rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]], *, shuffle: bool) -> FeatureLoader:
        return FeatureLoader(
            features,
            dataset.labels.numpy(),
            rows,
            batch=recipe.batch,
            seed=recipe.seed,
            shuffle=shuffle,
            device=plan.device,
        )

    recipe, training = of_the_head(recipe, network), loader(train, shuffle=True)
    return Session(
        run,
        recipe,
        prepared,
        network,
        _head_plan(plan, recipe, network, training),
        manifest=manifest,
        trainee=head_of(network),
        loader=training,
        validation=loader(val, shuffle=False),
        before_epoch=resting_after(network, recipe.transfer.freeze_after),
    )


def of_the_head(recipe: Recipe, network: nn.Module) -> Recipe:
    """The recipe without what concerns frozen layers alone: their decay and rates, dropout without any."""
    heads = head_names(network)

    def acting(parts: Mapping[str, float]) -> dict[str, float]:
        """Parts that hold the head or lie in it."""
        return {
            part: value
            for part, value in parts.items()
            if any(belongs(head, part) or belongs(part, head) for head in heads)
        }

    spec = recipe.optimizer
    drops = any(isinstance(module, DROPOUTS) for module in head_of(network).modules())
    return replace(
        recipe,
        optimizer=replace(spec, group_decay=acting(spec.group_decay), group_rate=acting(spec.group_rate)),
        regularize=recipe.regularize if drops else replace(recipe.regularize, dropout=None),
    )


def _head_plan(plan: Plan, recipe: Recipe, network: nn.Module, training: FeatureLoader) -> Plan:
    """The plan with the head's own speed, tried on a copy; checkpoints as rarely as that allows."""
    settings = StepSettings(seed=recipe.seed, lr=recipe.optimizer.lr, accumulate=recipe.accumulate)
    head = head_of(copy.deepcopy(network)).train()
    optimizer = optimizer_for(recipe, head)
    start, images, seconds = time.perf_counter(), 0, 0.0
    with torch.random.fork_rng(devices=[]):
        for number, batch in enumerate(training.epoch(0)):
            accumulate_gradients(head, optimizer, batch, settings, plan.numerics)
            optimizer.step()
            images, seconds = images + len(batch.y), time.perf_counter() - start
            if seconds > _TRIAL_SECONDS or number >= _TRIAL_STEPS:
                break
    rate = images / max(seconds, 1e-9)
    every = recipe.checkpoint_every or max(
        plan.checkpoint_every, round(CHECKPOINT_SECONDS * rate / recipe.batch)
    )
    return replace(plan, images_per_second=rate, checkpoint_every=every)
