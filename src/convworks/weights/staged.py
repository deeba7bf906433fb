"""Staged initialisation: layers of another, trained network begin a new one; each layer said, copied or not.

Two networks share a layer where it has the same name and every tensor of it the same shape. Between VGG's A
and another column of its Table 1 the paper's own rule holds: the first four convolutions and the three
dense layers (Simonyan, Zisserman 2015, section 3.1; lectures, VGGNet), although more of them have the same
name and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError
from convworks.models.vgg import CONFIGS as VGG
from convworks.models.vgg import FROM_A
from convworks.weights.files import WeightFile
from convworks.weights.layouts import head_keys
from convworks.weights.load import head_rows

PAPER = "VGG's rule: the first four convolutions and the three dense layers"
SHARED = "the same name and shape"
MOST = 6  # layers named in the message where none fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What was copied, by layer; and each other layer of the new network that has weights, with the
    reason."""

    source: str  # the other network's name; '' where the file does not say it
    sha256: str
    rule: str
    copied: tuple[str, ...]
    tensors: tuple[str, ...]
    left: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "sha256": self.sha256,
            "rule": self.rule,
            "copied": list(self.copied),
            "left": dict(self.left),
        }


def copy_shared(
    network: nn.Module,
    found: WeightFile,
    *,
    model: str,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Staged:
    """Copy the layers that a file of another network shares with this one; the others keep their values.

    `classes` are the names of the new network's outputs: the last layer is copied where the file's names are
    the same or not known, and its rows are put in their order where the file knows all of them. Raises A421
    where no layer can be copied; the network is unchanged then.
    """
    state = network.state_dict()
    heads = head_keys(model, dict(options or {}))
    new_head, rows = head_rows(found, classes, new_head=True)
    by_name = classes is not None and bool(found.classes)
    paper = found.model == "vgg_a" and model in VGG and model != "vgg_a"
    ours, theirs = _layers(state), _layers(found.tensors)
    left: dict[str, str] = {}
    pairs: dict[str, Tensor] = {}
    copied = []
    for layer, names in ours.items():
        given = {name: found.tensors[name] for name in theirs.get(layer, ())}
        if rows is not None:
            given = {
                name: tensor[rows] if name in heads and len(tensor) == len(found.classes) else tensor
                for name, tensor in given.items()
            }
        if paper and layer not in FROM_A:
            left[layer] = "not one of the rule's"
        elif new_head == "new" and by_name and heads.intersection(names):
            left[layer] = "other classes"
        elif reason := _difference(names, given, state):
            left[layer] = reason
        else:
            copied.append(layer)
            pairs |= {name: given[name] for name in names if name in given}
    if not copied:
        raise _nothing(found, model, ours, theirs, left)
    with torch.no_grad():
        for name, tensor in pairs.items():
            state[name].copy_(tensor)
    return Staged(
        source=found.model,
        sha256=found.sha256,
        rule=PAPER if paper else SHARED,
        copied=tuple(copied),
        tensors=tuple(pairs),
        left=left,
    )


def _layers(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Layer -> names of its tensors, in the order of the state."""
    found: dict[str, list[str]] = {}
    for name in state:
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def _difference(names: Sequence[str], given: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Why a layer cannot be copied; '' where it can. A batch norm's counter may be missing."""
    if not given:
        return "not in the source"
    missing = [n for n in names if n not in given and not n.endswith("num_batches_tracked")]
    extra = [n for n in given if n not in names]
    if missing or extra:
        return (
            f"{(missing or extra)[0].rpartition('.')[2]} only in {'the new one' if missing else 'the source'}"
        )
    for name in filter(given.__contains__, names):
        tensor = given[name]
        if tensor.shape != state[name].shape:
            return f"{tuple(tensor.shape)} there, {tuple(state[name].shape)} here"
        if tensor.is_floating_point() != state[name].is_floating_point():
            return f"{tensor.dtype} there, {state[name].dtype} here"
    return ""


def _nothing(
    found: WeightFile,
    model: str,
    ours: Mapping[str, Sequence[str]],
    theirs: Mapping[str, Sequence[str]],
    left: Mapping[str, str],
) -> ConvworksError:
    shared = [f"{layer} ({left[layer]})" for layer in ours if layer in theirs]
    their_names, our_names = (", ".join(list(each)[:MOST]) for each in (theirs, ours))
    return ConvworksError(
        "A421",
        f"no layer of {found.model or found.path.name} fits {model}, so there is nothing to begin with",
        where=f"of the same name: {', '.join(shared[:MOST])}"
        if shared
        else f"layers there: {their_names}; here: {our_names}",
        why="a layer is copied where its name and the shapes of its weights are the same",
        try_="leave --init out, or --pretrained for weights of the same network under others' names",
    )
