"""The tables of names: complete, one to one, and those of the publishers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from convworks import models
from convworks.errors import ConvworksError
from convworks.weights.keymap import Layout
from convworks.weights.layouts import (
    FAMILIES,
    LOOKALIKES,
    head_keys,
    layout,
    layouts_of,
    recognise,
    state_shapes,
)

from .oracle import fingerprint, torchvision_models

NORMED = {"batch_norm": True}
# Number of weights, and a fingerprint of their names and shapes, of torchvision 0.28.0 and timm 1.0.31.
# fmt: off
PUBLISHED: tuple[tuple[str, str, dict[str, Any], int, str], ...] = (
    ("alexnet_torchvision",   "torchvision", {},      16, "935c1ea73a7869ee"),
    ("vgg_a",                 "torchvision", {},      22, "b11acd4f90d9643f"),
    ("vgg_a",                 "timm",        {},      22, "9d751f373c3ee1f4"),
    ("vgg_a",                 "torchvision", NORMED,  62, "56ed5816909a8132"),
    ("vgg_a",                 "timm",        NORMED,  62, "e9105970f530f807"),
    ("vgg_b",                 "torchvision", {},      26, "79ca8fd7a1480aa7"),
    ("vgg_b",                 "timm",        {},      26, "cf2c1b775d2cabbf"),
    ("vgg_b",                 "torchvision", NORMED,  76, "e4f52ce016e5e82f"),
    ("vgg_b",                 "timm",        NORMED,  76, "a5799c3366a0529b"),
    ("vgg_d",                 "torchvision", {},      32, "ba63c2556d912509"),
    ("vgg_d",                 "timm",        {},      32, "64c32d2c3487778c"),
    ("vgg_d",                 "torchvision", NORMED,  97, "86bad13b66635552"),
    ("vgg_d",                 "timm",        NORMED,  97, "e00c761ca909982a"),
    ("vgg_e",                 "torchvision", {},      38, "393fac8b08b63fbe"),
    ("vgg_e",                 "timm",        {},      38, "10e2a6afcc19ac22"),
    ("vgg_e",                 "torchvision", NORMED, 118, "faf0fdbb92f698c6"),
    ("vgg_e",                 "timm",        NORMED, 118, "c8e9e05e4cadaae7"),
    ("googlenet_torchvision", "torchvision", {},     364, "de3745733576b3b1"),
    ("googlenet_torchvision", "torchvision", {"auxiliary": False}, 344, "545eb1baab91f5d8"),
    ("inception_v3",          "torchvision", {},     580, "4c9e13f64584de74"),
    ("inception_v3",          "timm",        {},     580, "4c9e13f64584de74"),
    ("inception_v3",          "timm",        {"auxiliary": False}, 566, "fafa341565705812"),
    ("inception_v4",          "timm",        {},     896, "3802c76b5597c75d"),
    ("inception_resnet_v2",   "timm",        {},    1306, "dda8091d0fca7040"),
    ("mobilenet_v1_100_224",  "timm",        {"activation": "relu6"}, 164, "f19026159041706a"),
    ("resnet18",              "torchvision", {},     122, "5191d63ec3989592"),
    ("resnet18",              "timm",        {},     122, "5191d63ec3989592"),
    ("resnet34",              "torchvision", {},     218, "f8de2a1812ef85e4"),
    ("resnet34",              "timm",        {},     218, "f8de2a1812ef85e4"),
    ("resnet50_v1_5",         "torchvision", {},     320, "a87e91cd6bd1f939"),
    ("resnet50_v1_5",         "timm",        {},     320, "a87e91cd6bd1f939"),
    ("resnet101_v1_5",        "torchvision", {},     626, "dbc3ca74fffafc72"),
    ("resnet101_v1_5",        "timm",        {},     626, "dbc3ca74fffafc72"),
    ("resnet152_v1_5",        "torchvision", {},     932, "7d486dbdc941506e"),
    ("resnet152_v1_5",        "timm",        {},     932, "7d486dbdc941506e"),
)
# fmt: on


@pytest.mark.parametrize(
    ("model", "publisher", "options", "count", "digits"), PUBLISHED, ids=lambda value: str(value)[:24]
)
def test_names_and_shapes_are_the_published_ones(
    model: str, publisher: str, options: dict[str, Any], count: int, digits: str
) -> None:
    chosen = layout(model, publisher, options)
    ours = state_shapes(model, num_classes=1000, options=options)
    table = chosen.table(ours)
    assert table is not None
    theirs = {}
    for name, shape in ours.items():
        folded = chosen.fold(name, torch.empty(shape, device="meta"))
        assert folded is not None
        theirs[table[name]] = tuple(folded.shape)
    assert len(theirs) == count
    assert fingerprint(theirs) == digits


def test_the_fingerprints_are_torchvision_s() -> None:
    library = torchvision_models()
    names = {"vgg_d": "vgg16", "resnet50_v1_5": "resnet50", "inception_v3": "inception_v3"}
    for model, theirs in names.items():
        quick = {"init_weights": False} if model == "inception_v3" else {}
        with torch.device("meta"):
            state = getattr(library, theirs)(weights=None, **quick).state_dict()
        expected = next(row[4] for row in PUBLISHED if row[:3] == (model, "torchvision", {}))
        assert fingerprint({name: tuple(tensor.shape) for name, tensor in state.items()}) == expected


@pytest.mark.parametrize("model", sorted(FAMILIES))
def test_every_name_has_one_place(model: str) -> None:
    keys = state_shapes(model, num_classes=10, options={})
    for each in layouts_of(model, {}):
        table = each.table(keys)
        assert table is not None
        assert len(set(table.values())) == len(keys)
        assert recognise(table.values(), keys, [each])[1] == len(keys)


def test_a_lost_rule_is_seen() -> None:
    whole = layout("resnet18", "torchvision", {})
    keys = state_shapes("resnet18", num_classes=10, options={})
    assert Layout(publisher="torchvision", rules=whole.rules[:-1]).table(keys) is None


def test_fields_are_shifted_and_end_at_a_dot() -> None:
    rules = (("conv{s}_x.block{b}", "layer{s-1}.{b-1}"), ("fc", "head"))
    chosen = Layout(publisher="somebody", rules=rules)
    assert chosen.rename("conv3_x.block12.conv.weight") == "layer2.11.conv.weight"
    assert chosen.rename("fc.bias") == "head.bias"
    assert chosen.rename("fc2.bias") is None
    assert chosen.rename("conv3_x.block.weight") is None


@pytest.mark.parametrize("model", sorted(LOOKALIKES))
def test_a_lookalike_names_the_network_that_is_meant(model: str) -> None:
    other, why = LOOKALIKES[model]
    assert {model, other} <= set(models.names())
    with pytest.raises(ConvworksError) as caught:
        layout(model, "torchvision", {})
    assert caught.value.code == "U197"
    assert other in str(caught.value)
    assert why in str(caught.value)


def test_heads_are_what_depends_on_the_classes() -> None:
    assert head_keys("resnet18", {}) == {"fc.weight", "fc.bias"}
    assert head_keys("googlenet_torchvision", {}) == {
        f"{part}.{kind}"
        for part in ("linear", "auxiliary_4a.linear", "auxiliary_4d.linear")
        for kind in ("weight", "bias")
    }
    assert head_keys("googlenet_torchvision", {"auxiliary": False}) == {"linear.weight", "linear.bias"}


def test_a_layout_of_another_publisher_is_recognised() -> None:
    keys = state_shapes("vgg_d", num_classes=10, options={})
    candidates = layouts_of("vgg_d", {})
    for each in candidates:
        table = each.table(keys)
        assert table is not None
        assert recognise(table.values(), keys, candidates)[0].publisher == each.publisher
