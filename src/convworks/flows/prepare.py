"""What a training needs before its first step: the data as pixels, the preprocessing, the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from convworks import models
from convworks.data import named
from convworks.data.augment import Augment
from convworks.data.dataset import Dataset, build_dataset
from convworks.data.loader import Loader
from convworks.data.manifest import Manifest
from convworks.data.partition import WHOLE, Partition, partition_from_dict
from convworks.data.preprocess import Geometry, Preprocess
from convworks.data.sources import Source, open_source
from convworks.data.store import Probe, probe
from convworks.errors import ConvworksError
from convworks.garbage import no_search_for_cycles
from convworks.randomness import derive_seed
from convworks.recipes.recipe import AugmentSpec, Recipe
from convworks.training.ema import WeightAverage
from convworks.training.lookahead import Lookahead
from convworks.training.loop import Average, Numerics, StepSettings
from convworks.training.loss import balanced_weights
from convworks.training.optimizer import make_optimizer
from convworks.training.planner import usable_cpus
from convworks.training.regularizers import Regularizers
from convworks.training.schedule import Schedule, make_schedule, scaled_rate
from convworks.training.transfer import lr_scales

PHOTO_SIZE = 64  # pixels a side for photographs, where neither recipe nor model says more


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    """Where the images are, and how to read them. Environment variables were read by the command line."""

    location: str
    cache: Path
    data_root: Path | None = None
    labels: Path | None = None
    offline: bool = False
    keep_empty: bool = False
    strict: bool = False
    partition: Partition = WHOLE

    def open(self) -> Source:
        return open_source(
            self.location,
            data_root=self.data_root,
            labels=self.labels,
            keep_empty=self.keep_empty,
            cache=self.cache,
            offline=self.offline,
        )

    def pending_download(self) -> str:
        """What opening would download, in words; '' where nothing is missing or the network is not used."""
        if self.offline or Path(self.location).exists() or self.location not in named.names():
            return ""
        try:
            named.find_named(self.location, data_root=self.data_root, cache=self.cache, offline=True)
        except ConvworksError as problem:
            size = named.info(self.location).size
            return f"downloading {self.location} ({size / 1e6:.1f} MB)" if problem.code == "D161" else ""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """For the run's record. A path is kept absolute, so that resuming works from any folder."""
        location = self.location
        if Path(location).exists():
            location = str(Path(location).absolute())
        paths = {
            key: str(value.absolute()) for key in ("data_root", "labels") if (value := getattr(self, key))
        }
        parts = {"partition": self.partition.to_dict()} if self.partition != WHOLE else {}
        return {"location": location, "keep_empty": self.keep_empty, "strict": self.strict, **paths, **parts}


def request_from_dict(value: dict[str, Any], *, cache: Path, offline: bool) -> DataRequest:
    """The data of a run's record. Raises A401 where it is damaged."""
    try:
        return DataRequest(
            location=str(value["location"]),
            cache=cache,
            data_root=Path(value["data_root"]) if "data_root" in value else None,
            labels=Path(value["labels"]) if "labels" in value else None,
            offline=offline,
            keep_empty=bool(value["keep_empty"]),
            strict=bool(value["strict"]),
            partition=partition_from_dict(value.get("partition", {})),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise ConvworksError("A401", f"recipe.json does not say where the data is: {problem}") from problem


def _accepts(recipe: Recipe, size: int, channels: int) -> bool:
    try:
        with torch.random.fork_rng(devices=[]):
            models.create(
                recipe.model,
                num_classes=2,
                in_channels=channels,
                input_size=(size, size),
                **recipe.model_options,
            )
    except ConvworksError:
        return False
    return True


def choose_geometry(recipe: Recipe, found: Probe) -> Geometry:
    """The network's input for these images: the recipe's size, else their own, else the model's.

    Images of one square size are kept as they are or padded (MNIST's 28 pixels in LeNet-5's 32) where the
    model takes that; photographs have their sides cut (lectures, data preparation).
    """
    published = models.info(recipe.model).input_size[0]
    square = found.size is not None and found.size[0] == found.size[1]
    native = min(found.size or found.median_size)
    own = native if square and native <= PHOTO_SIZE else max(PHOTO_SIZE, published)
    size = recipe.size or next(
        (s for s in (own, published) if _accepts(recipe, s, found.channels)), published
    )
    stored = recipe.stored or stored_side(recipe.augment, size=size, native=native)
    if stored < size:
        raise ConvworksError(
            "U113",
            f"images are kept at {stored} pixels, which is less than the network's input of {size}",
            try_=f"--set stored={size}",
        )
    fit: Literal["crop", "squash", "pad"]
    if recipe.fit != "auto":
        fit = recipe.fit
    elif square and 0.75 * stored <= native <= stored:
        fit = "pad"
    else:
        fit = "squash" if square else "crop"
    return Geometry(size, size, 1 if found.channels == 1 else 3, fit, stored, stored)


def stored_side(augment: AugmentSpec, *, size: int, native: int) -> int:
    """At which side images are kept where the recipe does not say: larger than the input for random scales.

    The centre of it is what the network sees at evaluation, so it is also the scale of the test. With a scale
    jitter it is the middle of the range, 384 for [256, 512] (VGG's Q, section 3.2); with crops by area 8/7 of
    the input, 256 for 224. Never more than the images have.
    """
    wanted = size
    if augment.scale_jitter is not None:
        wanted = sum(augment.scale_jitter) // 2
    elif augment.area is not None:
        wanted = size * 8 // 7
    return max(size, min(wanted, native))


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Data in memory, its preprocessing, how long that took, and where the images themselves are."""

    dataset: Dataset
    preprocess: Preprocess
    seconds: float
    request: DataRequest


def prepare_data(
    request: DataRequest,
    recipe: Recipe,
    *,
    expected: Manifest | None,
    geometry: Geometry | None,
    accept_changes: bool = False,
    should_stop: Callable[[], bool],
) -> Prepared:
    """Open, decode and split the images, and fit the preprocessing on the training part.

    `expected` and `geometry` are those of a run that is resumed. Raises D-errors, or D145 where the images
    are not the expected ones.
    """
    start = time.perf_counter()
    with no_search_for_cycles(), request.open() as source:
        dataset = build_dataset(
            source,
            geometry=geometry or choose_geometry(recipe, probe(source)),
            seed=recipe.seed if request.partition.seed is None else request.partition.seed,
            val_fraction=recipe.val_fraction,
            partition=request.partition,
            cache=request.cache,
            threads=usable_cpus(),
            strict=request.strict,
            should_stop=should_stop,
            expected=expected,
            accept_changes=accept_changes,
        )
    preprocess = Preprocess.fit(
        dataset.images,
        dataset.split_rows("train"),
        geometry=dataset.geometry,
        normalize=recipe.normalize,
    )
    return Prepared(dataset, preprocess, time.perf_counter() - start, request)


def build_network(recipe: Recipe, classes: int, geometry: Geometry) -> nn.Module:
    """The recipe's network with its initial weights, which depend on the seed alone.

    Its dropout probabilities and the survival of its residual branches are the recipe's. Raises U21x where
    `regularize` has nothing in this network to act on.
    """
    torch.manual_seed(derive_seed(recipe.seed, "initialize"))
    network = models.create(
        recipe.model,
        num_classes=classes,
        in_channels=geometry.channels,
        input_size=(geometry.height, geometry.width),
        **recipe.model_options,
    )
    regularizers(recipe).prepare(network)
    return network


def optimizer_for(recipe: Recipe, network: nn.Module) -> Optimizer:
    spec = recipe.optimizer
    by_stage = lr_scales(network, spec.layer_decay) if spec.layer_decay < 1 else {}
    return make_optimizer(
        spec.name,
        network,
        lr=top_rate(recipe),
        momentum=spec.momentum,
        beta2=spec.beta2,
        weight_decay=spec.weight_decay,
        decay_norm_and_bias=spec.decay_norm_and_bias,
        group_decay=spec.group_decay,
        lr_scales={**by_stage, **spec.group_rate},
    )


def top_rate(recipe: Recipe) -> float:
    """The learning rate at the top of the schedule: `optimizer.lr`, scaled to the batch where the recipe says
    for which batch it is meant."""
    spec = recipe.optimizer
    return scaled_rate(spec.lr, batch=recipe.batch, reference_batch=spec.reference_batch)


def schedule_for(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The recipe's learning rate over its epochs, as a multiplier of the top rate for each step."""
    spec = recipe.schedule
    return make_schedule(
        spec.name,
        total_steps=recipe.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        warmup=spec.warmup,
        milestones=spec.milestones,
        factor=spec.factor,
        final=spec.final,
        every=spec.every,
        staircase=spec.staircase,
        cycle=spec.cycle,
        cycle_growth=spec.cycle_growth,
    )


def average_for(recipe: Recipe, network: nn.Module, steps_per_epoch: int) -> Average | None:
    """The weights that are evaluated and kept in place of those that the optimizer moves, where there are."""
    if recipe.ema is not None:
        return WeightAverage(network, recipe.ema)
    spec = recipe.lookahead
    if not spec.every:
        return None
    total = recipe.epochs * steps_per_epoch
    return Lookahead(network, every=spec.every, rate=spec.rate, growth=spec.growth, total=total)


def step_settings(recipe: Recipe, train_labels: Tensor, classes: int, device: str) -> StepSettings:
    weights = (
        balanced_weights(train_labels, classes).to(device) if recipe.class_weights == "balanced" else None
    )
    return StepSettings(
        seed=recipe.seed,
        lr=top_rate(recipe),
        accumulate=recipe.accumulate,
        label_smoothing=recipe.label_smoothing,
        class_weights=weights,
        clip_norm=recipe.clip_norm,
        regularizers=regularizers(recipe),
    )


def regularizers(recipe: Recipe) -> Regularizers:
    """The recipe's `regularize`, as the training loop takes it."""
    return Regularizers(**asdict(recipe.regularize))


def training_loader(prepared: Prepared, recipe: Recipe, *, numerics: Numerics, workers: int) -> Loader:
    """Batches of the training split, shuffled and augmented by (seed, epoch, index)."""
    return Loader(
        prepared.dataset.images,
        prepared.dataset.labels,
        prepared.dataset.split_rows("train"),
        prepared.preprocess,
        batch=recipe.batch,
        seed=recipe.seed,
        augment=Augment(**asdict(recipe.augment)),
        shuffle=True,
        threads=workers,
        dtype=torch.float32,
        memory_format=numerics.torch_memory_format,
        device=numerics.device,
    )


def evaluation_loader(
    images: Tensor,
    labels: Tensor,
    rows: Any,
    preprocess: Preprocess,
    *,
    batch: int,
    numerics: Numerics,
    workers: int,
) -> Loader:
    """Batches in the order of `rows`: centre crops, nothing random."""
    return Loader(
        images,
        labels,
        rows,
        preprocess,
        batch=batch,
        seed=0,
        augment=None,
        shuffle=False,
        threads=workers,
        dtype=torch.float32,
        memory_format=numerics.torch_memory_format,
        device=numerics.device,
    )
