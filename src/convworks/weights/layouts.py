"""Which layouts there are for a network, and which names its head has.

A file is recognised by its names: the layout that explains most of them is the one it was written in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from convworks import models
from convworks.errors import ConvworksError
from convworks.weights import alexnet, googlenet, inception, mobilenet, resnet, vgg
from convworks.weights.keymap import OURS, Layout, Layouts

_FAMILIES: tuple[tuple[tuple[str, ...], Layouts], ...] = (
    (alexnet.MODELS, alexnet.layouts),
    (vgg.MODELS, vgg.layouts),
    (googlenet.MODELS, googlenet.layouts),
    (inception.MODELS, inception.layouts),
    (resnet.MODELS, resnet.layouts),
    (mobilenet.MODELS, mobilenet.layouts),
)
FAMILIES: dict[str, Layouts] = {model: find for names, find in _FAMILIES for model in names}

# Networks with which weights of others are often confused: ours -> the one that they are for, and why.
_LATER_ALEXNET = ("alexnet_torchvision", "others ship a later form without response normalisation")
_NORMED_GOOGLENET = ("googlenet_torchvision", "others ship batch norm, and 3x3 kernels in the 5x5 branch")
_STRIDE = "others have the stride in the 3x3 of a bottleneck, not in its 1x1"
_OPTION_B = "others have projections as shortcuts, option B"
LOOKALIKES = {
    "alexnet": _LATER_ALEXNET,
    "alexnet_single_tower": _LATER_ALEXNET,
    "googlenet": _NORMED_GOOGLENET,
    "googlenet_separable_stem": _NORMED_GOOGLENET,
    **{f"resnet{depth}": (f"resnet{depth}_v1_5", _STRIDE) for depth in (50, 101, 152)},
    **{f"resnet{depth}_a": (f"resnet{depth}", _OPTION_B) for depth in (18, 34)},
}


def layouts_of(model: str, options: Mapping[str, Any]) -> tuple[Layout, ...]:
    """Every way in which the weights of a network may be named; ours comes first.

    Raises U101 for an unknown network, with the closest one.
    """
    models.info(model)
    others = FAMILIES[model](model, options) if model in FAMILIES else ()
    return (Layout(publisher=OURS), *others)


def layout(model: str, names: str, options: Mapping[str, Any]) -> Layout:
    """The layout of a publisher: "convworks", "torchvision" or "timm". Raises U197 where there is none."""
    found = {each.publisher: each for each in layouts_of(model, options)}
    if names in found:
        return found[names]
    other, why = LOOKALIKES.get(model, ("", ""))
    raise ConvworksError(
        "U197",
        f"{names} has no names for the weights of {model}",
        where=f"there are: {', '.join(found)}",
        why=f"{why}: {other}" if other else "no network of it computes the same",
        try_="--names convworks",
    )


def recognise(found: Iterable[str], keys: Iterable[str], candidates: Iterable[Layout]) -> tuple[Layout, int]:
    """The layout that explains most names of a file, and how many it explains; of equals the first."""
    there = set(found)
    scores = []
    for each in candidates:
        table = each.table(keys)
        scores.append((0 if table is None else len(there & set(table.values())), each))
    best = max(score for score, _ in scores)
    return next(each for score, each in scores if score == best), best


def state_shapes(model: str, *, num_classes: int, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of a network at its published size; no memory is taken for them."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network = models.create(model, num_classes=num_classes, **options)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def head_keys(model: str, options: Mapping[str, Any]) -> frozenset[str]:
    """Names of the weights that depend on the number of classes: the last layers, auxiliary heads' too."""
    ten = state_shapes(model, num_classes=10, options=options)
    eleven = state_shapes(model, num_classes=11, options=options)
    return frozenset(name for name, shape in ten.items() if shape != eleven[name])


def check_needs(chosen: Layout, model: str, options: Mapping[str, Any]) -> None:
    """Refuse weights which fit and compute something else under these options. Raises A417."""
    defaults = models.info(model).options
    for option, value in chosen.needs.items():
        given = options.get(option, defaults.get(option))
        if given != value:
            raise ConvworksError(
                "A417",
                f"{chosen.publisher} trained {model} with {option}={value!r}, and this network has {given!r}",
                why="the same weights would compute something else",
                try_=f"--set model_options.{option}={value}" if value is not None else f"leave {option} out",
            )


def lookalike(model: str, found: Iterable[str], options: Mapping[str, Any]) -> tuple[str, str]:
    """Which network of ours a file is really for, and why, where it has a well-known other form; or empty."""
    other, why = LOOKALIKES.get(model, ("", ""))
    if not other:
        return "", ""
    known = models.info(other).options
    kept = {key: value for key, value in options.items() if key in known}
    keys = state_shapes(other, num_classes=10, options=kept)
    foreign = [each for each in layouts_of(other, kept) if each.publisher != OURS]
    _, explained = recognise(found, keys, foreign)
    return (other, why) if explained > len(keys) // 2 else ("", "")
