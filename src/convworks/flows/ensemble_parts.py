"""The members of an ensemble before they are one: what each knows, what it has learnt, what it answers.

An image is known by the hash of its pixels: each member's own manifest says whether it was trained on it
("learnt"), validated with it, or never met it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.bundle import Bundle, load_bundle, locate_bundle, manifest_of
from convworks.data.manifest import OK, Manifest
from convworks.durable import read_json, sha256_file
from convworks.errors import ConvworksError
from convworks.evaluation.dropout_sampling import require_dropout, sampled_probabilities
from convworks.evaluation.ensemble import aligned, groups_of
from convworks.evaluation.protocols import resolve
from convworks.flows.evaluate import BATCH, EvaluateRequest, Evaluator, Images, opened
from convworks.flows.prepare import DataRequest, evaluation_loader
from convworks.flows.session import StopRequest
from convworks.recipes.recipe import SAFE_KEYS
from convworks.recipes.resolve import flatten


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One member: its model, the split of every image that its run knew, and what it was trained with."""

    path: Path
    name: str
    bundle: Bundle
    drawn: dict[str, str]  # hash of the pixels -> split of its run
    record: dict[str, Any]  # recipe.json of its run; {} for a bundle without one
    samples: int
    protocol: str

    @property
    def external(self) -> str:
        """Weights of other data that it began with; '' where it began at random or nothing is known."""
        recipe = self.record.get("recipe", {})
        return str(recipe.get("pretrained") or recipe.get("init") or "")

    @property
    def chooses(self) -> bool:
        """Whether validating images decided something; taken to be so where nothing is known."""
        recipe = self.record.get("recipe", {})
        plateau = recipe.get("schedule", {}).get("name") == "plateau"
        return recipe.get("keep") != "last" or recipe.get("early_stopping") is not None or plateau

    @property
    def passes(self) -> int:
        """Forward passes for one image."""
        return resolve(self.protocol).views * max(1, self.samples)

    @property
    def key(self) -> object:
        """Equal for members that are one model trained on parts of the data: its folds or its bags."""
        data = dict(self.record.get("data", {}))
        part = dict(data.pop("partition", {}))
        if "fold" not in part and "bag" not in part:
            return self.path
        kind = ("fold", part["fold"][1]) if "fold" in part else ("bag", 0)
        recipe = flatten(self.record["recipe"])
        kept = {key: value for key, value in recipe.items() if key not in SAFE_KEYS}
        return kind, json.dumps([kept, data, part.get("seed")], sort_keys=True)


def expand(paths: Sequence[Path]) -> list[Path]:
    """Groups of runs as their runs, and a single run with snapshots as its snapshots.

    `runs/NAME` of `train --seeds 5` stands for runs/NAME-s0 ... -s4. Raises U273 where there is one member.
    """
    found: list[Path] = []
    for path in paths:
        if (path / "group.json").is_file() and (path / "summary.json").is_file():
            found += [path.with_name(Path(each).name) for each in read_json(path / "summary.json")["runs"]]
        else:
            found.append(path)
    if len(found) == 1 and (found[0] / "snapshots").is_dir():
        found = sorted(each for each in (found[0] / "snapshots").iterdir() if each.name.isdecimal())
    return found


def load_parts(paths: Sequence[Path], *, samples: int, protocols: Sequence[str]) -> list[Part]:
    """Every member with its past. Raises A41x, U250, U255 and U269 before anything is computed."""
    parts = []
    known: dict[str, dict[str, str]] = {}  # members of a committee have the same manifest
    for path, protocol in zip(paths, protocols, strict=True):
        folder = locate_bundle(path)
        bundle = load_bundle(path)
        if samples:
            require_dropout(bundle.network, name=bundle.info["model"])
        Evaluator.of(bundle).require([resolve(protocol)])
        manifest = manifest_of(folder)
        record: dict[str, Any] = {}
        drawn: dict[str, str] = {}
        if manifest is not None:
            digest = sha256_file(manifest)
            if digest not in known:
                listed = Manifest.load(manifest).samples
                known[digest] = {each.pixels: each.split for each in listed if each.verdict == OK}
            drawn = known[digest]
            if (manifest.parent / "recipe.json").is_file():
                record = read_json(manifest.parent / "recipe.json")
        parts.append(Part(path, _name(path), bundle, drawn, record, samples, protocol))
    return parts


def _name(path: Path) -> str:
    path = path.absolute()
    path = path.parent if path.name in {"model", "model-recalibrated"} else path
    return f"{path.parent.parent.name}/{path.name}" if path.parent.name == "snapshots" else path.name


def part_groups(parts: Sequence[Part]) -> list[list[int]]:
    return groups_of([part.key for part in parts])


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What M members say about N images, columns in the order of `classes`."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]  # (N,)
    pixels: tuple[str, ...]  # (N,) hashes
    paths: tuple[str, ...]  # (N,)
    own: tuple[str, ...]  # (N,) split that the source names, '' where it names none
    learnt: NDArray[np.bool_]  # (M, N)
    validated: NDArray[np.bool_]  # (M, N)
    chose: NDArray[np.bool_]  # (M, N) whether it validated and thereby decided something
    probabilities: tuple[NDArray[np.float32], ...]  # M times (N, K); rows that nobody needs are zero
    seconds: tuple[float, ...]  # M, for one image
    left_out: int


def look(parts: Sequence[Part], data: DataRequest, classes: tuple[str, ...]) -> Answers:
    """The images without answers yet: who knows what. Raises D- and A-errors as `evaluate` does."""
    with opened(_request(parts[0], data), parts[0].bundle) as images:
        samples = images.samples
        given = [entry.split or "" for entry in images.source.entries]
        named = aligned_labels(images.labels, parts[0].bundle.classes, classes)
        own = tuple(given[place] for place in images.places)
        left_out = len(images.left_out)
    pixels = tuple(sample.pixels for sample in samples)
    met = [[part.drawn.get(each, "") for each in pixels] for part in parts]
    return Answers(
        classes=classes,
        labels=named,
        pixels=pixels,
        paths=tuple(sample.path for sample in samples),
        own=own,
        learnt=np.array([[split == "train" for split in row] for row in met]),
        validated=np.array([[split == "val" for split in row] for row in met]),
        chose=np.array(
            [[part.chooses and split == "val" for split in row] for part, row in zip(parts, met, strict=True)]
        ),
        probabilities=(),
        seconds=(),
        left_out=left_out,
    )


def aligned_labels(
    labels: NDArray[np.int64], classes: Sequence[str], target: Sequence[str]
) -> NDArray[np.int64]:
    """Positions in `classes` as positions in `target`, by name."""
    place = {name: number for number, name in enumerate(target)}
    table = np.array([place[name] for name in classes], dtype=np.int64)
    return table[labels]


def _request(part: Part, data: DataRequest) -> EvaluateRequest:
    return EvaluateRequest(
        model=part.path, data=data, split="all", skip_unreadable=True, protocol=part.protocol
    )


def answer(
    parts: Sequence[Part],
    data: DataRequest,
    looked: Answers,
    sets: Sequence[NDArray[np.int64]],
    *,
    should_stop: StopRequest,
) -> Answers:
    """The probabilities of every member for some sets of rows; each sees the images in its own way.

    A set is answered by itself, so that its figures are those of an evaluation of these images alone.

    Raises D145 where a member reads other images than the first one, and StoppedEarlyError.
    """
    found, seconds = [], []
    known: dict[object, Images] = {}  # members that see the same pixels share them
    with ExitStack() as stack:
        for part in parts:
            key = (part.bundle.preprocess.geometry, part.bundle.classes)
            if key not in known:
                request = _request(part, data)
                known[key] = stack.enter_context(opened(request, part.bundle, should_stop))
            images = known[key]
            if tuple(sample.pixels for sample in images.samples) != looked.pixels:
                raise ConvworksError(
                    "D145",
                    f"the images changed while {part.name} was being evaluated",
                    why="members can only be averaged on the same images",
                    try_="the same command again, when nothing writes into the data",
                )
            whole = np.zeros((len(looked.labels), len(looked.classes)), dtype=np.float32)
            start = time.perf_counter()
            for rows in (each for each in sets if len(each)):
                probabilities = member_probabilities(part, _only(images, rows), should_stop)
                whole[rows] = aligned(probabilities, part.bundle.classes, looked.classes)
            seconds.append((time.perf_counter() - start) / max(1, sum(map(len, sets))))
            found.append(whole)
    return replace(looked, probabilities=tuple(found), seconds=tuple(seconds))


def _only(images: Images, rows: NDArray[np.int64]) -> Images:
    places = [images.places[int(row)] for row in rows]
    return replace(images, rows=images.rows[rows], places=places)


def member_probabilities(part: Part, images: Images, should_stop: StopRequest) -> NDArray[np.float32]:
    evaluator = Evaluator.of(part.bundle)
    if not part.samples:
        return evaluator.probabilities(images, resolve(part.protocol), should_stop)
    loader = evaluation_loader(
        images.dataset.images,
        images.dataset.labels,
        images.rows,
        part.bundle.preprocess,
        batch=BATCH,
        numerics=evaluator.numerics,
        workers=1,
    )
    return sampled_probabilities(
        evaluator.network, loader, evaluator.numerics, samples=part.samples, should_stop=should_stop
    )
