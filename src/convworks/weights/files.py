"""Reading a file of weights that can run no code: safetensors, or a model folder of ours.

A safetensors file of ours says in its metadata which network it is for and which classes its outputs are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from convworks.bundle import load_bundle
from convworks.durable import sha256_file
from convworks.errors import ConvworksError
from convworks.training.checkpoint import read_tensors

METADATA = "convworks"  # key of what we say: a JSON object of model, options and classes
METADATA_CAP = 2**22  # characters of it
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")  # pickle's protocol byte; torch's zip archive


@dataclass(frozen=True, slots=True, eq=False)
class WeightFile:
    """Tensors by the names in the file, and what the file says about them."""

    path: Path
    tensors: Mapping[str, Tensor]
    sha256: str
    model: str = ""  # where the file says it
    options: Mapping[str, Any] = field(default_factory=dict)  # of that model
    classes: tuple[str, ...] = ()


def read_weights(path: Path) -> WeightFile:
    """Read a safetensors file, a model folder or a run folder.

    Raises A411 (nothing there), A402 (no safetensors), A412 (a pickle), A414 (a damaged model folder), A415
    (numbers that are not finite).
    """
    if path.is_dir():
        bundle = load_bundle(path)
        return WeightFile(
            path=bundle.path,
            tensors=bundle.network.state_dict(),
            sha256=sha256_file(bundle.path / "weights.safetensors"),
            model=bundle.info["model"],
            options=bundle.info["options"],
            classes=bundle.classes,
        )
    if not path.is_file():
        raise ConvworksError(
            "A411",
            f"there is no file of weights '{path}'",
            why="weights are a .safetensors file, or the folder of a run or a model",
            try_=f"ls {path.parent}",
        )
    refuse_pickle(path)
    tensors = read_tensors(path)
    check_finite(tensors, path)
    return WeightFile(path=path, tensors=tensors, sha256=sha256_file(path), **_described(path))


def refuse_pickle(path: Path) -> None:
    """Raises A412 where a file is one of torch's pickles, whatever its name is."""
    with path.open("rb") as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], "little")  # of safetensors: its length, then a JSON object
    safetensors_file = start[8:9] == b"{" and header < path.stat().st_size
    if start.startswith(_PICKLE_STARTS) and not safetensors_file:
        raise ConvworksError(
            "A412",
            f"{path.name} is a PyTorch pickle file; such files can run code when they are read",
            where=str(path),
            why="only one command reads them, in a process of its own that accepts nothing but tensors",
            try_=f"convworks import {path} --model NAME --out DIR",
        )


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises A415 with the name of the first tensor that holds an infinity or no number."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ConvworksError(
                "A415", f"the weights hold numbers that are not finite, in {name}", where=str(path)
            )


def _described(path: Path) -> dict[str, Any]:
    """Model, options and classes out of our part of the metadata; what we did not write is passed over."""
    with safetensors.safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA, "{}")
    try:
        said = json.loads(text) if len(text) <= METADATA_CAP else {}
    except (ValueError, RecursionError):
        said = {}
    if not isinstance(said, dict):
        return {}
    model, options, classes = said.get("model"), said.get("options"), said.get("classes")
    found: dict[str, Any] = {}
    if isinstance(model, str) and isinstance(options, dict):
        found |= {"model": model, "options": options}
    if isinstance(classes, list) and all(isinstance(name, str) for name in classes):
        found["classes"] = tuple(classes) if len(set(classes)) == len(classes) else ()
    return found
