"""Several protocols on the same images, one model or several: a ladder of errors, costs and differences.

Probabilities under every protocol are kept in the run (`kept.py`), so that a further protocol, or a mean of
some, costs only what is new. Views, members and protocols are averaged by one engine, `averaging.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.bundle import Bundle, is_ensemble, load_bundle
from convworks.durable import read_json
from convworks.errors import ConvworksError
from convworks.evaluation.averaging import average
from convworks.evaluation.comparison import PairedDifference, paired_difference
from convworks.evaluation.ensemble import aligned, require_same_classes
from convworks.evaluation.metrics import Interval, Metrics, measure, predict
from convworks.evaluation.protocols import Protocol, leaves, parse_protocols
from convworks.flows import kept
from convworks.flows.ensemble_bundle import load_ensemble
from convworks.flows.evaluate import EvaluateRequest, Evaluator, Images, drawn_splits, evaluate, opened
from convworks.flows.session import StopRequest
from convworks.training.allocator import keep_pages

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderRequest:
    """What to evaluate, under which protocols, and with which further members."""

    evaluate: EvaluateRequest
    protocols: tuple[str, ...]
    members: tuple[Path, ...] = ()  # averaged with the model, each with its own preprocessing
    human_error: float | None = None  # a fraction, for comparison
    keep: bool = True  # write probabilities into the runs


@dataclass(frozen=True, slots=True, eq=False)
class Rung:
    """One row: a protocol, on one model or on all. `seconds` are those of the computation, when it was."""

    protocol: Protocol
    members: int
    metrics: Metrics
    probabilities: NDArray[np.float32]  # (N, K)
    seconds: float
    reused: bool  # nothing was computed
    difference: PairedDifference | None  # error minus the first row's: value, low, high, p

    @property
    def cost(self) -> int:
        """Forward passes for one image: members x views."""
        return self.members * self.protocol.views

    def to_dict(self, side: int) -> dict[str, Any]:
        low, high = self.metrics.top1_ci
        tree = self.metrics.to_dict()
        return {
            "protocol": self.protocol.name,
            "definition": self.protocol.words(side),
            "source": self.protocol.source,
            "members": self.members,
            "views": self.protocol.views,
            "cost": self.cost,
            "top1_error": 1 - self.metrics.top1,
            "top1_error_ci": [1 - high, 1 - low],
            "top5_error": None if self.metrics.top5 is None else 1 - self.metrics.top5,
            "top5_error_ci": None if self.metrics.top5_ci is None else _flipped(self.metrics.top5_ci),
            "seconds": self.seconds,
            "reused": self.reused,
            "difference": None
            if self.difference is None
            else dict(zip(("error", "low", "high", "p"), self.difference, strict=True)),
            "metrics": tree,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """All rows. Rows of `probabilities` and `labels` (N,) belong to `paths`."""

    rungs: tuple[Rung, ...]
    classes: tuple[str, ...]
    paths: Sequence[str]
    labels: NDArray[np.int64]
    split: str
    side: int  # pixels of the network's input
    left_out: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    kept_in: Path | None
    facts: dict[str, Any]
    human_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "images": len(self.labels),
            "input": self.side,
            "rows": [rung.to_dict(self.side) for rung in self.rungs],
            "kept_in": None if self.kept_in is None else str(self.kept_in),
            "human_error": self.human_error,
            **self.facts,
            "left_out": [list(each) for each in self.left_out],
            "warnings": list(self.warnings),
        }


@dataclass(slots=True, eq=False)
class _Member:
    """One model with its kept probabilities."""

    bundle: Bundle
    evaluator: Evaluator
    folder: Path | None
    notices: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        path = self.bundle.path
        return path.name if kept.keeping_folder(self.bundle) is None else path.parent.name

    def probabilities(
        self, images: Images, protocol: Protocol, should_stop: StopRequest, told: Told
    ) -> tuple[NDArray[np.float32], float, bool]:
        """(N, K) in the order of its own classes, seconds, and whether they were kept from before."""
        identity = kept.identity(self.bundle, images, protocol)
        name = kept.stem(self.bundle, images, protocol)
        if self.folder is not None:
            found = kept.find(self.folder, name, identity)
            if found is not None and np.array_equal(found.labels, images.labels):
                return found.probabilities, found.seconds, True
        count = f"{protocol.views} view{'s' * (protocol.views > 1)}"
        told(f"{protocol.name}: {count} of {len(images.rows):,} images with {self.name}")
        start = time.perf_counter()
        probabilities = self.evaluator.probabilities(images, protocol, should_stop)
        seconds = time.perf_counter() - start
        if self.folder is not None:
            facts = {"protocol": protocol.name, "split": images.split, "seconds": seconds}
            facts["definition"] = protocol.words(self.evaluator.shape[1])
            try:
                kept.keep(
                    self.folder,
                    name,
                    identity=identity,
                    probabilities=probabilities,
                    labels=images.labels,
                    paths=images.paths,
                    facts=facts,
                )
            except OSError as problem:
                self.notices.append(
                    f"the probabilities are not kept in {self.folder}: {problem.strerror or problem}"
                )
                self.folder = None
        return probabilities, seconds, False


def climb(
    request: LadderRequest, *, should_stop: StopRequest = lambda: False, told: Told = lambda text: None
) -> Ladder:
    """Evaluate under every protocol; with `members`, the model alone first and then all of them together.

    A protocol that a network cannot do, and members that know other classes, are refused before an image is
    read. `told` hears what is done next. Raises U253 and U254 (protocols), U250 and U255 (a network that
    cannot do one), U256 (an ensemble with further members), U263 (members of other classes) and all that
    `evaluate` raises.
    """
    keep_pages()
    protocols = parse_protocols(request.protocols)
    if is_ensemble(request.evaluate.model):
        return _of_ensemble(request, protocols, should_stop, told)
    members = [_open(path, request.keep) for path in (request.evaluate.model, *request.members)]
    first = members[0].bundle
    for path, member in zip(request.members, members[1:], strict=True):
        require_same_classes(member.bundle.classes, first.classes, who=path.name)
    for member in members:
        member.evaluator.require(protocols)
    with opened(request.evaluate, first, should_stop) as images:
        single = _rows(members[:1], images, protocols, should_stop, told)
        together = _rows(members, images, protocols, should_stop, told) if request.members else []
        rungs = _compared([*single, *together], images.labels)
        recorded = _record(first)
        mirrored = [rung.protocol.name for rung in rungs if rung.protocol.mirrors]
        notices = [*_learnt(members[1:], images), *(each for member in members for each in member.notices)]
        return Ladder(
            rungs=tuple(rungs),
            classes=first.classes,
            paths=images.paths,
            labels=images.labels,
            split=images.split,
            side=members[0].evaluator.shape[1],
            left_out=images.left_out,
            warnings=(*images.warnings, *_notes(images, recorded, mirrored), *dict.fromkeys(notices)),
            kept_in=members[0].folder,
            facts={"external_data": _external(first), "models": [str(m.bundle.path) for m in members]},
            human_error=request.human_error,
        )


def _of_ensemble(
    request: LadderRequest, protocols: Sequence[Protocol], should_stop: StopRequest, told: Told
) -> Ladder:
    """The rows of an ensemble, whose answers become one in its own way. Nothing is kept."""
    base = request.evaluate
    if request.members:
        raise ConvworksError(
            "U256",
            f"{base.model.name} is an ensemble: it has its members already",
            why="its weights were fitted to just these",
            try_=f"convworks eval {base.model} DATA --protocol {protocols[0].name}",
        )
    members = load_ensemble(base.model).members
    for member in members:
        Evaluator.of(member.bundle).require(protocols)
    passes = sum(max(1, member.samples) for member in members)
    rungs, found = [], None
    for protocol in protocols:
        told(f"{protocol.name}: {passes * protocol.views} passes for each image with {base.model.name}")
        found = evaluate(replace(base, protocol=protocol.name), should_stop=should_stop)
        rungs.append(
            Rung(
                protocol=protocol,
                members=passes,
                metrics=found.metrics,
                probabilities=found.probabilities,
                seconds=found.seconds,
                reused=False,
                difference=None,
            )
        )
    assert found is not None, "there is a protocol"
    external = {_external(member.bundle) for member in members}
    return Ladder(
        rungs=tuple(_compared(rungs, found.labels)),
        classes=found.classes,
        paths=found.paths,
        labels=found.labels,
        split=found.split,
        side=members[0].bundle.preprocess.geometry.height,
        left_out=found.left_out,
        warnings=found.warnings,
        kept_in=None,
        facts={"external_data": ", ".join(sorted(external)), "models": [member.name for member in members]},
        human_error=request.human_error,
    )


def _learnt(members: Sequence[_Member], images: Images) -> list[str]:
    """Further members that were trained on some of the images: another seed draws other splits."""
    notes, total = [], len(images.rows)
    for member in members:
        drawn = drawn_splits(member.bundle.path)
        count = sum(drawn.get(sample.pixels) == "train" for sample in images.samples)
        if count:
            notes.append(
                f"{member.name} was trained on {count:,} of these {total:,} images, so rows with it say "
                "little about new ones"
            )
    return notes


def _open(path: Path, keep: bool) -> _Member:
    bundle = load_bundle(path)
    return _Member(bundle, Evaluator.of(bundle), kept.keeping_folder(bundle) if keep else None)


def _rows(
    members: Sequence[_Member],
    images: Images,
    protocols: Sequence[Protocol],
    should_stop: StopRequest,
    told: Told,
) -> list[Rung]:
    """One row for each protocol; what two of them share is computed once."""
    done: dict[str, tuple[NDArray[np.float32], float, bool]] = {}
    rungs = []
    for protocol in protocols:
        for leaf in leaves([protocol]):
            if leaf.name not in done:
                done[leaf.name] = _of_members(members, images, leaf, should_stop, told)
        parts = {leaf.name: done[leaf.name] for leaf in leaves([protocol])}
        probabilities = average({name: part[0] for name, part in parts.items()}).astype(np.float32)
        rungs.append(
            Rung(
                protocol=protocol,
                members=len(members),
                metrics=measure(probabilities, images.labels, members[0].bundle.classes),
                probabilities=probabilities,
                seconds=sum(part[1] for part in parts.values()),
                reused=all(part[2] for part in parts.values()),
                difference=None,
            )
        )
    return rungs


def _of_members(
    members: Sequence[_Member], images: Images, protocol: Protocol, should_stop: StopRequest, told: Told
) -> tuple[NDArray[np.float32], float, bool]:
    """The mean of the members, aligned by the names of the classes; each with its own preprocessing."""
    found = [member.probabilities(images, protocol, should_stop, told) for member in members]
    classes = members[0].bundle.classes
    sources = [aligned(part[0], m.bundle.classes, classes) for part, m in zip(found, members, strict=True)]
    mean = average(sources).astype(np.float32)
    return mean, sum(part[1] for part in found), all(part[2] for part in found)


def _compared(rungs: Sequence[Rung], labels: NDArray[np.int64]) -> list[Rung]:
    """The same rows; all but the first with the difference of their error to its error, image by image."""
    right = [predict(rung.probabilities) == labels for rung in rungs]
    found = [rungs[0]]
    for rung, correct in zip(rungs[1:], right[1:], strict=True):
        # first minus this one, of accuracies, is this one minus the first, of errors
        found.append(replace(rung, difference=paired_difference(right[0], correct)))
    return found


def _record(bundle: Bundle) -> dict[str, Any]:
    """The recipe of the run that made a model; empty for a model outside a run."""
    with suppress(ConvworksError, KeyError, TypeError):
        recipe = read_json(bundle.path.parent / "recipe.json")["recipe"]
        return recipe if isinstance(recipe, dict) else {}
    return {}


def _external(bundle: Bundle) -> str:
    """Whether other data took part in the training: 'no', 'yes: WEIGHTS', or 'unknown' outside a run."""
    run = bundle.path.parent
    if not (run / "recipe.json").is_file():
        return "unknown"
    for name in ("pretrained.json", "init.json"):
        if (run / name).is_file():
            with suppress(ConvworksError, KeyError, TypeError):
                return f"yes: {read_json(run / name)['from']}"
            return "yes"
    return "no"


def _notes(images: Images, recipe: dict[str, Any], mirrored: Sequence[str]) -> list[str]:
    """What a reader of the numbers should know."""
    notes = []
    if mirrored and recipe and not (recipe.get("augment") or {}).get("flip"):
        notes.append(
            f"{', '.join(dict.fromkeys(mirrored))}: half of the views are mirrored, and the network was not "
            "trained on mirrored images (augment.flip = false)"
        )
    if images.split == "val" and recipe.get("keep") == "best":
        notes.append("the best epoch was chosen on these images, so every row leans to the good side")
    counted = set(images.labels.tolist())
    missing = [name for number, name in enumerate(images.dataset.classes) if number not in counted]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        notes.append(f"there is no image of {', '.join(missing[:5])}{more}: scored as absent")
    return notes


def _flipped(interval: Interval) -> list[float]:
    return [1 - interval[1], 1 - interval[0]]
