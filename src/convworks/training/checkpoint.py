"""Checkpoints: a folder each, whole or absent, safetensors and JSON only.

    checkpoints/step-00001200/   network, optimizer, average (.safetensors), state.json, MANIFEST.json
    checkpoints/best-00000900/   network.safetensors, state.json, MANIFEST.json

Resuming takes the newest folder whose MANIFEST verifies; one that does not is set aside as NAME.broken.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from convworks.durable import folder_damage, read_json, remove_leftovers, rename, to_json, write_folder
from convworks.errors import ConvworksError

_STEP_FOLDER = re.compile(r"step-(\d{8,})")
_BEST_FOLDER = re.compile(r"best-(\d{8,})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds: groups of named tensors ('network', 'optimizer', 'average') and a state."""

    path: Path
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def serialize(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes: on the CPU, contiguous, in the order of their names."""
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.data_ptr() in seen:  # tied weights are written once under each name
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        ready[name] = tensor
    return safetensors.torch.save(ready)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises A402 where it is no such file."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, ValueError, MemoryError, safetensors.SafetensorError) as problem:
        raise ConvworksError(
            "A402", f"cannot read the tensors in {path.name}: {problem}", where=str(path)
        ) from problem


def save_checkpoint(
    folder: Path, name: str, *, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write `folder/name`. Raises OSError where the disk refuses; then nothing is left behind."""

    def files() -> Iterator[tuple[str, bytes]]:
        for group, named in tensors.items():
            yield f"{group}.safetensors", serialize(named)
        yield "state.json", to_json(state)

    write_folder(folder / name, files())
    return folder / name


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def best_name(step: int) -> str:
    return f"best-{step:08d}"


def checkpoint_steps(folder: Path, pattern: re.Pattern[str] = _STEP_FOLDER) -> list[int]:
    """Steps of the checkpoints in a folder, newest first; names set aside do not count."""
    if not folder.is_dir():
        return []
    found = (pattern.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted((int(match[1]) for match in found if match), reverse=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder after verifying every hash. Raises A403 with what is wrong."""
    damage = folder_damage(path)
    if damage:
        raise ConvworksError("A403", f"the checkpoint {path.name} is damaged: {damage}", where=str(path))
    tensors = {file.stem: read_tensors(file) for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(path, tensors, read_json(path / "state.json"))


def newest_valid(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a warning for each newer one that had to be set aside.

    Raises A404 where there were checkpoints and none is whole.
    """
    remove_leftovers(folder)
    warnings: list[str] = []
    for step in checkpoint_steps(folder):
        path = folder / step_name(step)
        try:
            return load_checkpoint(path), warnings
        except ConvworksError as problem:
            set_aside(path)
            warnings.append(f"{problem.what}; set aside as {path.name}.broken")
    if warnings:
        raise ConvworksError(
            "A404",
            "none of this run's checkpoints is whole: " + "; ".join(warnings),
            where=str(folder),
            why="the state of the training is lost; the recipe and the metrics are not",
            try_="train again with the same command and --fresh",
        )
    return None, warnings


def set_aside(path: Path) -> None:
    target = path.with_name(path.name + ".broken")
    shutil.rmtree(target, ignore_errors=True)
    rename(path, target)


def remove_old(folder: Path, *, keep: int, best_step: int | None) -> None:
    """Keep the newest `keep` checkpoints and the best one."""
    for step in checkpoint_steps(folder)[keep:]:
        shutil.rmtree(folder / step_name(step), ignore_errors=True)
    for step in checkpoint_steps(folder, _BEST_FOLDER):
        if step != best_step:
            shutil.rmtree(folder / best_name(step), ignore_errors=True)


@torch.no_grad()
def load_into(target: Mapping[str, Tensor], source: Mapping[str, Tensor], *, where: Path) -> None:
    """Copy tensors by name into existing ones, keeping their memory format and device.

    Raises A405 where names or shapes differ.
    """
    missing, extra = sorted(target.keys() - source.keys()), sorted(source.keys() - target.keys())
    if missing or extra:
        named = ", ".join((missing or extra)[:3])
        problem = "lacks" if missing else "has more than this network:"
        raise ConvworksError(
            "A405", f"the weights do not fit this network: the file {problem} {named}", where=str(where)
        )
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise ConvworksError(
                "A405",
                f"the weights do not fit this network: {name} is {tuple(source[name].shape)} in the file "
                f"and {tuple(tensor.shape)} in the network",
                where=str(where),
            )
        tensor.copy_(source[name])
