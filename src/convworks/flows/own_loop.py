"""Decoded data and the training loop's pieces, for programs with a loop of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from convworks.data.dataset import Dataset
from convworks.data.manifest import Manifest
from convworks.data.preprocess import Preprocess
from convworks.errors import ConvworksError
from convworks.evaluation.inference import predict_probabilities
from convworks.evaluation.metrics import Metrics, measure
from convworks.flows.prepare import (
    Prepared,
    average_for,
    evaluation_loader,
    optimizer_for,
    prepare_data,
    schedule_for,
    step_settings,
    training_loader,
)
from convworks.flows.session_state import Best
from convworks.flows.shortcuts import asked_recipe, data_request
from convworks.recipes.recipe import AugmentSpec, Recipe
from convworks.training.loop import Average, Numerics, Position, Step, train_epoch
from convworks.training.loss import targets
from convworks.training.schedule import Plateau
from convworks.training.transfer import StagedUnfreezing, fixed_parameters, resting_after


class _Part(TorchDataset[tuple[Tensor, int]]):
    """One split as an ordinary torch Dataset: (x, y) with x float (C, H, W), without augmentation."""

    def __init__(
        self, images: Tensor, labels: Tensor, rows: NDArray[np.int64], preprocess: Preprocess
    ) -> None:
        self.images, self.labels, self.rows, self.preprocess = images, labels, rows, preprocess

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = int(self.rows[range(len(self.rows))[index]])
        x = self.preprocess.to_input(
            self.images[row : row + 1],
            dtype=torch.float32,
            memory_format=torch.contiguous_format,
            device="cpu",
        )
        return x[0], int(self.labels[row])


class Data:
    """Decoded, split and normalised images, for loops of your own."""

    def __init__(self, prepared: Prepared, recipe: Recipe) -> None:
        self._prepared, self._recipe = prepared, recipe

    @classmethod
    def from_folder(
        cls,
        location: str | Path,
        *,
        size: int | None = None,
        cache: str | Path | None = None,
        **settings: Any,
    ) -> Data:
        """Open anything that `train` takes. Raises D-errors as it does."""
        values = {"seed": 0, **settings, **({"size": size} if size is not None else {})}
        resolved = asked_recipe(model=None, named=None, settings=values)
        request = data_request(location, cache)
        prepared = prepare_data(
            request, resolved.recipe, expected=None, geometry=None, should_stop=lambda: False
        )
        return cls(prepared, resolved.recipe)

    @property
    def classes(self) -> tuple[str, ...]:
        return self._prepared.dataset.classes

    @property
    def manifest(self) -> Manifest:
        return self._prepared.dataset.manifest

    @property
    def dataset(self) -> Dataset:
        return self._prepared.dataset

    @property
    def preprocess(self) -> Preprocess:
        return self._prepared.preprocess

    def _part(self, split: str) -> _Part:
        dataset = self._prepared.dataset
        return _Part(dataset.images, dataset.labels, dataset.split_rows(split), self.preprocess)

    @property
    def train(self) -> TorchDataset[tuple[Tensor, int]]:
        return self._part("train")

    @property
    def val(self) -> TorchDataset[tuple[Tensor, int]]:
        return self._part("val")

    @property
    def test(self) -> TorchDataset[tuple[Tensor, int]]:
        return self._part("test")

    def loader(
        self, *, batch: int = 128, epoch: int = 0, workers: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented training batches (x, y) of one epoch: a function of (seed, epoch, image).

        y is (B,) class numbers; with mixup or CutMix it is (B, K) shares of the classes, float32, which
        torch.nn.functional.cross_entropy takes as they are.
        """
        recipe = replace(self._recipe, batch=batch)
        loader = training_loader(self._prepared, recipe, numerics=Numerics(), workers=workers)
        return ((each.x, targets(each, classes=len(self.classes))) for each in loader.epoch(epoch))

    def show_batch(self, *, count: int = 36, epoch: int = 0, policy: AugmentSpec | None = None) -> Any:
        """A PIL image: `count` training images of all classes as the network sees them in that epoch."""
        from convworks.flows.augment import batch_sheet

        recipe = replace(self._recipe, augment=policy or self._recipe.augment)
        title = f"{self.manifest.name}, epoch {epoch}"
        return batch_sheet(self._prepared, recipe, count=count, epoch=epoch, title=title)

    def show_augment(
        self, *, count: int = 8, epochs: Sequence[int] = (0, 1, 2, 3), policy: AugmentSpec | None = None
    ) -> Any:
        """A PIL image, as `convworks augment` draws it: stored pictures and what epochs make of them."""
        from convworks.flows.augment import preview_of

        recipe = replace(self._recipe, augment=policy or self._recipe.augment)
        found = preview_of(self._prepared, recipe, count=count, epochs=epochs)
        return found.sheet(self.manifest.name)


def fit(
    network: nn.Module, data: Data, recipe: Recipe, *, numerics: Numerics | None = None
) -> Iterator[Step]:
    """Train your own network with our pieces: one yield after every optimizer step, and the loop is yours.

    An epoch ends as in a run: the network, or with `ema` its averaged weights, is evaluated on the validation
    images, and that moves a plateau on, stops early, and says which weights are the best. After the last step
    the network holds the weights that the recipe keeps; a loop that is left before that leaves it as the last
    step made it. The numbers are computed as `numerics` says, else as the recipe does where it names them.
    Raises U288 for a setting of the recipe that a network with weights of its own cannot have, and U289 where
    validation images are needed and there are none.
    """
    _require_possible(recipe, data)
    return _Fitting(network, data, recipe, numerics or _numerics(recipe, network)).steps()


def _require_possible(recipe: Recipe, data: Data) -> None:
    transfer = recipe.transfer
    wants = {
        f"initialize = {recipe.initialize}": recipe.initialize != "network",
        "pretrained": recipe.pretrained is not None,
        "init": recipe.init is not None,
        "transfer.freeze = backbone": transfer.freeze != "none",
        "transfer.quantize = int8": transfer.quantize != "none",
    }
    for setting, wanted in wants.items():
        if wanted:
            key = setting.partition(" ")[0]
            raise ConvworksError(
                "U288",
                f"fit cannot use {setting}",
                why="the network is yours, with the weights that it has; train makes them as the recipe says",
                try_=f"convworks.train(DATA, recipe=recipe), or a recipe without {key}",
            )
    judges = {"early_stopping": recipe.early_stopping is not None, "plateau": _drops(recipe)}
    for setting, wanted in judges.items():
        if wanted and not len(data.dataset.split_rows("val")):
            raise ConvworksError(
                "U289",
                f"{setting} needs validation images, and {data.manifest.name} has none",
                why="both go by the validation accuracy after each epoch",
                try_="Data.from_folder(FOLDER, val_fraction=0.2)",
            )


def _drops(recipe: Recipe) -> bool:
    return recipe.schedule.name == "plateau" and recipe.schedule.max_drops > 0


def _numerics(recipe: Recipe, network: nn.Module) -> Numerics:
    """What the recipe fixes, on the device of the network."""
    device = next((str(each.device) for each in network.parameters()), "cpu")
    precision = "fp32" if recipe.precision == "auto" else recipe.precision
    layout = "contiguous" if recipe.memory_format == "auto" else recipe.memory_format
    return Numerics(precision, layout, device)


class _Fitting:
    """A network, its recipe, and what goes on from epoch to epoch."""

    def __init__(self, network: nn.Module, data: Data, recipe: Recipe, numerics: Numerics) -> None:
        self.network, self.data, self.recipe, self.numerics = network, data, recipe, numerics
        self.workers = max(recipe.workers, 0)
        self.position, self.best = Position(), Best()
        spec = recipe.schedule
        self.plateau = Plateau(spec.patience, spec.max_drops if _drops(recipe) else 0, spec.factor)
        self.kept: dict[str, Tensor] | None = None  # the best epoch's weights

    def steps(self) -> Iterator[Step]:
        recipe, data, network, position = self.recipe, self.data, self.network, self.position
        dataset = data.dataset
        loader = training_loader(data._prepared, recipe, numerics=self.numerics, workers=self.workers)
        labels = dataset.labels[torch.from_numpy(dataset.split_rows("train"))]
        settings = step_settings(recipe, labels, len(data.classes), self.numerics.device)
        optimizer = optimizer_for(recipe, network)
        average = average_for(recipe, network, loader.steps)
        every = recipe.transfer.unfreeze
        thaw = StagedUnfreezing(network, every=every, fixed=fixed_parameters(network)) if every else None
        begin = resting_after(
            network, recipe.transfer.freeze_after, None if thaw is None else thaw.begin_epoch
        )
        schedule, judged = schedule_for(recipe, loader.steps), self._judged
        while position.epoch < recipe.epochs and not self._waited_enough:
            drop = self.plateau.multiplier
            yield from train_epoch(
                network,
                loader,
                optimizer,
                position=position,
                schedule=lambda step, drop=drop: schedule(step) * drop,  # type: ignore[misc]
                settings=settings,
                numerics=self.numerics,
                average=average,
                before_epoch=begin,
            )
            if judged:
                self._end_epoch(average)
            position.next_epoch()
        last = None if average is None else average.average
        self._load(self.kept or last)

    @property
    def _judged(self) -> bool:
        """Whether anything goes by the validation images, and there are some."""
        wanted = self.recipe.keep == "best" or self.recipe.early_stopping is not None or _drops(self.recipe)
        return wanted and len(self.data.dataset.split_rows("val")) > 0

    @property
    def _waited_enough(self) -> bool:
        patience = self.recipe.early_stopping
        return patience is not None and self.best.waited >= patience

    def _end_epoch(self, average: Average | None) -> None:
        """Evaluate, keep the best weights, move the plateau on."""
        metrics, position, keep = self._evaluate(average), self.position, self.recipe.keep
        self.best, better = self.best.after(metrics, epoch=position.epoch, step=position.step, keep=keep)
        if better and keep == "best":
            self.kept = _copied(self.network.state_dict() if average is None else average.average)
        self.plateau = self.plateau.after_epoch(metrics.top1)

    def _evaluate(self, average: Average | None) -> Metrics:
        """Metrics on the validation images; the network ends with the weights that it came with."""
        network, dataset = self.network, self.data.dataset
        rows = dataset.split_rows("val")
        loader = evaluation_loader(
            dataset.images,
            dataset.labels,
            rows,
            self.data.preprocess,
            batch=self.recipe.batch,
            numerics=self.numerics,
            workers=self.workers,
        )
        training = None if average is None else _copied(network.state_dict())
        if average is not None:
            self._load(average.average)
        try:
            probabilities = predict_probabilities(network.eval(), loader, self.numerics)
        finally:
            self._load(training)
        return measure(probabilities, dataset.labels.numpy()[rows], dataset.classes)

    @torch.no_grad()
    def _load(self, weights: dict[str, Tensor] | None) -> None:
        if weights is not None:
            for name, value in self.network.state_dict().items():
                value.copy_(weights[name])


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
