"""Evaluate a model on data: probabilities for each image, metrics with intervals, classes by name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.bundle import Bundle, load_bundle
from convworks.data.dataset import Dataset, build_evaluation_set
from convworks.data.manifest import OK, SPLITS, Manifest
from convworks.errors import ConvworksError
from convworks.evaluation.inference import predict_probabilities
from convworks.evaluation.metrics import Metrics, measure
from convworks.flows.prepare import DataRequest, evaluation_loader
from convworks.flows.session import StopRequest
from convworks.training.allocator import keep_pages
from convworks.training.loop import Numerics
from convworks.training.planner import usable_cpus

BATCH = 128  # images in one forward pass


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """A model, data, and which part of the data."""

    model: Path
    data: DataRequest
    split: str | None = None  # test where there is one, else val, else all
    ignore_classes: tuple[str, ...] = ()
    skip_unreadable: bool = False


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

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.metrics.to_dict(),
            "split": self.split,
            "left_out": [list(each) for each in self.left_out],
            "warnings": list(self.warnings),
        }


def numerics_of(bundle: Bundle) -> Numerics:
    """The arithmetic that the model was validated with."""
    return Numerics(bundle.precision, str(bundle.info.get("memory_format", "contiguous")))


def evaluate(request: EvaluateRequest, *, should_stop: StopRequest = lambda: False) -> Evaluation:
    """Evaluate a run or a model on data that has labels.

    Data without splits may be asked for by the splits that the run drew from it. Images that the network was
    trained on are counted, and a warning says so. Raises D201 (a class that the model never saw), D202 (no
    such split), D149 (unreadable images, unless they are to be skipped), A41x (no model there, or a damaged
    one), StoppedEarlyError and ScanInterrupted when asked to stop.
    """
    keep_pages()
    start = time.perf_counter()
    bundle = load_bundle(request.model)
    drawn = drawn_splits(bundle.path)
    with request.data.open() as source:
        own = any(entry.split is not None for entry in source.entries)
        by_run = not own and request.split in drawn.values()
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
    samples = [dataset.manifest.samples[int(index)] for index in dataset.rows]
    met = [drawn.get(sample.pixels, "") for sample in samples]
    rows = np.flatnonzero([not by_run or split == request.split for split in met]).astype(np.int64)
    if not len(rows):
        raise ConvworksError(
            "D203",
            f"none of these images is of the run's split '{request.split}'",
            try_=f"convworks eval {request.model} {request.data.location} --split all",
        )
    probabilities = _probabilities(bundle, dataset, rows, should_stop)
    labels = dataset.labels.numpy()[rows]
    trained_on = sum(met[int(row)] == "train" for row in rows)
    return Evaluation(
        metrics=measure(probabilities, labels, bundle.classes),
        classes=bundle.classes,
        paths=[dataset.path_of(int(row)) for row in rows],
        probabilities=probabilities,
        labels=labels,
        split=str(request.split) if by_run else _split_name(dataset.manifest.split_rule),
        left_out=tuple((s.path, s.verdict) for s in dataset.manifest.left_out),
        warnings=(*_honesty(trained_on, len(rows)), *dataset.manifest.warnings, *dataset.notices),
        seconds=time.perf_counter() - start,
    )


def _probabilities(
    bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64], should_stop: StopRequest
) -> NDArray[np.float32]:
    numerics = numerics_of(bundle)
    loader = evaluation_loader(
        dataset.images, dataset.labels, rows, bundle.preprocess, batch=BATCH, numerics=numerics, workers=1
    )
    network = bundle.network.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
    return predict_probabilities(network, loader, numerics, should_stop=should_stop)


def drawn_splits(bundle: Path) -> dict[str, str]:
    """Hash of the pixels -> split, for the images of the bundle's own run; empty for a moved bundle."""
    file = bundle.parent / "manifest.jsonl"
    if bundle.name not in ("model", "model-recalibrated") or not file.is_file():
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
