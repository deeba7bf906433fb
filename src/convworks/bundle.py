"""The model bundle: a folder that holds all that a prediction needs, and no code.

    model/  weights.safetensors  model.json  preprocess.json  preprocess.safetensors  MANIFEST.json

A bundle names an architecture of the closed registry; it can be moved, renamed and read on any system.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convworks import models
from convworks.data.preprocess import Preprocess
from convworks.durable import folder_damage, read_json, to_json, write_folder
from convworks.errors import ConvworksError
from convworks.training.checkpoint import load_into, read_tensors, serialize

FORMAT = 1
_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A network ready to predict, with its class names and its preprocessing."""

    path: Path
    network: nn.Module
    classes: tuple[str, ...]
    preprocess: Preprocess
    info: Mapping[str, Any]  # model.json

    @property
    def precision(self) -> str:
        return str(self.info.get("precision", "fp32"))


def save_bundle(
    target: Path,
    *,
    weights: Mapping[str, Tensor],
    preprocess: Preprocess,
    model: str,
    options: Mapping[str, Any],
    classes: tuple[str, ...],
    facts: Mapping[str, Any],
) -> None:
    """Write a bundle, whole or not at all. `facts` are kept in model.json: metrics, provenance, precision."""
    geometry = preprocess.geometry
    info = {
        **facts,
        "format": FORMAT,
        "model": model,
        "options": dict(options),
        "classes": list(classes),
        "input": {"channels": geometry.channels, "height": geometry.height, "width": geometry.width},
    }

    def files() -> Iterator[tuple[str, bytes]]:
        yield "weights.safetensors", serialize(weights)
        yield "model.json", to_json(info)
        with tempfile.TemporaryDirectory() as folder:
            preprocess.save(Path(folder))
            for file in sorted(Path(folder).iterdir()):
                yield file.name, file.read_bytes()

    write_folder(target, files())


def locate_bundle(path: Path) -> Path:
    """The bundle folder meant by a run folder or a bundle folder. Raises A411, A412."""
    if path.is_file() and path.suffix.lower() in _PICKLES:
        raise ConvworksError(
            "A412",
            f"{path.name} is a PyTorch pickle file; such files can run code when they are read",
            where=str(path),
            why="convworks reads safetensors and JSON only",
            try_=f"convworks import {path} --model NAME --out DIR",
        )
    if is_ensemble(path):
        raise ConvworksError(
            "A479",
            f"{path.name} is an ensemble of several networks, and this needs a single one",
            where=str(path),
            why="its answer is that of all members together",
            try_=f"the same with one of its members, such as {path / 'members' / '00'}",
        )
    for candidate in (path / "model", path):
        if (candidate / "model.json").is_file():
            return candidate
    if (path / "recipe.json").is_file():
        raise ConvworksError(
            "A411",
            f"the run {path.name} has no model yet: its training has not finished",
            where=str(path),
            try_=f"convworks resume {path}",
        )
    raise ConvworksError(
        "A411",
        f"there is no model in '{path}'" if path.exists() else f"there is no run or model '{path}'",
        why="a model is a run folder, or its folder model/",
        try_="convworks list runs",
    )


def load_bundle(path: Path) -> Bundle:
    """Read a bundle or a run's model; the network is in eval mode, in float32, on the CPU.

    Raises A411 (no model there), A412 (a pickle), A413 (made by a newer version), A414 (damaged), A405
    (weights of another network).
    """
    folder = locate_bundle(path)
    damage = folder_damage(folder)
    if damage:
        raise ConvworksError(
            "A414", f"the model is damaged: {damage}", where=str(folder), try_="copy the whole folder again"
        )
    info = read_json(folder / "model.json")
    _check_info(info, folder)
    weights = read_tensors(folder / "weights.safetensors")
    shape = info["input"]
    classes = tuple(info["classes"])
    with torch.random.fork_rng(devices=[]):
        network = models.create(
            info["model"],
            num_classes=len(classes),
            in_channels=shape["channels"],
            input_size=(shape["height"], shape["width"]),
            **info["options"],
        )
    load_into(network.state_dict(), weights, where=folder)
    spoiled = [n for n, v in weights.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if spoiled:
        raise ConvworksError(
            "A415", f"the model holds numbers that are not finite, in {spoiled[0]}", where=str(folder)
        )
    return Bundle(folder, network.eval(), classes, Preprocess.load(folder), info)


def _check_info(info: Any, folder: Path) -> None:
    """Types of everything that is used below; a file never names code, only a row of the registry."""
    if isinstance(info, dict) and isinstance(info.get("format"), int) and info["format"] > FORMAT:
        raise ConvworksError(
            "A413",
            f"this model has format {info['format']}; this version of convworks reads up to {FORMAT}",
            where=str(folder),
            try_="pip install --upgrade convworks",
        )
    shape = info.get("input") if isinstance(info, dict) else None
    sound = (
        isinstance(info, dict)
        and info.get("format") == FORMAT
        and isinstance(info.get("model"), str)
        and isinstance(info.get("options"), dict)
        and all(isinstance(v, int | float | str | bool | None) for v in info["options"].values())
        and isinstance(info.get("classes"), list)
        and len(info["classes"]) > 0
        and all(isinstance(name, str) for name in info["classes"])
        and len(set(info["classes"])) == len(info["classes"])
        and isinstance(shape, dict)
        and all(
            type(shape.get(key)) is int and 1 <= shape[key] <= 8192 for key in ("channels", "height", "width")
        )
    )
    if not sound:
        raise ConvworksError("A414", "the model is damaged: model.json lacks a part", where=str(folder))


def is_ensemble(path: Path) -> bool:
    """Whether a folder is an ensemble; `flows.ensemble_bundle` reads it."""
    return (path / "ensemble.json").is_file()


def manifest_of(bundle: Path) -> Path | None:
    """The manifest of the run that a bundle or one of its snapshots lies in."""
    run = bundle.parent.parent if bundle.parent.name == "snapshots" else bundle.parent
    own = bundle.parent.name == "snapshots" or bundle.name in ("model", "model-recalibrated")
    file = run / "manifest.jsonl"
    return file if own and file.is_file() else None
