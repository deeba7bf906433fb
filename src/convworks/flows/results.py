"""The end of a training: the kept weights are evaluated, bundled and reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors
from torch import nn

from convworks.bundle import save_bundle
from convworks.data.dataset import Dataset
from convworks.data.manifest import by_path
from convworks.data.sources import Source
from convworks.durable import to_json, write_atomic
from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Metrics, measure
from convworks.evaluation.protocols import Protocol, resolve
from convworks.flows.certainty import certainty
from convworks.flows.evaluate import Evaluator, Images
from convworks.flows.events import Event, Finished, Note
from convworks.flows.latency import note_latency
from convworks.flows.report import augmented
from convworks.flows.session import Session, StopRequest
from convworks.report import verdict, write_report
from convworks.runs import append_timing


def finish(
    session: Session, should_stop: StopRequest, *, rescue: Path | None, started: float
) -> Iterator[Event]:
    """Evaluate the kept weights on 'test' where there is one (and on 'val'), write bundle and report.

    It may be interrupted anywhere and run again. Raises R505 where the model cannot be saved.
    """
    run, dataset = session.run, session.prepared.dataset
    network = session.load_best()
    splits = [split for split in ("val", "test") if len(dataset.split_rows(split))]
    results: dict[str, Metrics] = {}
    sure: dict[str, Any] = {}  # how far its probabilities can be trusted, by images that it was not fitted on
    for split in splits:
        metrics, probabilities, rows = session.evaluate(network, split, should_stop)
        results[split] = metrics
        if split == "val":
            sure = certainty(probabilities, dataset.labels.numpy()[rows], split=split)
        save_evaluation(run.evaluation, split, metrics, probabilities, rows, dataset, _facts(session))
    split = splits[-1]
    yield from _save_model(session, network.state_dict(), results[split], split, rescue, sure)
    further = yield from _with_protocol(session, network, splits, should_stop)
    geometry = dataset.geometry
    shape = (geometry.channels, geometry.height, geometry.width)
    note_latency(run, network, shape, session.plan.numerics, most=session.recipe.batch)
    run.write_json(run.finished_file, {"split": split, "accuracy": results[split].top1, **_facts(session)})
    report: Path | None = None
    try:
        seen = augmented(session.prepared, session.recipe)
        report = write_report(run.path, thumbnail=thumbnails(dataset), augmented=seen)
    except (OSError, ConvworksError) as problem:  # the model is safe; a page can be written again
        code = problem.code if isinstance(problem, ConvworksError) else ""
        yield Note(f"cannot write the report: {problem}", level="warning", code=code)
    seconds = time.perf_counter() - started
    append_timing(run, event="finish", wall_seconds=seconds)
    images = (session.position.step - session.first_step) * session.recipe.batch
    yield Finished(
        run=run.path,
        split=split,
        epoch=session.best.epoch + 1,
        sentences=(*verdict(results[split]), *further),
        metrics=results[split].to_dict(),
        report=report,
        model=run.model,
        seconds=seconds,
        images_per_second=images / max(seconds, 1e-9),
        notes=_honest_notes(split, session),
    )


def _with_protocol(
    session: Session, network: nn.Module, splits: list[str], should_stop: StopRequest
) -> Generator[Event, None, list[str]]:
    """Evaluate under the recipe's protocol too, where it is another one: evaluation/SPLIT-PROTOCOL.*.

    Returns a sentence for each split. The model is saved already: what goes wrong is a warning.
    """
    protocol = resolve(session.recipe.protocol)
    if protocol.name == "centre":
        return []
    dataset, numerics = session.prepared.dataset, session.plan.numerics
    preprocess, threads = session.prepared.preprocess, max(1, session.plan.workers)
    evaluator = Evaluator(network, preprocess, numerics, session.recipe.model, threads=threads)
    sentences = []
    try:
        evaluator.require([protocol])
        with session.prepared.request.open() as source:
            for split in splits:
                images = _images_of(session, source, split)
                probabilities = evaluator.probabilities(images, protocol, should_stop)
                metrics = measure(probabilities, images.labels, dataset.classes)
                facts = {
                    **_facts(session),
                    **_told(protocol, evaluator),
                    "split": f"{split}, {protocol.name}",
                }
                name = f"{split}-{protocol.name.replace('/', '_')}"
                save_evaluation(
                    session.run.evaluation, name, metrics, probabilities, images.rows, dataset, facts
                )
                sentences.append(f"{protocol.name} on {split}: {verdict(metrics)[0]}")
    except (ConvworksError, OSError) as problem:
        why, code = (problem.what, problem.code) if isinstance(problem, ConvworksError) else (problem, "")
        yield Note(f"not evaluated with protocol '{protocol.name}': {why}", level="warning", code=code)
    return sentences


def _images_of(session: Session, source: Source, split: str) -> Images:
    """The images of one split of the run, in their source. Raises D145 where one is not there any more."""
    dataset = session.prepared.dataset
    places = {key: place for place, key in enumerate(by_path(source.entries))}
    keys = list(by_path(dataset.manifest.samples))
    rows = dataset.split_rows(split)
    try:
        found = [places[keys[int(dataset.rows[int(row)])]] for row in rows]
    except KeyError as problem:
        raise ConvworksError(
            "D145", f"the data has changed since it was read: there is no {problem.args[0][0]}"
        ) from problem
    return Images(source=source, dataset=dataset, rows=rows, places=found, split=split)


def _told(protocol: Protocol, evaluator: Evaluator) -> dict[str, Any]:
    return {
        "protocol": protocol.name,
        "definition": protocol.words(evaluator.shape[1]),
        "views": protocol.views,
    }


def _honest_notes(split: str, session: Session) -> tuple[str, ...]:
    if split == "val" and session.recipe.keep == "best":
        return ("the best epoch was chosen on these same images, so the figure leans to the good side",)
    return ()


def _facts(session: Session) -> dict[str, Any]:
    return {
        "epoch": session.best.epoch + 1,
        "step": session.best.step,
        "weights": "average" if session.average is not None else "raw",
    }


def _save_model(
    session: Session,
    weights: Any,
    metrics: Metrics,
    split: str,
    rescue: Path | None,
    sure: dict[str, Any],
) -> Iterator[Event]:
    """The bundle into the run; where the disk refuses, into `rescue`."""
    facts = {
        **_facts(session),
        **sure,
        "precision": session.plan.precision,
        "memory_format": session.plan.memory_format,
        "split": split,
        "metrics": metrics.to_dict(),
        "manifest": session.manifest,
        "run": session.run.name,
        "parameters": sum(p.numel() for p in session.network.parameters()),
    }

    def save(target: Path) -> None:
        save_bundle(
            target,
            weights=weights,
            preprocess=session.prepared.preprocess,
            model=session.recipe.model,
            options=session.recipe.model_options,
            classes=session.prepared.dataset.classes,
            facts=facts,
        )

    try:
        save(session.run.model)
    except OSError as problem:
        if rescue is not None:
            rescue.mkdir(parents=True, exist_ok=True)
            save(rescue / session.run.name)
            yield Note(f"the model was saved in {rescue / session.run.name} instead", level="warning")
        raise ConvworksError(
            "R505",
            f"cannot save the model in {session.run.model}: {problem.strerror or problem}",
            why="training is done, and the last checkpoint that was saved is kept",
            try_=f"free some space, then  convworks resume {session.run.path}  (or --rescue-dir FOLDER)",
        ) from problem


def save_evaluation(
    folder: Path,
    split: str,
    metrics: Metrics,
    probabilities: NDArray[np.float32],
    rows: NDArray[np.int64],
    dataset: Dataset,
    facts: dict[str, Any],
) -> None:
    """evaluation/SPLIT.json and .safetensors: each image's probabilities, so that others can join."""
    folder.mkdir(exist_ok=True)
    tensors = {
        "probabilities": np.ascontiguousarray(probabilities, dtype=np.float32),
        "labels": np.ascontiguousarray(dataset.labels.numpy()[rows]),
        "rows": np.ascontiguousarray(dataset.rows[rows]),  # positions in the manifest
    }
    write_atomic(folder / f"{split}.safetensors", save_tensors(tensors))
    tree = {**metrics.to_dict(), "split": split, "protocol": "centre", **facts}
    write_atomic(folder / f"{split}.json", to_json(tree))


def thumbnails(dataset: Dataset) -> Callable[[str], NDArray[np.uint8] | None]:
    """Pixels by the path in the manifest, as they lie in the pixel store."""
    positions = {dataset.path_of(row): row for row in range(len(dataset.labels))}

    def pixels(path: str) -> NDArray[np.uint8] | None:
        row = positions.get(path)
        return None if row is None else dataset.images[row].numpy()

    return pixels
