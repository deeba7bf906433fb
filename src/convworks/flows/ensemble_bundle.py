"""An ensemble as a bundle: a folder of bundles and one file that says how their answers become one.

    ensemble/  ensemble.json  [stacking.safetensors]  MANIFEST.json  members/00/model/ members/01/model/ ...

Beside each member lies the manifest of its run, so that an evaluation still knows what it was trained on.
Each member keeps its own preprocessing and input; columns are matched by the names of the classes.
"""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convworks.bundle import FORMAT, Bundle, is_ensemble, load_bundle, locate_bundle, manifest_of
from convworks.durable import (
    TEMPORARY,
    folder_damage,
    fsync_folder,
    read_json,
    rename,
    sha256_file,
    to_json,
    write_atomic,
    write_folder,
)
from convworks.errors import ConvworksError
from convworks.evaluation.ensemble import aligned, mean_of, require_same_classes
from convworks.evaluation.stacking import Stacking
from convworks.training.checkpoint import read_tensors, serialize

METHODS = ("uniform", "fitted", "greedy", "stacking")
MOST_MEMBERS = 1_000
MOST_SAMPLES = 1_000  # forward passes of a member with dropout at work


@dataclass(frozen=True, slots=True, eq=False)
class EnsembleMember:
    """One network of an ensemble, with its own preprocessing."""

    name: str
    bundle: Bundle
    group: int  # members of a group are averaged first: folds or bags of one training
    samples: int = 0  # forward passes with dropout at work; 0: one without


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Networks that answer together."""

    path: Path
    members: tuple[EnsembleMember, ...]
    classes: tuple[str, ...]
    method: str
    weights: tuple[float, ...]  # of the groups; they sum to one (with stacking they are not used)
    stacking: Stacking | None
    info: Mapping[str, Any]  # ensemble.json

    def combine(self, answers: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
        """(N, K) in the order of `classes`, from the (N, K) of each member in the order of its classes."""
        by_name = [
            aligned(answer, member.bundle.classes, self.classes)
            for answer, member in zip(answers, self.members, strict=True)
        ]
        groups: dict[int, list[NDArray[np.floating]]] = {}
        for member, answer in zip(self.members, by_name, strict=True):
            groups.setdefault(member.group, []).append(answer)
        sources = [mean_of(groups[number]) for number in sorted(groups)]
        return self.stacking.combine(sources) if self.stacking is not None else mean_of(sources, self.weights)


def load_model(path: Path) -> Bundle | Ensemble:
    """What predicts: a run, a bundle or an ensemble. Raises as `load_bundle` and `load_ensemble` do."""
    return load_ensemble(path) if is_ensemble(path) else load_bundle(path)


def together(paths: Sequence[Path], *, weights: Sequence[float] | None = None) -> Ensemble:
    """Models as one without a folder of its own: an average, uniform or with the given weights.

    Raises U273 where there is no model, U263 (other classes), U251 for weights that do not fit, A41x.
    """
    if not paths:
        raise ConvworksError("U273", "an ensemble of no model is none", try_="convworks list runs")
    members = tuple(
        EnsembleMember(_member_name(path), load_bundle(path), number) for number, path in enumerate(paths)
    )
    shares = tuple(map(float, weights)) if weights is not None else tuple([1 / len(paths)] * len(paths))
    if len(shares) != len(members) or min(shares) < 0 or not sum(shares) > 0:
        raise ConvworksError(
            "U251",
            f"{len(shares)} weights {shares} do not fit {len(members)} models",
            try_="one weight of 0 or more for each model",
        )
    classes = members[0].bundle.classes
    for member in members:
        require_same_classes(member.bundle.classes, classes, who=member.name)
    return Ensemble(paths[0], members, classes, "uniform" if weights is None else "fitted", shares, None, {})


def save_ensemble(
    target: Path,
    members: Sequence[Path],
    *,
    groups: Sequence[int],
    samples: Sequence[int],
    classes: tuple[str, ...],
    method: str,
    weights: Sequence[float],
    stacking: Stacking | None,
    facts: Mapping[str, Any],
) -> None:
    """Copy the members' bundles and say how they answer together; whole or not at all.

    Raises OSError where the disk refuses, and the errors of `locate_bundle`.
    """
    folders = [locate_bundle(path) for path in members]
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        rows = []
        for number, (folder, path) in enumerate(zip(folders, members, strict=True)):
            place = temporary / "members" / f"{number:02d}"
            place.mkdir(parents=True)
            write_folder(place / "model", _contents(folder))
            manifest = manifest_of(folder)
            if manifest is not None:
                write_atomic(place / "manifest.jsonl", manifest.read_bytes())
            rows.append(
                {
                    "name": _member_name(path),
                    "group": groups[number],
                    "samples": samples[number],
                    "sha256": sha256_file(place / "model" / "MANIFEST.json"),
                }
            )
        info = {
            **facts,
            "format": FORMAT,
            "method": method,
            "weights": [float(each) for each in weights],
            "classes": list(classes),
            "members": rows,
        }
        _write_top(temporary, info, stacking)
        if target.exists():
            aside = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
            rename(target, aside)
            shutil.rmtree(aside, ignore_errors=True)
        rename(temporary, target)
        fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_top(folder: Path, info: Mapping[str, Any], stacking: Stacking | None) -> None:
    """ensemble.json and stacking.safetensors with the MANIFEST.json that vouches for them."""
    files = {"ensemble.json": to_json(info)}
    if stacking is not None:
        tensors = {"weight": torch.from_numpy(stacking.weight), "bias": torch.from_numpy(stacking.bias)}
        files["stacking.safetensors"] = serialize(tensors)
    part = folder / "top"
    write_folder(part, files.items())
    for file in part.iterdir():
        rename(file, folder / file.name)
    part.rmdir()
    fsync_folder(folder)


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a whole bundle. Raises A414 where it is damaged."""
    damage = folder_damage(folder)
    if damage:
        raise ConvworksError("A414", f"the model is damaged: {damage}", where=str(folder))
    for name in sorted(read_json(folder / "MANIFEST.json")):
        yield name, (folder / Path(name).name).read_bytes()


def _member_name(path: Path) -> str:
    path = path.absolute()
    path = path.parent if path.name in {"model", "model-recalibrated"} else path
    return f"{path.parent.parent.name}/{path.name}" if path.parent.name == "snapshots" else path.name


def load_ensemble(path: Path) -> Ensemble:
    """Read an ensemble with all its members, every one as `load_bundle` reads it.

    Raises A413 (made by a newer version), A480 (damaged) and the errors of `load_bundle`.
    """
    damage = folder_damage(path)
    if damage:
        raise _spoiled(path, damage)
    info = read_json(path / "ensemble.json")
    _check_ensemble(info, path)
    members = []
    for number, row in enumerate(info["members"]):
        folder = path / "members" / f"{number:02d}"
        manifest = folder / "model" / "MANIFEST.json"
        if not manifest.is_file() or sha256_file(manifest) != row["sha256"]:
            raise _spoiled(path, f"member {number:02d} is missing or another one")
        members.append(EnsembleMember(row["name"], load_bundle(folder), row["group"], row["samples"]))
    classes = tuple(info["classes"])
    stacking = _stacking(path, info, len({row["group"] for row in info["members"]}))
    found = Ensemble(path, tuple(members), classes, info["method"], tuple(info["weights"]), stacking, info)
    for member in members:
        if set(member.bundle.classes) != set(classes):
            raise _spoiled(path, f"{member.name} knows other classes")
    return found


def _stacking(path: Path, info: Mapping[str, Any], groups: int) -> Stacking | None:
    if info["method"] != "stacking":
        return None
    tensors = read_tensors(path / "stacking.safetensors")
    classes = len(info["classes"])
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if shapes != {"weight": (groups * classes, classes), "bias": (classes,)}:
        raise _spoiled(path, "stacking.safetensors does not fit the members")
    weight, bias = (tensors[name].double().numpy() for name in ("weight", "bias"))
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise _spoiled(path, "stacking.safetensors holds numbers that are not finite")
    return Stacking(weight, bias)


def _spoiled(path: Path, why: str) -> ConvworksError:
    return ConvworksError(
        "A480", f"the ensemble is damaged: {why}", where=str(path), try_="copy the whole folder again"
    )


def _check_ensemble(info: Any, path: Path) -> None:
    """Types of everything that is used; a file never names a place outside of the folder."""
    if isinstance(info, dict) and isinstance(info.get("format"), int) and info["format"] > FORMAT:
        raise ConvworksError(
            "A413",
            f"this ensemble has format {info['format']}; this version of convworks reads up to {FORMAT}",
            where=str(path),
            try_="pip install --upgrade convworks",
        )
    rows = info.get("members") if isinstance(info, dict) else None
    classes = info.get("classes") if isinstance(info, dict) else None
    weights = info.get("weights") if isinstance(info, dict) else None
    sound = (
        isinstance(rows, list)
        and info.get("format") == FORMAT
        and 0 < len(rows) <= MOST_MEMBERS
        and all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows)
        and all(type(row.get("group")) is int and type(row.get("samples")) is int for row in rows)
        and all(0 <= row["samples"] <= MOST_SAMPLES and isinstance(row.get("sha256"), str) for row in rows)
        and isinstance(classes, list)
        and bool(classes)
        and all(isinstance(name, str) for name in classes)
        and len(set(classes)) == len(classes)
        and info.get("method") in METHODS
        and isinstance(weights, list)
        and all(isinstance(each, float) and math.isfinite(each) and each >= 0 for each in weights)
        and {row["group"] for row in rows} == set(range(len(weights)))
        and sum(weights) > 0
    )
    if not sound:
        raise _spoiled(path, "ensemble.json lacks a part")
