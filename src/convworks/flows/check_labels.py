"""Which labels a trained model doubts, judged only by probabilities of images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convworks.bundle import load_bundle
from convworks.data.doctor import Diagnosis
from convworks.data.manifest import Manifest
from convworks.data.quarantine import suspect_reason
from convworks.data.scan import scan
from convworks.data.sources import Source, listed, shown
from convworks.data.suspects import label_suspects
from convworks.errors import ConvworksError
from convworks.evaluation.inference import predict_probabilities
from convworks.flows.evaluate import BATCH, numerics_of
from convworks.flows.prepare import DataRequest, evaluation_loader
from convworks.flows.session import StopRequest
from convworks.report.read import RunRecord, read_run
from convworks.training.planner import usable_cpus

Chances = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DoubtedLabel:
    """An image whose label is probably wrong."""

    entry: int
    path: str
    label: str
    answer: str
    label_probability: float
    answer_probability: float
    margin: float
    reason: str


@dataclass(frozen=True, slots=True)
class Doubts:
    """What one or more runs say about the labels. `suspects` have the worst margin first."""

    suspects: tuple[DoubtedLabel, ...]
    judged: int  # images with probabilities out of sample
    trained_on: int  # images that every run was trained on, or that are copies of such: not judged
    unknown: int  # images of a class that the runs do not know
    notes: tuple[str, ...]


def doubted_labels(
    models: Sequence[Path],
    source: Source,
    diagnosis: Diagnosis,
    request: DataRequest,
    should_stop: StopRequest,
) -> Doubts:
    """Suspects by the probabilities of runs, each used only for images outside its training split.

    Stored probabilities are used where a run has them, others are computed. Several runs, such as the folds
    of a cross-validation, are averaged for each image over those that may judge it. Raises A410 (no run),
    D222 (no image can be judged), D223 (a model without its run), D224 (runs with other classes) and
    ScanInterrupted.
    """
    runs = [_open(path) for path in models]
    classes = _classes(runs)
    number = {name: place for place, name in enumerate(classes)}
    labels = np.array([number.get(entry.label or "", -1) for entry in diagnosis.entries])
    total = np.zeros((len(labels), len(classes)))
    judges = np.zeros(len(labels), dtype=np.int64)
    trained = np.ones(len(labels), dtype=bool)
    stored = 0
    for run in runs:
        learnt = _learnt(run, diagnosis)
        trained &= learnt
        rows = np.array(
            [i for i in diagnosis.readable.tolist() if not learnt[i] and labels[i] >= 0], dtype=int
        )
        known = _stored(run, classes)
        missing = [i for i in rows.tolist() if diagnosis.records[i].pixels not in known]
        stored += len(rows) - len(missing)
        computed = _computed(run, source, request, missing, classes, should_stop) if missing else {}
        for i in rows.tolist():
            chances = computed.get(i, known.get(diagnosis.records[i].pixels))
            if chances is not None:
                total[i] += chances
                judges[i] += 1
    judged = np.flatnonzero(judges)
    readable = np.isin(np.arange(len(labels)), diagnosis.readable)
    if not len(judged):
        raise _nobody(models, diagnosis, int((trained & readable).sum()))
    found = label_suspects(total[judged] / judges[judged, None], labels[judged])
    suspects = tuple(
        DoubtedLabel(
            entry=int(judged[each.row]),
            path=diagnosis.entries[int(judged[each.row])].path,
            label=classes[each.label],
            answer=classes[each.answer],
            label_probability=each.label_probability,
            answer_probability=each.answer_probability,
            margin=each.margin,
            reason=suspect_reason(each, classes),
        )
        for each in found
    )
    unknown = int(((labels < 0) & readable).sum())
    left = int((trained & readable & (labels >= 0)).sum())
    return Doubts(suspects, len(judged), left, unknown, _notes(len(judged), left, unknown, stored, len(runs)))


def _notes(judged: int, left: int, unknown: int, stored: int, runs: int) -> tuple[str, ...]:
    by = "the run" if runs == 1 else f"{runs} runs"
    notes = [f"{judged:,} images have probabilities of {by}, out of sample"]
    if left:
        notes.append(
            f"{left:,} images were trained on, or are copies of such: a network repeats their labels, so "
            "they cannot be judged (fold runs, each given as --model, judge all)"
        )
    if unknown:
        notes.append(f"{unknown:,} images are of a class that the run does not know")
    if stored and left:
        notes.append("where the best epoch was chosen on these images, a few suspects may be missed")
    return tuple(notes)


def _open(path: Path) -> RunRecord:
    try:
        run = read_run(path)
    except ConvworksError as problem:
        if problem.code == "A410" and (path / "weights.safetensors").is_file():
            raise _no_run(path) from problem
        raise
    if run.manifest is None:
        raise _no_run(path)
    return run


def _no_run(path: Path) -> ConvworksError:
    return ConvworksError(
        "D223",
        f"{shown(str(path))} does not say which images it was trained on",
        why="a network repeats the labels that it was trained with, so only other images can be judged",
        try_="--model with the folder of the run, such as runs/photos-fastnet-01",
    )


def _classes(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    manifests = [run.manifest for run in runs if run.manifest is not None]
    first = manifests[0].classes
    for run, manifest in zip(runs, manifests, strict=True):
        if set(manifest.classes) != set(first):
            differ = sorted(set(manifest.classes) ^ set(first))
            raise ConvworksError(
                "D224",
                f"the runs {runs[0].name} and {run.name} know different classes: {listed(differ)}",
                why="their probabilities cannot be averaged",
                try_=f"--model {runs[0].path}",
            )
    return first


def _learnt(run: RunRecord, diagnosis: Diagnosis) -> NDArray[np.bool_]:
    """Entries that the run was trained on, or that are a copy or a near copy of such an image."""
    assert isinstance(run.manifest, Manifest)
    pixels = {sample.pixels for sample in run.manifest.samples if sample.split == "train" and sample.pixels}
    same = np.array([record.pixels in pixels for record in diagnosis.records])
    groups = set(diagnosis.groups[same].tolist())
    return np.array([int(group) in groups for group in diagnosis.groups])


def _stored(run: RunRecord, classes: Sequence[str]) -> dict[str, Chances]:
    """Hash of the pixels -> probabilities in the order of `classes`, from the run's own evaluations."""
    assert isinstance(run.manifest, Manifest)
    found: dict[str, Chances] = {}
    for each in run.evaluations:
        if each.split not in ("val", "test") or each.probabilities is None or each.rows is None:
            continue
        order = [each.metrics.names.index(name) for name in classes if name in each.metrics.names]
        if len(order) == len(classes):
            for row, chances in zip(each.rows.tolist(), each.probabilities, strict=True):
                found[run.manifest.samples[row].pixels] = chances[order].astype(np.float64)
    return found


def _computed(
    run: RunRecord,
    source: Source,
    request: DataRequest,
    rows: list[int],
    classes: Sequence[str],
    should_stop: StopRequest,
) -> dict[int, Chances]:
    """Probabilities of entries that the run has none for; computed with its model, decoded for its input."""
    import torch

    bundle = load_bundle(run.path)
    found = scan(
        source,
        indices=rows,
        geometry=bundle.preprocess.geometry,
        cache=request.cache,
        threads=usable_cpus(),
        should_stop=should_stop,
    )
    read = [row for row, record in zip(rows, found.records, strict=True) if record.verdict == "ok"]
    numerics = numerics_of(bundle)
    loader = evaluation_loader(
        torch.from_numpy(found.images),
        torch.zeros(len(read), dtype=torch.int64),
        np.arange(len(read), dtype=np.int64),
        bundle.preprocess,
        batch=BATCH,
        numerics=numerics,
        workers=1,
    )
    network = bundle.network.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
    chances = predict_probabilities(network, loader, numerics, should_stop=should_stop)
    order = [bundle.classes.index(name) for name in classes]
    return {row: one[order].astype(np.float64) for row, one in zip(read, chances, strict=True)}


def _nobody(models: Sequence[Path], diagnosis: Diagnosis, trained: int) -> ConvworksError:
    here = sorted({entry.label or "" for entry in diagnosis.entries})
    reason = f"{trained:,} of {len(diagnosis.readable):,} images were trained on"
    return ConvworksError(
        "D222",
        "no label can be judged with " + ", ".join(shown(str(path)) for path in models),
        where=reason if trained else f"the run does not know the classes here: {listed(here)}",
        why="only images outside the training split, of classes that the model knows, say something",
        try_="a run with a validation split, or one run for each fold",
    )
