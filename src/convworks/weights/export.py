"""Weights out of a network: one plain safetensors file, under our names or those of another publisher."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from convworks import durable
from convworks.errors import ConvworksError
from convworks.weights.files import METADATA, check_finite
from convworks.weights.keymap import OURS, Layout
from convworks.weights.layouts import check_needs, layout

SUFFIX = ".safetensors"


def export_safetensors(
    network: nn.Module,
    file: str | Path,
    *,
    model: str,
    names: str = OURS,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
) -> Path:
    """Write the weights of a network that `models.create(model, **options)` made, and read them back.

    `names` is "convworks", "torchvision" or "timm": a file in their names loads into their network without a
    word about us. The metadata say the format, the model and `classes`. The file is whole or absent.

    Raises U197 where that publisher has no such network, A417 where its network computes something else with
    these options, U006 (another suffix), U143 (the file is there already), A405 (a dense layer made for
    another input size than theirs), A415 (numbers that are not finite), R503 (the folder refuses).
    """
    target, chosen = Path(file), dict(options or {})
    check_target(target)
    found = layout(model, names, chosen)
    check_needs(found, model, chosen)
    tensors = renamed(network.state_dict(), found, model)
    check_finite(tensors, target)
    said = json.dumps({"model": model, "options": chosen, "classes": list(classes)})
    write_checked(target, tensors, {"format": "pt", METADATA: said})
    return target


def check_target(target: Path) -> None:
    """Raises U006 and U143 before any work."""
    if target.suffix.lower() != SUFFIX:
        raise ConvworksError(
            "U006",
            f"{target.name} is no name of a safetensors file",
            why="a file under another name would not be recognised",
            try_=f"--out {target.with_suffix(SUFFIX)}",
        )
    if target.exists():
        raise ConvworksError(
            "U143",
            f"{target} is there already",
            why="it would be lost",
            try_=f"--out {target.with_name('new-' + target.name)}",
        )


def renamed(state: Mapping[str, Tensor], found: Layout, model: str) -> dict[str, Tensor]:
    """The weights of a network under another layout's names and shapes, on the CPU and contiguous."""
    table = found.table(state)
    if table is None:
        lost = ", ".join(name for name in state if found.rename(name) is None)
        raise ConvworksError(
            "A405",
            f"{found.publisher} has no names for these weights of {model}: {lost}",
            try_="--names convworks",
        )
    result: dict[str, Tensor] = {}
    for ours, theirs in table.items():
        tensor = found.fold(ours, state[ours].detach().cpu())
        if tensor is None:
            raise ConvworksError(
                "A405",
                f"{ours} of {model} has another shape than {found.publisher}'s",
                why=f"it is {tuple(state[ours].shape)}, made for another input size",
                try_="--names convworks",
            )
        result[theirs] = tensor.contiguous()
    return result


def write_checked(target: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Under a temporary name, read back and compared, then renamed. Raises R503, R505."""
    temporary = target.with_name(f"{durable.TEMPORARY}{uuid.uuid4().hex}")
    try:
        safetensors.torch.save_file(dict(tensors), temporary, metadata=metadata)
        with safetensors.safe_open(temporary, framework="pt") as file:
            same = set(file.keys()) == tensors.keys() and all(
                torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items()
            )
        if not same:
            raise ConvworksError("R505", "what was written is not what was to be written", where=str(target))
        durable.fsync_file(temporary)
        durable.replace(temporary, target)
        durable.fsync_folder(target.parent)
    except (OSError, safetensors.SafetensorError) as problem:
        raise ConvworksError(
            "R503", f"cannot write {target}: {problem}", try_=f"--out another/folder/{target.name}"
        ) from problem
    finally:
        temporary.unlink(missing_ok=True)
