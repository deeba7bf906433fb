"""Two files that hold a model's answers under one protocol, read together or not at all.

    NAME.safetensors   probabilities (N, K) and labels (N,)
    NAME.json          what they are of, the hash of the other file

`flows/kept.py` writes them, and says when they may be used again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from convworks.durable import read_json
from convworks.errors import ConvworksError

FOLDER = "protocols"  # in the run's evaluation/


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What one pair of files holds; `facts` is the JSON file."""

    probabilities: NDArray[np.float32]  # (N, K)
    labels: NDArray[np.int64]  # (N,)
    seconds: float
    facts: dict[str, Any]


def load_kept(path: Path) -> Kept:
    """Read one pair of files by the JSON file.

    Raises A401 where that cannot be read, A470 where the two do not belong together or hold something else.
    """
    facts = read_json(path)
    try:
        content = path.with_suffix(".safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise ValueError("the two files are of different evaluations")
        tensors = load_tensors(content)
        probabilities, labels = tensors["probabilities"], tensors["labels"]
        shape = (int(facts["identity"]["images"]), len(facts["identity"]["classes"]))
        if probabilities.shape != shape or labels.shape != shape[:1] or len(facts["paths"]) != shape[0]:
            raise ValueError("the numbers of images or classes differ")
        return Kept(probabilities, labels, float(facts["seconds"]), facts)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as problem:
        raise ConvworksError(
            "A470",
            f"kept probabilities cannot be used: {problem}",
            where=str(path),
            why="they would be those of another model, other images, or other views",
            try_=f"remove {path.name} and evaluate again",
        ) from problem
