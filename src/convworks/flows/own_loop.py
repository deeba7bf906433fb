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
from convworks.flows.prepare import (
    Prepared,
    optimizer_for,
    prepare_data,
    schedule_for,
    step_settings,
    training_loader,
)
from convworks.flows.shortcuts import asked_recipe, data_request
from convworks.recipes.recipe import AugmentSpec, Recipe
from convworks.training.loop import Numerics, Position, Step, train_epoch
from convworks.training.loss import targets


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
    """Train your own network with our pieces: one yield after every optimizer step, and the loop is yours."""
    numerics = numerics or Numerics()
    loader = training_loader(data._prepared, recipe, numerics=numerics, workers=max(recipe.workers, 0))
    labels = data.dataset.labels[torch.from_numpy(data.dataset.split_rows("train"))]
    settings = step_settings(recipe, labels, len(data.classes), numerics.device)
    optimizer = optimizer_for(recipe, network)
    schedule = schedule_for(recipe, loader.steps)
    position = Position()
    while position.epoch < recipe.epochs:
        yield from train_epoch(
            network,
            loader,
            optimizer,
            position=position,
            schedule=schedule,
            settings=settings,
            numerics=numerics,
        )
        position.next_epoch()
