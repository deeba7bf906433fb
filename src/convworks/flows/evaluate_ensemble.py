"""Evaluate an ensemble as a model is: on labelled images, each member with its own preprocessing."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from typing import Any

import numpy as np

from convworks.errors import ConvworksError
from convworks.evaluation.metrics import measure
from convworks.evaluation.protocols import resolve
from convworks.flows.ensemble_bundle import Ensemble, load_ensemble
from convworks.flows.ensemble_parts import Part, aligned_labels, member_probabilities
from convworks.flows.evaluate import EvaluateRequest, Evaluation, Evaluator, Images, opened
from convworks.flows.session import StopRequest


def evaluate_ensemble(request: EvaluateRequest, *, should_stop: StopRequest = lambda: False) -> Evaluation:
    """As `flows.evaluate.evaluate`, for an ensemble's folder; the protocol is that of every member.

    Images that any member was trained on are counted in a warning. Raises D203 where a split that the
    members' runs drew is not the same one for all of them, as with folds.
    """
    start = time.perf_counter()
    protocol = resolve(request.protocol)
    ensemble = load_ensemble(request.model)
    for member in ensemble.members:
        Evaluator.of(member.bundle).require([protocol])
    answers, first, trained_on = [], None, 0
    for number, member in enumerate(ensemble.members):
        place = request.model / "members" / f"{number:02d}"
        with opened(replace(request, model=place), member.bundle, should_stop) as images:
            facts = _facts(images)
            if first is not None and facts["keys"] != first["keys"]:
                raise _other_images(request, member.name)
            first = first or {**facts, "labels": _labels(images, ensemble, number)}
            trained_on = max(trained_on, images.trained_on)
            part = Part(place, member.name, member.bundle, {}, {}, member.samples, request.protocol)
            answers.append(member_probabilities(part, images, should_stop))
    assert first is not None
    probabilities = ensemble.combine(answers).astype(np.float32)
    warnings = [each for each in first["warnings"] if not each.startswith("the network was trained on")]
    if trained_on:
        warnings.insert(
            0,
            f"members were trained on up to {trained_on:,} of these {len(first['labels']):,} images, so this "
            "figure says little about new ones",
        )
    return Evaluation(
        metrics=measure(probabilities, first["labels"], ensemble.classes),
        classes=ensemble.classes,
        paths=first["paths"],
        probabilities=probabilities,
        labels=first["labels"],
        split=first["split"],
        left_out=first["left_out"],
        warnings=tuple(warnings),
        seconds=time.perf_counter() - start,
        protocol=protocol.name,
    )


def _facts(images: Images) -> dict[str, Any]:
    samples = images.samples
    return {
        "keys": [(sample.path, sample.pixels) for sample in samples],
        "paths": [sample.path for sample in samples],
        "split": images.split,
        "left_out": images.left_out,
        "warnings": images.warnings,
    }


def _labels(images: Images, ensemble: Ensemble, number: int) -> Any:
    return aligned_labels(images.labels, ensemble.members[number].bundle.classes, ensemble.classes)


def _other_images(request: EvaluateRequest, name: str) -> ConvworksError:
    return ConvworksError(
        "D203",
        f"the split '{request.split}' is not the same for all members: {name} has another one",
        why="members that were trained on folds or bags validated with different images",
        try_=f"convworks eval {shlex.quote(str(request.model))} "
        f"{shlex.quote(request.data.location)} --split all",
    )
