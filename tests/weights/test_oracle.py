"""Our networks compute what independent ones do with the same weights: torchvision and one written here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.weights.layouts import layout
from convworks.weights.load import match_weights

from .oracle import filled, images, mobilenet, mobilenet_weights, torchvision_models

LARGEST = 1e-5  # difference of a logit, in float32


class Pair(NamedTuple):
    """A network of ours, torchvision's by name, and the side of the image that both see."""

    model: str
    theirs: str
    side: int
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    arguments: dict[str, Any] = {}  # noqa: RUF012
    gain: float = 0.6


WITH_HEADS = {"aux_logits": True, "init_weights": False, "transform_input": False}
WITHOUT_HEADS = {**WITH_HEADS, "aux_logits": False}
# fmt: off
PAIRS = (
    Pair("resnet18",              "resnet18",      64),
    Pair("resnet34",              "resnet34",      64),
    Pair("resnet50_v1_5",         "resnet50",      64),
    Pair("resnet101_v1_5",        "resnet101",     64),
    Pair("resnet152_v1_5",        "resnet152",     64),
    Pair("alexnet_torchvision",   "alexnet",       95),
    Pair("vgg_a",                 "vgg11",        224),
    Pair("vgg_b",                 "vgg13_bn",     224, {"batch_norm": True}),
    Pair("vgg_d",                 "vgg16",        224),
    Pair("vgg_e",                 "vgg19",        224),
    Pair("googlenet_torchvision", "googlenet",     96, {}, WITH_HEADS, 1.1),
    Pair("inception_v3",          "inception_v3", 299, {}, WITH_HEADS, 1.1),
    Pair("inception_v3",          "inception_v3", 139, {"auxiliary": False}, WITHOUT_HEADS, 1.1),
)
# fmt: on


def ours(pair: Pair, weights: dict[str, Tensor]) -> nn.Module:
    """Our network with these weights; it takes their memory over, so that there is one copy of them."""
    with torch.device("meta"):
        network = models.create(
            pair.model, num_classes=1000, input_size=(pair.side, pair.side), **pair.options
        )
    match = match_weights(weights, network.state_dict(), layout(pair.model, "torchvision", pair.options))
    assert match.problems == []
    network.load_state_dict(match.tensors, assign=True)
    return network.eval()


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.model}-{pair.side}")
def test_same_weights_give_the_same_logits(pair: Pair) -> None:
    build: Callable[..., nn.Module] = getattr(torchvision_models(), pair.theirs)
    theirs = filled(lambda: build(weights=None, num_classes=1000, **pair.arguments), gain=pair.gain)
    network, x = ours(pair, theirs.state_dict()), images(pair.side, count=2)
    with torch.no_grad():
        expected, found = theirs(x), network(x)
    assert 0.01 < float(expected.std()) < 100  # neither dead nor out of the range where 1e-5 means something
    assert float((expected[0] - expected[1]).abs().max()) > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=LARGEST)


def test_auxiliary_heads_give_the_same_logits() -> None:
    build = torchvision_models().googlenet
    theirs = filled(lambda: build(weights=None, num_classes=1000, **WITH_HEADS), gain=1.1)
    pair = Pair("googlenet_torchvision", "googlenet", 96)
    network, x = ours(pair, theirs.state_dict()), images(96, count=2)
    for each in (
        theirs,
        network,
    ):  # heads take part in training only; statistics and dropout stay as they are
        each.train()
        for module in each.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Dropout):
                module.eval()
    with torch.no_grad():
        expected, found = theirs(x), network(x)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=LARGEST)
    for mine, other in zip(found.auxiliary, (expected.aux_logits1, expected.aux_logits2), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=LARGEST)


def test_a_weight_in_the_wrong_place_is_seen() -> None:
    theirs = filled(lambda: torchvision_models().resnet18(weights=None))
    pair, x = Pair("resnet18", "resnet18", 64), images(64)
    weights = dict(theirs.state_dict())
    first, second = "layer4.1.conv1.weight", "layer4.1.conv2.weight"
    weights[first], weights[second] = weights[second], weights[first]
    with torch.no_grad(), pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(ours(pair, weights)(x), theirs(x), rtol=0, atol=LARGEST)


def test_the_paper_s_resnet50_is_not_torchvision_s() -> None:
    """The same names and shapes, and other numbers: why `resnet50` has no layout of others."""
    theirs, x = filled(lambda: torchvision_models().resnet50(weights=None)), images(64)
    weights = match_weights(
        theirs.state_dict(),
        models.create("resnet50", num_classes=1000).state_dict(),
        layout("resnet50_v1_5", "torchvision", {}),
    )
    network = models.create("resnet50", num_classes=1000)
    network.load_state_dict(weights.tensors)
    with torch.no_grad(), pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(network.eval()(x), theirs(x), rtol=0, atol=LARGEST)


@pytest.mark.parametrize("width", ["100", "075", "050", "025"])
@pytest.mark.parametrize("side", [64, 96])
def test_mobilenet_computes_what_its_table_says(width: str, side: int) -> None:
    model, options = f"mobilenet_v1_{width}_224", {"activation": "relu6"}
    weights = mobilenet_weights(width=int(width) / 100, classes=10)
    network = models.create(model, num_classes=10, input_size=(side, side), **options).eval()
    match = match_weights(weights, network.state_dict(), layout(model, "timm", options))
    assert match.problems == []
    network.load_state_dict(match.tensors)
    x = images(side, count=2)
    with torch.no_grad():
        expected, found = mobilenet(x, weights), network(x)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=LARGEST)
