"""The Python door to the flows: `import convworks as cw`.

    run = cw.train("photos/", model="fastnet", epochs=10)
    run.best.accuracy, run.path
    cw.load(run.path).predict(["a.jpg"])

Everything here is a few lines over the flows; nothing is kept between calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from convworks.bundle import load_bundle
from convworks.data.dataset import Dataset
from convworks.data.manifest import Manifest
from convworks.data.preprocess import Preprocess
from convworks.durable import read_json
from convworks.environment import cache_folder, data_root, is_offline
from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Metrics
from convworks.flows.evaluate import EvaluateRequest, Evaluation
from convworks.flows.evaluate import evaluate as evaluate_flow
from convworks.flows.events import Event, Stopped
from convworks.flows.learning_rate import RateRequest, RateTest, find_rate
from convworks.flows.plan_report import plan
from convworks.flows.predict import Predictor, load
from convworks.flows.prepare import (
    DataRequest,
    Prepared,
    optimizer_for,
    prepare_data,
    schedule_for,
    step_settings,
    training_loader,
)
from convworks.flows.repeat import Kind, Repeated, RepeatRequest, repeat
from convworks.flows.several import Ensemble, compare
from convworks.flows.shortcuts import advise, features, probe
from convworks.flows.train import ResumeRequest, TrainRequest
from convworks.flows.train import resume as resume_flow
from convworks.flows.train import train as train_flow
from convworks.recipes.defaults import recipe, resolve_named
from convworks.recipes.recipe import AugmentSpec, Recipe
from convworks.recipes.resolve import Resolved, resolve
from convworks.training.loop import Numerics, Position, Step, train_epoch
from convworks.training.loss import targets
from convworks.weights.int8 import load_int8

__all__ = [
    "Data",
    "Ensemble",
    "TrainedRun",
    "advise",
    "compare",
    "features",
    "find_lr",
    "fit",
    "load",
    "load_int8",
    "plan",
    "probe",
    "recipe",
    "resume",
    "train",
    "train_many",
]

_SHORT = {"lr": "optimizer.lr", "momentum": "optimizer.momentum", "weight_decay": "optimizer.weight_decay"}


@dataclass(frozen=True, slots=True)
class Best:
    """The kept epoch's result."""

    accuracy: float
    ci95: tuple[float, float]
    balanced_accuracy: float
    split: str
    epoch: int


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished run folder."""

    path: Path

    @property
    def best(self) -> Best:
        """Result of the kept weights, on test images where there were some, else on validation images."""
        info = load_bundle(self.path).info
        metrics = Metrics.from_dict(info["metrics"])
        return Best(metrics.top1, metrics.top1_ci, metrics.balanced_accuracy, info["split"], info["epoch"])

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def recipe(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.path / "recipe.json")["recipe"]
        return found

    def load(self) -> Predictor:
        return load(self.path)

    def evaluate(self, data: str | Path, *, split: str | None = None, **options: Any) -> Evaluation:
        """Metrics on labelled data; classes are matched by name. `options` are those of EvaluateRequest."""
        request = _data_request(data, cache=None)
        return evaluate_flow(EvaluateRequest(model=self.path, data=request, split=split, **options))


def _data_request(location: str | Path, *, cache: Path | None) -> DataRequest:
    """Data as the command line would find it: its folders come from the environment."""
    return DataRequest(
        location=str(location),
        cache=cache_folder(cache),
        data_root=data_root(None),
        offline=is_offline(False),
    )


def _resolved(*, model: str | None, named: str | Recipe | None, settings: Mapping[str, Any]) -> Resolved:
    values = {_SHORT.get(key, key.replace("__", ".")): value for key, value in settings.items()}
    if model is not None:
        values["model"] = model
    if isinstance(named, Recipe):
        return resolve(base=named, base_name="given", flags=values)
    return resolve_named(named, flags=values)


def train(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | Recipe | None = None,
    out: str | Path = "runs",
    name: str | None = None,
    cache: str | Path | None = None,
    root: str | Path | None = None,
    fresh: bool = False,
    **settings: Any,
) -> TrainedRun:
    """Train on a folder of class folders, an archive, a CSV file or a named data set.

    `root` is the folder of named data sets, and `cache` that of prepared images (else the environment's).
    `settings` are those of a recipe: epochs=5, lr=0.1, augment__flip=True. A stopped run with the same
    settings is continued. Returns the finished run. Raises ConvworksError.
    """
    request = TrainRequest(
        data=DataRequest(
            location=str(data),
            cache=Path(cache) if cache is not None else cache_folder(None),
            data_root=data_root(Path(root) if root is not None else None),
            offline=is_offline(False),
        ),
        resolved=_resolved(model=model, named=recipe, settings=settings),
        out=Path(out),
        name=name,
        fresh=fresh,
    )
    return TrainedRun(_last_run(train_flow(request)))


def train_many(
    data: str | Path,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    bagging: int | None = None,
    model: str | None = None,
    recipe: str | Recipe | None = None,
    out: str | Path = "runs",
    name: str | None = None,
    cache: str | Path | None = None,
    **settings: Any,
) -> Repeated:
    """`train` several times: with other seeds, on folds, or on bags; exactly one of the three is given.

    Raises U267 for none or several of them, and what `train` raises.
    """
    kinds: dict[Kind, int | None] = {"seeds": seeds, "folds": folds, "bags": bagging}
    given = [(kind, count) for kind, count in kinds.items() if count is not None]
    if len(given) != 1:
        raise ConvworksError("U267", "give one of seeds, folds and bagging", try_="seeds=5")
    base = TrainRequest(
        data=_data_request(data, cache=Path(cache) if cache is not None else None),
        resolved=_resolved(model=model, named=recipe, settings=settings),
        out=Path(out),
        name=name,
    )
    found: list[Repeated | None] = []

    def events() -> Iterator[Event]:
        found.append((yield from repeat(RepeatRequest(base=base, kind=given[0][0], count=given[0][1]))))

    _last_run(events())
    assert found[0] is not None
    return found[0]


def resume(run: str | Path, *, cache: str | Path | None = None) -> TrainedRun:
    """Continue a stopped run; it ends with the same bits as one that was never stopped."""
    where = Path(cache) if cache is not None else cache_folder(None)
    for _ in resume_flow(ResumeRequest(run=Path(run), cache=where)):
        pass
    return TrainedRun(Path(run))


def find_lr(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | Recipe | None = None,
    cache: str | Path | None = None,
    rates: tuple[float, float] = (1e-5, 10.0),
    steps: int = 100,
    **settings: Any,
) -> RateTest:
    """The range test of `convworks lr-find`: `setting` is the lr to train with, None where no loss fell."""
    asked = _data_request(data, cache=Path(cache) if cache is not None else None)
    resolved = _resolved(model=model, named=recipe, settings=settings)
    return find_rate(RateRequest(data=asked, resolved=resolved, low=rates[0], high=rates[1], steps=steps))


def _last_run(events: Iterator[Event]) -> Path:
    path: Path | None = None
    for event in events:
        path = getattr(event, "run", path)
        if isinstance(event, Stopped):
            raise ConvworksError(
                "R530", f"the run {event.run} was stopped", try_=f"convworks resume {event.run}"
            )
    assert path is not None
    return path


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
        resolved = _resolved(model=None, named=None, settings=values)
        where = Path(cache) if cache is not None else cache_folder(None)
        request = _data_request(location, cache=where)
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
        import dataclasses

        recipe = dataclasses.replace(self._recipe, batch=batch)
        loader = training_loader(self._prepared, recipe, numerics=Numerics(), workers=workers)
        return ((each.x, targets(each, classes=len(self.classes))) for each in loader.epoch(epoch))

    def show_batch(self, *, count: int = 36, epoch: int = 0, policy: AugmentSpec | None = None) -> Any:
        """A PIL image: `count` training images of all classes as the network sees them in that epoch."""
        import dataclasses

        from convworks.flows.augment import batch_sheet

        recipe = dataclasses.replace(self._recipe, augment=policy or self._recipe.augment)
        title = f"{self.manifest.name}, epoch {epoch}"
        return batch_sheet(self._prepared, recipe, count=count, epoch=epoch, title=title)

    def show_augment(
        self, *, count: int = 8, epochs: Sequence[int] = (0, 1, 2, 3), policy: AugmentSpec | None = None
    ) -> Any:
        """A PIL image, as `convworks augment` draws it: stored pictures and what epochs make of them."""
        import dataclasses

        from convworks.flows.augment import preview_of

        recipe = dataclasses.replace(self._recipe, augment=policy or self._recipe.augment)
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
