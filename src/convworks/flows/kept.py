"""Probabilities of a model for every image under a protocol, kept in the run for later combinations.

    RUN/evaluation/protocols/DATA-SPLIT-PROTOCOL.safetensors   probabilities (N, K) and labels (N,)
    RUN/evaluation/protocols/DATA-SPLIT-PROTOCOL.json          what they are of, the hash of the other file

They are used again only where model, images, labels, protocol, arithmetic and code are the same, to the hash:
the one file is believed only through the other (`evaluation/kept_answers.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from convworks.bundle import Bundle
from convworks.data.cache import pixel_code
from convworks.durable import MANIFEST, sha256_file, to_json, write_atomic
from convworks.errors import ConvworksError
from convworks.evaluation.kept_answers import FOLDER, Kept, load_kept
from convworks.evaluation.protocols import Protocol
from convworks.flows.evaluate import Images, numerics_of

FORMAT = 1


def keeping_folder(bundle: Bundle) -> Path | None:
    """Where a model's probabilities are kept; None for a model outside a run."""
    run = bundle.path.parent
    return run / "evaluation" / FOLDER if (run / "recipe.json").is_file() else None


def stem(bundle: Bundle, images: Images, protocol: Protocol) -> str:
    """The name of the two files: data, split and protocol, and the model where the run has a second one."""
    parts = [images.source.name, images.split, protocol.name]
    if bundle.path.name != "model":
        parts.append(bundle.path.name)
    return re.sub(r"[^A-Za-z0-9.+_-]", "_", "-".join(parts))


def identity(bundle: Bundle, images: Images, protocol: Protocol) -> dict[str, Any]:
    """All that decides the probabilities: hashes of model, data and code, the protocol, the arithmetic."""
    digest = hashlib.sha256()
    for sample in images.samples:
        digest.update(f"{sample.sha256} {sample.label!r}\n".encode("utf-8", "backslashreplace"))
    numerics = numerics_of(bundle)
    return {
        "format": FORMAT,
        "model": sha256_file(bundle.path / MANIFEST),
        "data": digest.hexdigest(),
        "images": len(images.rows),
        "classes": list(bundle.classes),
        "protocol": protocol.to_dict(),
        "precision": numerics.precision,
        "memory_format": numerics.memory_format,
        "code": pixel_code(),
    }


def keep(
    folder: Path,
    name: str,
    *,
    identity: dict[str, Any],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    paths: Sequence[str],
    facts: dict[str, Any],
) -> None:
    """Write both files, each whole or not at all; the JSON file last. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {
        "probabilities": np.ascontiguousarray(probabilities),
        "labels": np.ascontiguousarray(labels),
    }
    content = save_tensors(tensors)
    write_atomic(folder / f"{name}.safetensors", content)
    record = {
        **facts,
        "identity": identity,
        "paths": list(paths),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_atomic(folder / f"{name}.json", to_json(record))


def find(folder: Path, name: str, identity: dict[str, Any]) -> Kept | None:
    """What was kept under a name, where it is of exactly this; None for anything else."""
    try:
        kept = load_kept(folder / f"{name}.json")
    except ConvworksError:
        return None
    return kept if kept.facts["identity"] == identity else None
