"""Measure a finished run's batch norm statistics again, on all training images, and keep both models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from convworks.bundle import Bundle, load_bundle, save_bundle
from convworks.data.manifest import Manifest
from convworks.data.preprocess import Geometry
from convworks.errors import ConvworksError
from convworks.evaluation.inference import predict_probabilities
from convworks.evaluation.metrics import Metrics, measure
from convworks.flows.evaluate import BATCH, numerics_of
from convworks.flows.prepare import Prepared, evaluation_loader, prepare_data, request_from_dict
from convworks.flows.session import StopRequest
from convworks.recipes.resolve import from_dict
from convworks.runs import Run, open_run
from convworks.training.allocator import keep_pages
from convworks.training.recalibrate import Recalibrated, recalibrate, recalibrated_layers

FOLDER = "model-recalibrated"  # beside the run's own model/
SPLITS = ("val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalibrateRequest:
    """A finished run, and where downloads and prepared images are."""

    run: Path
    cache: Path
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitScore:
    """A part of the run's data under both models; `changed` counts the images whose answer is another one."""

    before: Metrics
    after: Metrics
    changed: int

    def to_dict(self) -> dict[str, Any]:
        return {"before": self.before.to_dict(), "after": self.after.to_dict(), "changed": self.changed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """What came out. The model is a bundle, for predict and eval."""

    run: Path
    model: Path
    images: int  # training images that were passed through
    layers: tuple[Recalibrated, ...]
    scores: dict[str, SplitScore]  # val, and test where there is one
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "model": self.model,
            "images": self.images,
            "layers": [asdict(each) for each in self.layers],
            "scores": {split: score.to_dict() for split, score in self.scores.items()},
        }


def recalibrate_run(
    request: RecalibrateRequest,
    *,
    should_stop: StopRequest = lambda: False,
    progress: Callable[[int, int], None] = lambda done, layers: None,
) -> Recalibration:
    """Exact statistics from the first batch norm to the last, in a new bundle RUN/model-recalibrated.

    The training images are seen as in evaluation: whole, in order, without augmentation, in the arithmetic
    that the model was validated with. The run's own model/ is never written to; a bundle of an earlier
    recalibration is replaced. Raises A410 (no run there), A411 (the run is not finished), U161 (no batch
    norm), U163, N602 (see `training.recalibrate`), D145 (the images are not those of the run), R510 (in use),
    StoppedEarlyError, ScanInterrupted and StoppedRecalibrationError when asked to stop.
    """
    keep_pages()
    start = time.perf_counter()
    run = open_run(request.run)
    bundle = load_bundle(run.path)
    if not recalibrated_layers(bundle.network):
        raise ConvworksError(
            "U161",
            f"{bundle.info['model']} has no batch norm, so {run.name} has no statistics to measure again",
            where=str(run.path),
            why="only batch norm keeps statistics of its inputs for evaluation",
            try_=f"convworks eval {run.path} DATA",
        )
    prepared = _prepare(run, bundle.preprocess.geometry, request, should_stop)
    network = bundle.network.to(memory_format=numerics_of(bundle).torch_memory_format)  # type: ignore[call-overload]
    with run.locked():
        before = _measure(network, bundle, prepared, should_stop)
        layers = recalibrate(
            network,
            lambda: _training_images(bundle, prepared),
            numerics=numerics_of(bundle),
            should_stop=should_stop,
            progress=progress,
        )
        after = _measure(network, bundle, prepared, should_stop)
        scores = {
            split: SplitScore(
                before=before[split][0],
                after=after[split][0],
                changed=int((before[split][1] != after[split][1]).sum()),
            )
            for split in before
        }
        images = len(prepared.dataset.split_rows("train"))
        _save(run.path / FOLDER, network, bundle, scores, images)
    return Recalibration(
        run=run.path,
        model=run.path / FOLDER,
        images=images,
        layers=tuple(layers),
        scores=scores,
        seconds=time.perf_counter() - start,
    )


def _prepare(run: Run, geometry: Geometry, request: RecalibrateRequest, should_stop: StopRequest) -> Prepared:
    """The run's images, in the splits that it drew. Raises D145 where they are others now."""
    record = run.record()
    data = request_from_dict(record["data"], cache=request.cache, offline=request.offline)
    return prepare_data(
        data,
        from_dict(record["recipe"]),
        expected=Manifest.load(run.manifest_file),
        geometry=geometry,
        should_stop=should_stop,
    )


def _training_images(bundle: Bundle, prepared: Prepared) -> Iterator[Tensor]:
    dataset = prepared.dataset
    loader = evaluation_loader(
        dataset.images,
        dataset.labels,
        dataset.split_rows("train"),
        bundle.preprocess,
        batch=BATCH,
        numerics=numerics_of(bundle),
        workers=1,
    )
    return (batch.x for batch in loader.epoch(0))


def _measure(
    network: nn.Module, bundle: Bundle, prepared: Prepared, should_stop: StopRequest
) -> dict[str, tuple[Metrics, Any]]:
    """Split -> metrics and the answer for each image, for the splits that training did not learn from."""
    dataset, numerics = prepared.dataset, numerics_of(bundle)
    found = {}
    for split in SPLITS:
        rows = dataset.split_rows(split)
        if not len(rows):
            continue
        loader = evaluation_loader(
            dataset.images,
            dataset.labels,
            rows,
            bundle.preprocess,
            batch=BATCH,
            numerics=numerics,
            workers=1,
        )
        probabilities = predict_probabilities(network, loader, numerics, should_stop=should_stop)
        metrics = measure(probabilities, dataset.labels.numpy()[rows], bundle.classes)
        found[split] = metrics, np.argmax(probabilities, axis=1)
    return found


def _save(
    target: Path, network: nn.Module, bundle: Bundle, scores: dict[str, SplitScore], images: int
) -> None:
    """The bundle with the facts of the old one, its metrics measured anew. Raises R505."""
    split = next(reversed(scores)) if scores else None
    facts = {
        **{key: value for key, value in bundle.info.items() if key not in {"metrics", "split"}},
        **({"split": split, "metrics": scores[split].after.to_dict()} if split else {}),
        "recalibrated": {"images": images, "augmented": False},
    }
    try:
        save_bundle(
            target,
            weights=network.state_dict(),
            preprocess=bundle.preprocess,
            model=bundle.info["model"],
            options=bundle.info["options"],
            classes=bundle.classes,
            facts=facts,
        )
    except OSError as problem:
        raise ConvworksError(
            "R505",
            f"cannot save the model in {target}: {problem.strerror or problem}",
            why="the run and its own model are as they were",
            try_="convworks doctor",
        ) from problem
