"""Make an ensemble of finished models: fit how they are combined, compare it honestly, save it as a model.

What is fitted or chosen is fitted on some images and reported on others. The single model that it is compared
with is chosen like everything else, not by the reported figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.bundle import is_ensemble
from convworks.errors import ConvworksError
from convworks.evaluation.comparison import PairedDifference, mean_interval, paired_difference
from convworks.evaluation.ensemble import (
    fit_weights,
    greedy_weights,
    mean_of,
    out_of_fold,
    require_same_classes,
    uniform,
)
from convworks.evaluation.fusion import Fusion, fusion
from convworks.evaluation.metrics import Metrics, log_loss, measure, predict
from convworks.evaluation.stacking import Stacking, fit_stacking
from convworks.flows.certainty import certainty
from convworks.flows.ensemble_bundle import METHODS, save_ensemble
from convworks.flows.ensemble_parts import Answers, Part, answer, expand, load_parts, look, part_groups
from convworks.flows.ensemble_rows import FEWEST, Roles, choose_rows
from convworks.flows.prepare import DataRequest, request_from_dict
from convworks.flows.session import StopRequest
from convworks.training.allocator import keep_pages


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleRequest:
    """Members, data, and how they are combined. Without data it is that of the first member's run."""

    members: tuple[Path, ...]
    cache: Path
    data: DataRequest | None = None
    offline: bool = False
    method: str = "uniform"
    split: str | None = None
    fit: str | None = None
    samples: int = 0  # forward passes with dropout at work
    protocol: str = "centre"
    fusion: str | None = None
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member beside the others, on the reported images that it had not learnt."""

    name: str
    model: str
    metrics: Metrics | None  # None where it had learnt all of them
    weight: float | None  # None with stacking
    passes: int
    parameters: int
    seconds: float  # for one image
    external: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleResult:
    """An ensemble beside its members."""

    rows: tuple[MemberRow, ...]
    metrics: Metrics
    method: str
    weights: tuple[float, ...]  # of the groups
    groups: tuple[tuple[int, ...], ...]
    mean_member: float  # accuracy of an average member
    over_mean: tuple[float, float, float]  # accuracy above it, with the 95 % interval
    best: str
    best_chosen: str  # on which images
    over_best: PairedDifference
    answered: float  # members that answered a reported image, on average
    scaling: tuple[Metrics, PairedDifference] | None  # with MC-dropout: one pass with scaled weights
    roles: Roles
    fusion: Fusion | None
    path: Path | None

    @property
    def passes(self) -> int:
        return sum(row.passes for row in self.rows)

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    @property
    def external(self) -> tuple[str, ...]:
        return tuple(sorted({row.external for row in self.rows if row.external}))

    def to_dict(self) -> dict[str, Any]:
        members = [
            {
                "name": row.name,
                "model": row.model,
                "accuracy": None if row.metrics is None else row.metrics.top1,
                "ci": None if row.metrics is None else list(row.metrics.top1_ci),
                "loss": None if row.metrics is None else row.metrics.loss,
                "images": 0 if row.metrics is None else row.metrics.n,
                "weight": row.weight,
                "passes": row.passes,
                "parameters": row.parameters,
                "seconds_per_image": row.seconds,
                "external_data": row.external or None,
            }
            for row in self.rows
        ]
        scaling = None
        if self.scaling is not None:
            scaling = {"accuracy": self.scaling[0].top1, "difference": self.scaling[1]._asdict()}
        return {
            "rows": members,
            "metrics": self.metrics.to_dict(),
            "split": self.roles.split,
            "method": self.method,
            "group_weights": list(self.weights),
            "groups": [list(each) for each in self.groups],
            "reported_on": self.roles.reported_on,
            "fitted_on": self.roles.fitted_on if len(self.roles.fit) else None,
            "fit_images": len(self.roles.fit),
            "single_or_ensemble": "ensemble",
            "external_data": list(self.external),
            "members_for_an_image": self.answered,
            "mean_member": self.mean_member,
            "over_mean_member": list(self.over_mean),
            "best_single": self.best,
            "best_chosen_on": self.best_chosen,
            "over_best_single": self.over_best._asdict(),
            "weight_scaling": scaling,
            "passes": self.passes,
            "seconds_per_image": self.seconds,
            "fusion": None if self.fusion is None else self.fusion.name,
            "notes": list(self.roles.notes),
        }


def make_ensemble(request: EnsembleRequest, *, should_stop: StopRequest = lambda: False) -> EnsembleResult:
    """Combine finished models, compare, and save where `out` is given.

    Raises U273 (one member), U263 (other classes), U274 (not the fusion's members), A477 (fitting on what a
    member has learnt), A478 (no image left), U277 (`out` is something else), R505, and those of `evaluate`.
    """
    keep_pages()
    _require_place(request.out)
    if request.method not in METHODS:
        raise ValueError(f"a method is one of {', '.join(METHODS)}, not {request.method}")
    paths = expand(request.members)
    known = None if request.fusion is None else fusion(request.fusion)
    if len(paths) < 2 and not request.samples:
        raise ConvworksError(
            "U273",
            f"an ensemble of {len(paths)} model is none",
            why="it needs several answers to average",
            try_="convworks train DATA --seeds 5, or --mc-dropout 30 for one network with dropout",
        )
    protocols = [request.protocol] * len(paths)
    parts = load_parts(paths, samples=request.samples, protocols=protocols)
    if known is not None:
        parts = _as_fusion(parts, known)
    classes = parts[0].bundle.classes
    for part in parts[1:]:
        require_same_classes(part.bundle.classes, classes, who=part.name)
    data = request.data or _own_data(parts[0], request)
    groups = part_groups(parts)
    looked = look(parts, data, classes)
    fitted = request.method != "uniform"
    roles = choose_rows(looked, groups, fitted=fitted, split=request.split, fit=request.fit)
    answers = answer(parts, data, looked, [roles.report, roles.fit], should_stop=should_stop)
    scaled = None
    if request.samples:
        plain = [replace(part, samples=0) for part in parts]
        scaled = answer(plain, data, looked, [roles.report], should_stop=should_stop)
    weights, stacking = _fit(request.method, answers, groups, roles)
    result = _compared(parts, answers, scaled, groups, roles, request.method, weights, stacking, known)
    if request.out is None:
        return result
    return _saved(result, parts, answers, stacking, request.out)


def _require_place(out: Path | None) -> None:
    if out is not None and out.exists() and not is_ensemble(out) and (out.is_file() or any(out.iterdir())):
        raise ConvworksError(
            "U277",
            f"{out} exists and is not an ensemble",
            why="it would be lost",
            try_=f"--out {out}-ensemble",
        )


def _own_data(part: Part, request: EnsembleRequest) -> DataRequest:
    if "data" not in part.record:
        raise ConvworksError(
            "U273",
            f"{part.name} does not say which data it was trained on",
            why="the members are compared on labelled images",
            try_="--data DATA",
        )
    return replace(request_from_dict(part.record["data"], cache=request.cache, offline=request.offline))


def _as_fusion(parts: Sequence[Part], known: Fusion) -> list[Part]:
    """Every member with the protocol of its place in a published fusion. Raises U274 for other members."""
    waiting = [each for each in known.members for _ in range(each.count)]
    found = []
    for part in parts:
        place = next((each for each in waiting if each.model == part.bundle.info["model"]), None)
        if place is None:
            raise ConvworksError(
                "U274",
                f"{part.name} is {part.bundle.info['model']}, which is no (further) member of {known.name}",
                where=f"members: {', '.join(each.text() for each in known.members)}",
                try_=f"convworks ensemble --fusion {known.name}",
            )
        waiting.remove(place)
        found.append(replace(part, protocol=known.protocol_of(place)))
    if waiting:
        raise ConvworksError(
            "U274",
            f"{known.name} has {known.networks} networks, and {len(parts)} were given",
            where=f"missing: {', '.join(each.model for each in waiting)}",
            try_=f"convworks ensemble --fusion {known.name}",
        )
    return found


def _fit(
    method: str, answers: Answers, groups: Sequence[Sequence[int]], roles: Roles
) -> tuple[NDArray[np.float64], Stacking | None]:
    """Weights of the groups, and the meta-model with stacking. Raises A477 for images that were learnt."""
    even = uniform(len(groups))
    if method == "uniform":
        return even, None
    members = [each[roles.fit] for each in answers.probabilities]
    learnt, labels = answers.learnt[:, roles.fit], answers.labels[roles.fit]
    if method == "stacking":
        return even, fit_stacking(members, labels, learnt=learnt, groups=groups)
    sources = out_of_fold(members, learnt, groups)
    return (fit_weights if method == "fitted" else greedy_weights)(sources, labels), None


def _combined(
    answers: Answers,
    rows: NDArray[np.int64],
    groups: Sequence[Sequence[int]],
    weights: NDArray[np.float64],
    stacking: Stacking | None,
) -> NDArray[np.float64]:
    """(n, K) of the ensemble on some rows, an image answered by the members that did not learn it."""
    sources = out_of_fold([each[rows] for each in answers.probabilities], answers.learnt[:, rows], groups)
    return stacking.combine(sources) if stacking is not None else mean_of(sources, weights)


def _compared(
    parts: Sequence[Part],
    answers: Answers,
    scaled: Answers | None,
    groups: Sequence[Sequence[int]],
    roles: Roles,
    method: str,
    weights: NDArray[np.float64],
    stacking: Stacking | None,
    known: Fusion | None,
) -> EnsembleResult:
    report, labels = roles.report, answers.labels[roles.report]
    together = _combined(answers, report, groups, weights, stacking)
    right = predict(together) == labels
    singly = np.array([predict(each[report]) == labels for each in answers.probabilities])  # (M, n)
    clean = ~answers.learnt[:, report]
    average = (singly * clean).sum(axis=0) / clean.sum(axis=0)
    best, chosen = _best_single(answers, roles, singly, clean)
    share = {m: weights[g] / len(group) for g, group in enumerate(groups) for m in group}
    rows = tuple(
        MemberRow(
            name=part.name,
            model=str(part.bundle.info["model"]),
            metrics=measure(answers.probabilities[m][report][clean[m]], labels[clean[m]], answers.classes)
            if clean[m].any()
            else None,
            weight=None if stacking is not None else float(share[m]),
            passes=part.passes,
            parameters=sum(p.numel() for p in part.bundle.network.parameters()),
            seconds=answers.seconds[m],
            external=part.external,
        )
        for m, part in enumerate(parts)
    )
    scaling = None
    if scaled is not None:
        one = _combined(scaled, report, groups, weights, stacking)
        scaling = measure(one, labels, answers.classes), paired_difference(right, predict(one) == labels)
    return EnsembleResult(
        rows=rows,
        metrics=measure(together, labels, answers.classes),
        method=method,
        weights=tuple(float(each) for each in weights),
        groups=tuple(tuple(group) for group in groups),
        mean_member=float(average.mean()),
        over_mean=(float((right - average).mean()), *mean_interval(right - average)),
        best=parts[best].name,
        best_chosen=chosen,
        answered=float(clean.sum(axis=0).mean()),
        over_best=paired_difference(right[clean[best]], singly[best][clean[best]]),
        scaling=scaling,
        roles=roles,
        fusion=known,
        path=None,
    )


def _best_single(
    answers: Answers, roles: Roles, singly: NDArray[np.bool_], clean: NDArray[np.bool_]
) -> tuple[int, str]:
    """The member that would be taken alone: by other images than the reported ones, where there are some."""
    scores: list[tuple[float, float]] = []
    if len(roles.fit) >= FEWEST:
        for m, probabilities in enumerate(answers.probabilities):
            rows = roles.fit[~answers.learnt[m, roles.fit]]
            if not len(rows):
                scores.append((-1.0, 0.0))
                continue
            p, y = probabilities[rows], answers.labels[rows]
            scores.append((float((predict(p) == y).mean()), -log_loss(p, y)))
        return max(range(len(scores)), key=lambda m: scores[m]), roles.fitted_on
    shares = [
        float(right[mask].mean()) if mask.any() else -1.0 for right, mask in zip(singly, clean, strict=True)
    ]
    return int(np.argmax(shares)), "these same images, which is in its favour"


def _saved(
    result: EnsembleResult, parts: Sequence[Part], answers: Answers, stacking: Stacking | None, out: Path
) -> EnsembleResult:
    """Write the folder. The certainty of a meta-model is left out: it was fitted on the same images."""
    sure: dict[str, Any] = {}
    roles = result.roles
    rows, name = (roles.fit, "fit") if len(roles.fit) >= FEWEST else (roles.report, roles.split)
    if stacking is None and not _all_learnt(answers, rows, result.groups):
        weights = np.array(result.weights)
        sure = certainty(
            _combined(answers, rows, result.groups, weights, None), answers.labels[rows], split=name
        )
    number = {m: g for g, group in enumerate(result.groups) for m in group}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_ensemble(
            out,
            [part.path for part in parts],
            groups=[number[m] for m in range(len(parts))],
            samples=[part.samples for part in parts],
            classes=answers.classes,
            method=result.method,
            weights=result.weights,
            stacking=stacking,
            facts={**result.to_dict(), **sure},
        )
    except OSError as problem:
        raise ConvworksError(
            "R505",
            f"cannot save the ensemble in {out}: {problem.strerror or problem}",
            why="the members are as they were",
            try_="--out with a folder of your own",
        ) from problem
    return replace(result, path=out)


def _all_learnt(answers: Answers, rows: NDArray[np.int64], groups: Sequence[Sequence[int]]) -> bool:
    """Whether some group has learnt some of these rows with all its members."""
    return bool(np.any([answers.learnt[list(group)][:, rows].all(axis=0).any() for group in groups]))
