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
from convworks.data.dataset import build_evaluation_set
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
    split: str | None = None  # test where there is one, else val, else everything
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

    Raises D201 (a class that the model never saw), D14x (unreadable images, unless they are to be skipped),
    A41x (no model there, or a damaged one), StoppedEarlyError and ScanInterrupted when asked to stop.
    """
    keep_pages()
    start = time.perf_counter()
    bundle = load_bundle(request.model)
    with request.data.open() as source:
        dataset = build_evaluation_set(
            source,
            geometry=bundle.preprocess.geometry,
            classes=bundle.classes,
            split=request.split,
            ignore_classes=request.ignore_classes,
            skip_unreadable=request.skip_unreadable,
            cache=request.data.cache,
            threads=usable_cpus(),
            should_stop=should_stop,
        )
    rows = np.arange(len(dataset.labels), dtype=np.int64)
    numerics = numerics_of(bundle)
    loader = evaluation_loader(
        dataset.images, dataset.labels, rows, bundle.preprocess, batch=BATCH, numerics=numerics, workers=1
    )
    network = bundle.network.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
    probabilities = predict_probabilities(network, loader, numerics, should_stop=should_stop)
    labels = dataset.labels.numpy()
    manifest = dataset.manifest
    return Evaluation(
        metrics=measure(probabilities, labels, bundle.classes),
        classes=bundle.classes,
        paths=[dataset.path_of(int(row)) for row in rows],
        probabilities=probabilities,
        labels=labels,
        split=", ".join(sorted({s.split for s in manifest.samples})),
        left_out=tuple((s.path, s.verdict) for s in manifest.left_out),
        warnings=tuple(manifest.warnings),
        seconds=time.perf_counter() - start,
    )
