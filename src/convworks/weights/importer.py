"""Weights of others as a model folder of ours, ready for predict, eval and --pretrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from convworks import models
from convworks.bundle import save_bundle
from convworks.data.preprocess import Geometry, Preprocess
from convworks.durable import sha256_file
from convworks.errors import ConvworksError
from convworks.layers.auxiliary import AUXILIARY
from convworks.weights import googlenet, inception, mobilenet
from convworks.weights.files import WeightFile, read_weights
from convworks.weights.layouts import head_keys, layouts_of, recognise, state_shapes
from convworks.weights.load import Loaded, fill
from convworks.weights.pth import read_pth

Normalisation = Literal["imagenet", "half"]
NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # means and deviations of the training images
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # to -1 ... 1
}
HALF = {*googlenet.MODELS, *inception.MODELS, *mobilenet.MODELS}  # were trained on -1 ... 1
CROP_SHARE = 0.875  # of the shorter side: 224 of 256, 299 of 341


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was made: the folder, whose names the file had, its hash, and the number of classes."""

    path: Path
    model: str
    names: str
    sha256: str
    classes: int
    parameters: int
    input: tuple[int, int, int]  # channels, height, width
    normalisation: str


def import_weights(
    file: Path,
    *,
    model: str | None = None,
    out: Path,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    size: int | None = None,
    channels: int | None = None,
    normalisation: Normalisation | None = None,
    trusted: bool = False,
    replace: bool = False,
) -> Imported:
    """Make a model folder of a safetensors file, or of a PyTorch file that the user trusts.

    `model` is the network that the weights are for, with its `options`; a file of ours says both itself.
    `classes` are the names of the outputs in their order; without them they are those that the file knows,
    or "class 0", "class 1" and so on. `size` is the side of the input and `channels` their number, 1 or 3,
    else the published ones; an image is resized until its shorter side is size / 0.875, and its centre is
    seen. `normalisation` is what the network was trained with, else the usual one of its publishers.

    Raises U143 (`out` is there, unless it may be replaced), U198 (another number of classes), U199 (the file
    does not say its network), U101, U120 to U123 (no such network), A402, A405, A411, A415, A417 (as
    `load_weights`), U196, A418, A419 (as `read_pth`).
    """
    if not replace:
        _require_absent(out)
    found = _read(file, trusted)
    model = model or _said_model(found)
    chosen, row = {**found.options, **(options or {})}, models.info(model)
    names = _class_names(found, model, chosen, classes)
    side, channels = (size, size) if size else row.input_size, channels or row.in_channels
    with torch.random.fork_rng(devices=[]):
        network = models.create(
            model, num_classes=len(names), in_channels=channels, input_size=side, **chosen
        )
    loaded = fill(network, found, model=model, options=chosen)
    kind = normalisation or ("half" if model in HALF else "imagenet")
    parameters = sum(p.numel() for p in network.parameters())
    out.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(
        out,
        weights=network.state_dict(),
        preprocess=preprocess_of(channels, side, kind),
        model=model,
        options=chosen,
        classes=names,
        facts=_facts(found, loaded, parameters),
    )
    return Imported(
        path=out,
        model=model,
        names=loaded.names,
        sha256=found.sha256,
        classes=len(names),
        parameters=parameters,
        input=(channels, *side),
        normalisation=kind,
    )


def _facts(found: WeightFile, loaded: Loaded, parameters: int) -> dict[str, Any]:
    """What model.json says beside the network: its arithmetic, and where its weights come from."""
    return {
        "precision": "fp32",
        "memory_format": "contiguous",
        "parameters": parameters,
        "imported": {"file": found.path.name, "sha256": found.sha256, "names": loaded.names},
    }


def _require_absent(out: Path) -> None:
    if out.exists():
        raise ConvworksError(
            "U143",
            f"{out} is there already",
            why="it would be lost",
            try_=f"--out {out.with_name('new-' + out.name)}",
        )


def preprocess_of(channels: int, side: tuple[int, int], normalisation: str) -> Preprocess:
    """Shorter side to side / 0.875, the centre, then (x - mean) / std. Grey takes the mean of the three."""
    mean, std = (np.array(row, dtype=np.float32) for row in NORMALISATIONS[normalisation])
    if channels == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    height, width = side
    geometry = Geometry(
        height=height,
        width=width,
        channels=1 if channels == 1 else 3,
        fit="crop",
        stored_height=int(height / CROP_SHARE),
        stored_width=int(width / CROP_SHARE),
    )
    return Preprocess(geometry, "per-channel", mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1))


def _read(file: Path, trusted: bool) -> WeightFile:
    """By what is in the file: safetensors as they are, PyTorch's files through the other process."""
    try:
        return read_weights(file)
    except ConvworksError as problem:
        if problem.code != "A412":
            raise
    return WeightFile(path=file, tensors=read_pth(file, trusted=trusted), sha256=sha256_file(file))


def _said_model(found: WeightFile) -> str:
    if found.model:
        return found.model
    raise ConvworksError(
        "U199",
        f"{found.path.name} does not say which network its weights are for",
        where=str(found.path),
        try_=f"convworks import {found.path} --model NAME  (convworks list models)",
    )


def _class_names(
    found: WeightFile, model: str, options: Mapping[str, Any], given: Sequence[str] | None
) -> tuple[str, ...]:
    """Names of the outputs. Raises U198 where there are too few, too many, or one twice."""
    count = _outputs(found, model, options)
    if given is None:
        return found.classes or tuple(
            f"class {number}" for number in range(count or models.info(model).num_classes)
        )
    if len(set(given)) == len(given) and count in (None, len(given)):
        return tuple(given)
    twice = len(given) - len(set(given))
    raise ConvworksError(
        "U198",
        f"{len(given)} class names were given" + (f", {twice} of them twice" if twice else ""),
        where=f"the weights are for {count} classes" if count is not None else "",
        why="a name on each output, in their order, is what a prediction says",
        try_="--class-names FILE with one name in each line",
    )


def _outputs(found: WeightFile, model: str, options: Mapping[str, Any]) -> int | None:
    """Classes of the last layer in a file; None where it has no such layer, which loading then tells."""
    shapes = state_shapes(model, num_classes=10, options=options)
    layout, _ = recognise(found.tensors, shapes, layouts_of(model, options))
    table = layout.table(shapes) or {}
    heads = [name for name in head_keys(model, options) if not name.startswith(AUXILIARY)]
    counts = {
        len(found.tensors[table[name]]) * 10 // shapes[name][0]
        for name in heads
        if table.get(name) in found.tensors and found.tensors[table[name]].ndim
    }
    return max(counts) if len(counts) == 1 and max(counts) >= 2 else None
