"""Evaluate a model on data: probabilities for each image, metrics with intervals, classes by name."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convworks.bundle import Bundle, is_ensemble, load_bundle, manifest_of
from convworks.data.dataset import Dataset, build_evaluation_set
from convworks.data.decode import decode
from convworks.data.manifest import OK, SPLITS, Manifest, Sample
from convworks.data.sources import Entry, Source, shown
from convworks.errors import ConvworksError
from convworks.evaluation.averaging import average
from convworks.evaluation.dense import fully_convolutional, takes_any_size
from convworks.evaluation.inference import predict_probabilities, predict_views
from convworks.evaluation.metrics import Metrics, measure
from convworks.evaluation.protocols import Protocol, leaves, resolve
from convworks.flows.prepare import DataRequest, evaluation_loader
from convworks.flows.session import StopRequest
from convworks.training.allocator import keep_pages
from convworks.training.loop import Numerics
from convworks.training.planner import usable_cpus

BATCH = 128  # images in one forward pass


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """A model, data, which part of the data, and which views of each image."""

    model: Path
    data: DataRequest
    split: str | None = None  # test where there is one, else val, else all
    ignore_classes: tuple[str, ...] = ()
    skip_unreadable: bool = False
    protocol: str = "centre"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What came out. Rows of `probabilities` (N, K) and `labels` (N,) belong to `paths`."""

    metrics: Metrics
    classes: tuple[str, ...]
    paths: Sequence[str]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    split: str
    left_out: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    seconds: float
    protocol: str = "centre"

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.metrics.to_dict(),
            "split": self.split,
            "protocol": self.protocol,
            "left_out": [list(each) for each in self.left_out],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """The images to evaluate, in the pixel store and in their source, which is open."""

    source: Source
    dataset: Dataset
    rows: NDArray[np.int64]  # (N,) of the data set
    places: Sequence[int]  # (N,) of the source
    split: str
    trained_on: int = 0

    @property
    def samples(self) -> list[Sample]:
        return [self.dataset.manifest.samples[int(self.dataset.rows[int(row)])] for row in self.rows]

    @property
    def labels(self) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = self.dataset.labels.numpy()[self.rows]
        return labels

    @property
    def paths(self) -> list[str]:
        return [sample.path for sample in self.samples]

    @property
    def warnings(self) -> tuple[str, ...]:
        dataset = self.dataset
        return (
            *_honesty(self.trained_on, len(self.rows)),
            *dataset.manifest.warnings,
            *dataset.notices,
        )

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        return tuple((sample.path, sample.verdict) for sample in self.dataset.manifest.left_out)

    def read(self, number: int) -> NDArray[np.uint8]:
        """The decoded pixels (H, W, C) of one of the N images. Raises A472 where it is another file now."""
        place = self.places[number]
        if self.source.array is not None:
            return self.source.pixels(place)
        content = self.source.read(place)
        sample = self.dataset.manifest.samples[int(self.dataset.rows[int(self.rows[number])])]
        if hashlib.sha256(content).hexdigest() != sample.sha256:
            raise ConvworksError(
                "A472",
                f"'{shown(sample.path)}' changed while it was being evaluated",
                where=shown(self.source.location),
                why="the views of an image must be views of the image that was checked",
                try_="evaluate again when nothing writes into the data",
            )
        return decode(content, name=sample.path).pixels


def numerics_of(bundle: Bundle) -> Numerics:
    """The arithmetic that the model was validated with."""
    return Numerics(bundle.precision, str(bundle.info.get("memory_format", "contiguous")))


@dataclass(slots=True, eq=False)
class Evaluator:
    """One network, ready for any protocol."""

    network: nn.Module
    preprocess: Any  # Preprocess
    numerics: Numerics
    name: str  # of the architecture, for messages
    threads: int = 1
    _dense: dict[str, nn.Module] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Bundle) -> Evaluator:
        numerics = numerics_of(bundle)
        network = bundle.network.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
        name = str(bundle.info["model"])
        return cls(network, bundle.preprocess, numerics, name, threads=usable_cpus())

    @property
    def shape(self) -> tuple[int, int, int]:
        geometry = self.preprocess.geometry
        return geometry.channels, geometry.height, geometry.width

    def network_for(self, protocol: Protocol) -> nn.Module:
        """The network as a protocol needs it. Raises U250 and U255, with the protocols that do work."""
        if protocol.dense:
            if "dense" not in self._dense:
                self._dense["dense"] = fully_convolutional(self.network, self.shape, name=self.name)
            return self._dense["dense"]
        if protocol.layout == "whole" and "any" not in self._dense:
            if not takes_any_size(self.network, self.shape):
                raise ConvworksError(
                    "U255",
                    f"{self.name} cannot see whole images: it takes {self.shape[1]}x{self.shape[2]} only",
                    why=f"protocol '{protocol.name}' is for networks with global pooling",
                    try_="--protocol vgg-dense",
                )
            self._dense["any"] = self.network
        return self.network

    def require(self, protocols: Sequence[Protocol]) -> None:
        """Whether the network can do all of them, before anything is computed. Raises U250 and U255."""
        for protocol in leaves(protocols):
            self.network_for(protocol)

    def probabilities(
        self, images: Images, protocol: Protocol, should_stop: StopRequest = lambda: False
    ) -> NDArray[np.float32]:
        """(N, K) of the images under a protocol. Raises StoppedEarlyError when asked to stop."""
        if protocol.parts:
            parts = {part.name: self.probabilities(images, part, should_stop) for part in leaves([protocol])}
            return average(parts).astype(np.float32)
        dataset = images.dataset
        if protocol.layout == "stored" and dataset.geometry == self.preprocess.geometry:
            loader = evaluation_loader(
                dataset.images,
                dataset.labels,
                images.rows,
                self.preprocess,
                batch=BATCH,
                numerics=self.numerics,
                workers=1,
            )
            return predict_probabilities(self.network, loader, self.numerics, should_stop=should_stop)
        return predict_views(
            self.network_for(protocol),
            images.read,
            range(len(images.rows)),
            protocol,
            self.preprocess,
            self.numerics,
            threads=self.threads,
            should_stop=should_stop,
        )


def evaluate(request: EvaluateRequest, *, should_stop: StopRequest = lambda: False) -> Evaluation:
    """Evaluate a run, a model or an ensemble on data that has labels.

    Data without splits may be asked for by the splits that the run drew from it. Images that the network was
    trained on are counted, and a warning says so. Raises D201 (a class that the model never saw), D202 (no
    such split), D149 (unreadable images, unless they are to be skipped), A41x (no model there, or a damaged
    one), U250 and U255 (a network that cannot do the protocol), StoppedEarlyError and ScanInterrupted when
    asked to stop.
    """
    keep_pages()
    if is_ensemble(request.model):
        from convworks.flows.evaluate_ensemble import evaluate_ensemble  # which evaluates its members here

        return evaluate_ensemble(request, should_stop=should_stop)
    start = time.perf_counter()
    protocol = resolve(request.protocol)
    bundle = load_bundle(request.model)
    evaluator = Evaluator.of(bundle)
    evaluator.require([protocol])
    with opened(request, bundle, should_stop) as images:
        probabilities = evaluator.probabilities(images, protocol, should_stop)
    return Evaluation(
        metrics=measure(probabilities, images.labels, bundle.classes),
        classes=bundle.classes,
        paths=images.paths,
        probabilities=probabilities,
        labels=images.labels,
        split=images.split,
        left_out=images.left_out,
        warnings=images.warnings,
        seconds=time.perf_counter() - start,
        protocol=protocol.name,
    )


@contextmanager
def opened(
    request: EvaluateRequest, bundle: Bundle, should_stop: StopRequest = lambda: False
) -> Generator[Images, None, None]:
    """The images that a request means, checked and in the pixel store of the model; the source stays open.

    Raises as `evaluate` does. Commands to try name the model that was asked for.
    """
    drawn = drawn_splits(bundle.path)
    with request.data.open() as source:
        own = any(entry.split is not None for entry in source.entries)
        by_run = not own and request.split in drawn.values()
        try:
            dataset = build_evaluation_set(
                source,
                geometry=bundle.preprocess.geometry,
                classes=bundle.classes,
                split="all" if by_run else request.split,
                ignore_classes=request.ignore_classes,
                skip_unreadable=request.skip_unreadable,
                cache=request.data.cache,
                threads=usable_cpus(),
                should_stop=should_stop,
            )
        except ConvworksError as problem:
            named = f"convworks eval {shlex.quote(str(request.model))} "
            raise problem.trying("convworks eval RUN ", named) from problem.__cause__
        samples = [dataset.manifest.samples[int(index)] for index in dataset.rows]
        met = [drawn.get(sample.pixels, "") for sample in samples]
        rows = np.flatnonzero([not by_run or split == request.split for split in met]).astype(np.int64)
        if not len(rows):
            raise ConvworksError(
                "D203",
                f"none of these images is of the run's split '{request.split}'",
                try_=f"convworks eval {request.model} {request.data.location} --split all",
            )
        places = places_of(dataset.manifest.samples, source.entries)
        yield Images(
            source=source,
            dataset=dataset,
            rows=rows,
            places=[places[int(dataset.rows[int(row)])] for row in rows],
            split=str(request.split) if by_run else _split_name(dataset.manifest.split_rule),
            trained_on=sum(met[int(row)] == "train" for row in rows),
        )


def places_of(samples: Sequence[Sample], entries: Sequence[Entry]) -> list[int]:
    """Where each sample stands among the entries of the source that it was read from, in the same order."""
    found, place = [], 0
    for sample in samples:
        while (entries[place].path, entries[place].label) != (sample.path, sample.label):
            place += 1
        found.append(place)
        place += 1
    return found


def drawn_splits(bundle: Path) -> dict[str, str]:
    """Hash of the pixels -> split, for the images of the bundle's own run; empty for a moved bundle."""
    file = manifest_of(bundle)
    if file is None:
        return {}
    return {sample.pixels: sample.split for sample in Manifest.load(file).samples if sample.verdict == OK}


def _split_name(rule: str) -> str:
    """'the test split as given' -> 'test'; 'all images' -> 'all'."""
    return next((name for name in SPLITS if f" {name} " in rule), "all")


def _honesty(trained_on: int, total: int) -> list[str]:
    if not trained_on:
        return []
    return [
        f"the network was trained on {trained_on:,} of these {total:,} images, so this figure says little "
        "about new ones"
    ]
