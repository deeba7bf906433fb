"""Linear classifiers on the features of every stage of a trained network, and its feature vectors as a
table."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convworks.bundle import Bundle, load_bundle
from convworks.data.dataset import Dataset, build_dataset, build_evaluation_set
from convworks.data.manifest import Manifest
from convworks.durable import write_atomic
from convworks.errors import ConvworksError
from convworks.evaluation.inference import StoppedEarlyError
from convworks.evaluation.metrics import Interval, wilson
from convworks.flows.evaluate import BATCH, drawn_splits, numerics_of
from convworks.flows.prepare import DataRequest, evaluation_loader
from convworks.flows.session import StopRequest
from convworks.insight.probe import ProbeRow, pooled, probe_stage, require_enough, stage_features
from convworks.randomness import permutation
from convworks.recipes.recipe import Recipe
from convworks.training.planner import usable_cpus
from convworks.training.transfer import head_inputs

IMAGES = 2000  # training images, and as many others, at the most


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """A model, and data whose classes may be others than the model's."""

    model: Path
    data: DataRequest
    images: int = IMAGES


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """A row for each stage, first to last, and how well the network itself answers, where it has the
    classes."""

    rows: tuple[ProbeRow, ...]
    classes: tuple[str, ...]
    train: int
    val: int
    own: float | None
    own_interval: Interval | None
    warnings: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(request: ProbeRequest, *, should_stop: StopRequest = lambda: False) -> ProbeReport:
    """Features of training images, a linear classifier for each stage, its accuracy on validation images.

    The images are split as the model's own run split them where they are the same images, else as training
    would split them. Raises what training raises for such data, U234 (too few images), A41x, and
    StoppedEarlyError and ScanInterrupted when asked to stop.
    """
    start = time.perf_counter()
    bundle = load_bundle(request.model)
    defaults = Recipe()
    with request.data.open() as source:
        dataset = build_dataset(
            source,
            geometry=bundle.preprocess.geometry,
            seed=defaults.seed,
            val_fraction=defaults.val_fraction,
            cache=request.data.cache,
            threads=usable_cpus(),
            strict=request.data.strict,
            should_stop=should_stop,
        )
    train, val, warnings = _rows(bundle, dataset, request.images)
    labels = dataset.labels.numpy()
    require_enough(labels[train], val)
    features, kinds, outputs = _features(bundle, dataset, np.concatenate([train, val]), should_stop)
    y = dataset.labels[torch.from_numpy(np.concatenate([train, val]))]
    count, rows = len(train), []
    for layer, x in features.items():
        if should_stop():
            raise StoppedEarlyError
        rows.append(
            probe_stage(
                layer,
                kinds[layer],
                (x[:count], y[:count]),
                (x[count:], y[count:]),
                classes=len(dataset.classes),
            )
        )
    own = _own(bundle, dataset, outputs[count:], labels[val])
    return ProbeReport(
        rows=tuple(rows),
        classes=dataset.classes,
        train=len(train),
        val=len(val),
        own=None if own is None else own / len(val),
        own_interval=None if own is None else wilson(own, len(val)),
        warnings=(*warnings, *dataset.notices),
        seconds=time.perf_counter() - start,
    )


def _rows(
    bundle: Bundle, dataset: Dataset, images: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Training and validation rows, at most `images` each, and what is to be said about them."""
    drawn = drawn_splits(bundle.path)
    met = [drawn.get(dataset.manifest.samples[int(index)].pixels, "") for index in dataset.rows]
    if met and all(met) and {"train", "val"} <= set(met):
        train, val = (np.flatnonzero([each == split for each in met]) for split in ("train", "val"))
    else:
        train, val = dataset.split_rows("train"), dataset.split_rows("val")
    picked = [
        np.sort(rows[permutation(0, f"probe/{name}", 0, len(rows))[:images]]).astype(np.int64)
        for name, rows in (("train", train), ("val", val))
    ]
    seen = sum(met[int(row)] == "train" for row in picked[1])
    warning = (
        f"the network was trained on {seen:,} of the {len(picked[1]):,} images that accuracy is measured on, "
        "so it leans to the good side"
    )
    return picked[0], picked[1], [warning] if seen else []


def _features(
    bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64], should_stop: StopRequest
) -> tuple[dict[str, Tensor], dict[str, str], Tensor]:
    """Features of every stage for all rows, what they are, and the network's outputs."""
    numerics = numerics_of(bundle)
    loader = evaluation_loader(
        dataset.images, dataset.labels, rows, bundle.preprocess, batch=BATCH, numerics=numerics, workers=1
    )
    network = bundle.network.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
    parts: list[dict[str, Tensor]] = []
    outputs: list[Tensor] = []
    kinds: dict[str, str] = {}
    with torch.inference_mode(), closing(loader.epoch(0)) as batches:
        for batch in batches:
            if should_stop():
                raise StoppedEarlyError
            with numerics.autocast():
                found, kinds, output = stage_features(network, batch.x)
            parts.append(found)
            outputs.append(output.float())
    joined = {layer: torch.cat([part[layer] for part in parts]).clone() for layer in parts[0]}
    return joined, kinds, torch.cat(outputs)


def _own(bundle: Bundle, dataset: Dataset, outputs: Tensor, labels: NDArray[np.int64]) -> int | None:
    """How many answers of the network itself are right; None where it does not know all classes."""
    number = {name: index for index, name in enumerate(dataset.classes)}
    if not number.keys() <= set(bundle.classes):
        return None
    answers = np.array([number.get(name, -1) for name in bundle.classes])[outputs.argmax(dim=1).numpy()]
    return int((answers == labels).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesRequest:
    """A model, data, and which part of the data."""

    model: Path
    data: DataRequest
    split: str | None = "all"
    skip_unreadable: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FeatureVectors:
    """(N, D) float32 of the images at `paths`, their labels by position in `classes`, and what the numbers
    are."""

    vectors: NDArray[np.float32]
    paths: Sequence[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    kind: str
    left_out: tuple[tuple[str, str], ...]
    seconds: float


def feature_vectors(request: FeaturesRequest, *, should_stop: StopRequest = lambda: False) -> FeatureVectors:
    """What the last stage of a network sees of every image: all of it, or the means over its maps.

    The classes may be any. Raises U230, U231 (no such input), D202 (no such split), D149 (unreadable images,
    unless they are to be skipped), A41x, StoppedEarlyError and ScanInterrupted.
    """
    start = time.perf_counter()
    bundle = load_bundle(request.model)
    with request.data.open() as source:
        try:
            dataset = build_evaluation_set(
                source,
                geometry=bundle.preprocess.geometry,
                classes=source.classes,
                split=request.split,
                skip_unreadable=request.skip_unreadable,
                cache=request.data.cache,
                threads=usable_cpus(),
                should_stop=should_stop,
            )
        except ConvworksError as problem:
            named = f"convworks features {shlex.quote(str(request.model))} "
            raise problem.trying("convworks eval RUN ", named) from problem.__cause__
    numerics = numerics_of(bundle)
    rows = np.arange(len(dataset.labels), dtype=np.int64)
    loader = evaluation_loader(
        dataset.images, dataset.labels, rows, bundle.preprocess, batch=BATCH, numerics=numerics, workers=1
    )
    network = bundle.network.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
    parts, kind = [], ""
    with torch.inference_mode(), closing(loader.epoch(0)) as batches:
        for batch in batches:
            if should_stop():
                raise StoppedEarlyError
            with numerics.autocast():
                seen, _ = head_inputs(network, batch.x)
            values, kind = pooled(seen, most=1)
            parts.append(values.numpy())
    manifest: Manifest = dataset.manifest
    return FeatureVectors(
        vectors=np.concatenate(parts),
        paths=[dataset.path_of(int(row)) for row in rows],
        labels=dataset.labels.numpy(),
        classes=dataset.classes,
        kind=kind,
        left_out=tuple((s.path, s.verdict) for s in manifest.left_out),
        seconds=time.perf_counter() - start,
    )


def write_npz(path: Path, found: FeatureVectors) -> None:
    """features (N, D), labels (N,), classes (K,), paths (N,): arrays of numbers and of text, no objects.

    Text that is no Unicode (a file name) has its odd bytes escaped. Raises R503 where the disk refuses.
    """
    buffer = io.BytesIO()
    paths, classes = (
        np.array([each.encode("utf-8", "backslashreplace").decode() for each in values], dtype=np.str_)
        for values in (found.paths, found.classes)
    )
    np.savez(buffer, features=found.vectors, labels=found.labels, classes=classes, paths=paths)
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as problem:
        raise ConvworksError("R503", f"cannot write {path}: {problem.strerror or problem}") from problem
