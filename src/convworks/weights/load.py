"""Weights into a network: matched by name, every difference said, nothing filled in silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.layers.auxiliary import AUXILIARY
from convworks.weights.files import WeightFile, read_weights
from convworks.weights.keymap import OURS, Layout
from convworks.weights.layouts import check_needs, head_keys, layouts_of, lookalike, recognise

COUNTER = "num_batches_tracked"  # of a batch norm: decides nothing where its momentum is a number
Head = Literal["file", "rows", "new"]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was taken out of a file: whose names it has, its hash, and what kept its initial values.

    `head` is "file" where the last layer is the file's, "rows" where its rows were put in the order of the
    classes by their names, "new" where it keeps its initial values.
    """

    names: str
    sha256: str
    head: Head
    initial: tuple[str, ...] = ()  # names of ours that keep their initial values

    def to_dict(self) -> dict[str, Any]:
        return {
            "names": self.names,
            "sha256": self.sha256,
            "head": self.head,
            "initial": list(self.initial),
        }


@dataclass(slots=True, kw_only=True)
class Match:
    """Weights of a file under our names, and every difference, in the file's names."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    initial: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        found = (("missing", self.missing), ("unexpected", self.unexpected), ("unfit", self.misfits))
        return [f"{len(names)} {word}: {', '.join(names)}" for word, names in found if names]


def load_weights(
    network: nn.Module,
    file: str | Path,
    *,
    model: str,
    options: Mapping[str, Any] | None = None,
    new_head: bool = False,
    classes: Sequence[str] | None = None,
) -> Loaded:
    """Copy the weights of a safetensors file, or of a run or model folder of ours, into a network.

    `model` and `options` are what `models.create` made the network with. Names may be ours, torchvision's or
    timm's. Everything must be there and fit, with two exceptions: batch norm's counter of batches, which old
    files lack, and with `new_head` the last layers (also of auxiliary heads), which then keep their initial
    values; auxiliary heads that only the file or only the network has are then left out.

    `classes` are the names of the network's outputs. Where the file knows its classes and has all of these,
    the rows of the last layers are taken by name, also with `new_head`; where it knows them and lacks one,
    the head is new, or without `new_head` an error; a file without class names has its rows taken as they
    stand, and with `new_head` none.

    Raises A405 with every missing, unexpected or misshapen weight, A417 (weights of another form), and what
    `read_weights` raises. The network is unchanged then.
    """
    return fill(
        network, read_weights(Path(file)), model=model, options=options, new_head=new_head, classes=classes
    )


def fill(
    network: nn.Module,
    found: WeightFile,
    *,
    model: str,
    options: Mapping[str, Any] | None = None,
    new_head: bool = False,
    classes: Sequence[str] | None = None,
) -> Loaded:
    """`load_weights` of a file that was read already."""
    chosen = dict(options or {})
    _check_model(found, model, chosen)
    state = network.state_dict()
    layout, explained = recognise(found.tensors, state, layouts_of(model, chosen))
    if not explained:
        raise _misfit(
            found, model, chosen, f"none of its {len(found.tensors)} names is known: {_some(found)}"
        )
    check_needs(layout, model, chosen)
    heads = head_keys(model, chosen) & state.keys()
    head, rows = head_rows(found, classes, new_head=new_head)
    tensors = found.tensors if rows is None else _with_rows(found, layout, heads, rows)
    match = match_weights(
        tensors, state, layout, new=heads if head == "new" else frozenset(), lenient=new_head
    )
    if match.problems:
        raise _misfit(found, model, chosen, f"{layout.publisher} names, {'; '.join(match.problems)}")
    with torch.no_grad():
        for name, tensor in match.tensors.items():
            state[name].copy_(tensor)
    return Loaded(names=layout.publisher, sha256=found.sha256, head=head, initial=tuple(match.initial))


def match_weights(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    layout: Layout,
    *,
    new: frozenset[str] = frozenset(),
    lenient: bool = False,
) -> Match:
    """Pair the weights of a file with those of a network; nothing is copied.

    `new` are names of ours that are not taken. `lenient` leaves out auxiliary heads that one side lacks.
    """
    result = Match()
    table = layout.table(state) or {}
    for ours, theirs in table.items():
        target, there = state[ours], theirs in tensors
        if ours in new:
            result.initial.append(ours)
        elif not there and ours.endswith(COUNTER):
            continue
        elif not there and lenient and ours.startswith(AUXILIARY):
            result.initial.append(ours)
        elif not there:
            result.missing.append(theirs)
        else:
            tensor = layout.unfold(ours, tensors[theirs])
            if problem := _unlike(theirs, tensor, target):
                result.misfits.append(problem)
            else:
                result.tensors[ours] = tensor
    extra = sorted(tensors.keys() - set(table.values()))
    known = layout.auxiliary if layout.publisher != OURS else (AUXILIARY,)
    result.unexpected = [name for name in extra if not (lenient and name.startswith(known))]
    return result


def _unlike(name: str, tensor: Tensor, target: Tensor) -> str:
    """Why a tensor of a file cannot become that of the network; '' where it can."""
    if tensor.shape != target.shape:
        return f"{name} is {tuple(tensor.shape)} in the file and {tuple(target.shape)} in the network"
    if tensor.is_floating_point() != target.is_floating_point():
        return f"{name} is {tensor.dtype} in the file and {target.dtype} in the network"
    return ""


def head_rows(
    found: WeightFile, classes: Sequence[str] | None, *, new_head: bool
) -> tuple[Head, list[int] | None]:
    """What becomes of the last layers, and the rows of the file in the order of `classes`. Raises A405."""
    if classes is None or not found.classes:
        return ("new" if new_head else "file"), None
    if tuple(classes) == found.classes:
        return "file", None
    absent = sorted(set(classes) - set(found.classes))
    if not absent:
        places = {name: row for row, name in enumerate(found.classes)}
        return "rows", [places[name] for name in classes]
    if new_head:
        return "new", None
    raise ConvworksError(
        "A405",
        f"the weights do not know {len(absent)} of these classes: {', '.join(absent)}",
        where=str(found.path),
        try_="new_head=True, or train with --pretrained",
    )


def _with_rows(
    found: WeightFile, layout: Layout, heads: frozenset[str], rows: list[int]
) -> dict[str, Tensor]:
    """The file's tensors, its last layers with the given rows where they have one for each class."""
    names = {layout.rename(name) for name in heads}
    return {
        name: tensor[rows] if name in names and tensor.shape[:1] == (len(found.classes),) else tensor
        for name, tensor in found.tensors.items()
    }


def _check_model(found: WeightFile, model: str, options: Mapping[str, Any]) -> None:
    """A file that says what it is for is believed: the same names may belong to two networks."""
    if not found.model:
        return
    if _weights_of(found.model) != _weights_of(model):
        raise ConvworksError(
            "A417",
            f"these weights are those of {found.model}, and this network is {model}",
            where=str(found.path),
            why="weights of one network may fit another and compute something else in it",
            try_=f"--model {found.model}",
        )
    usual = models.info(model).options
    theirs, ours = ({**usual, **each} for each in (found.options, options))
    if theirs != ours:
        differing = {key: value for key, value in theirs.items() if value != ours.get(key)}
        raise ConvworksError(
            "A417",
            f"these weights are those of {model} with {_spelled(differing)}, which this network has not",
            where=str(found.path),
            why="weights of one network may fit another and compute something else in it",
            try_=" ".join(f"--set model_options.{key}={value}" for key, value in differing.items()),
        )


def _spelled(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in sorted(options.items()))


def _weights_of(model: str) -> str:
    """Name of a set of weights: MobileNets of one width share theirs, whatever the size of their images."""
    return model.rpartition("_")[0] if model.startswith("mobilenet_v1_") else model


def _some(found: WeightFile) -> str:
    names = list(found.tensors)
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _misfit(found: WeightFile, model: str, options: Mapping[str, Any], problem: str) -> ConvworksError:
    other, why = lookalike(model, found.tensors, options)
    return ConvworksError(
        "A405",
        f"the weights do not fit {model}: {problem}",
        where=str(found.path),
        why=f"they are for {other}: {why}"
        if other
        else "a weight that is left out or filled in would show as poor accuracy only",
        try_=f"--model {other}" if other else f"convworks show {model}",
    )
