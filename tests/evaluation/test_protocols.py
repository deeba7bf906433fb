"""Protocols as values: the papers' numbers at 224, their costs, and names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from convworks.errors import ConvworksError
from convworks.evaluation.protocols import (
    LADDERS,
    PROTOCOLS,
    leaves,
    parse_protocols,
    resolve,
    scaled,
    shift,
)
from convworks.ledger.googlenet import LADDER

VIEWS = {
    "centre": 1,
    "10-crop": 10,
    "144-crop": 144,
    "vgg-dense": 2,
    "vgg-multi-scale": 6,
    "vgg-multi-scale-jitter": 6,
    "multi-crop": 150,
    "dense+multi-crop": 156,
    "tta": 18,
    "tta-shifts": 9,
    "mirror-translate": 6,
    "tta-turns": 5,
    "full": 1,
}


def test_the_number_of_views_of_every_protocol() -> None:
    assert {name: each.views for name, each in PROTOCOLS.items()} == VIEWS


def test_models_times_crops_of_the_googlenet_table() -> None:
    # Szegedy et al. 2015, table 3: cost 1, 10, 144, 7, 70, 1008; the difference in the last row is 3.40.
    views = {1: "centre", 10: "10-crop", 144: "144-crop"}
    costs = [models * resolve(views[crops]).views for models, crops, *_ in LADDER]
    assert costs == [1, 10, 144, 7, 70, 1008]
    assert [int(cost) for _, _, cost, *_ in LADDER] == costs
    errors = [float(error.rstrip("%")) for *_, error, _ in LADDER]
    assert errors == [10.07, 9.15, 7.89, 8.09, 7.62, 6.67]
    assert round(errors[0] - errors[-1], 2) == 3.40
    assert LADDERS["googlenet-ladder"] == tuple(views.values())


def test_scales_are_the_papers_at_224_and_relative_elsewhere() -> None:
    assert resolve("144-crop").sizes(224) == (256, 288, 320, 352)
    assert resolve("vgg-multi-scale").sizes(224) == (256 - 32, 256, 256 + 32)
    assert resolve("vgg-multi-scale-jitter").sizes(224) == (256, 384, 512)
    assert resolve("10-crop").sizes(112) == (128,)
    assert resolve("144-crop").sizes(28) == (32, 36, 40, 44)
    assert resolve("144-crop").sizes(32) == (37, 41, 46, 50)  # 36.57, 41.14, 45.71, 50.29
    assert resolve("10-crop").sizes(1) == (1,)
    assert [scaled(n, 224) for n in range(1, 3000)] == list(range(1, 3000))
    assert [shift("shifts", side) for side in (1, 8, 16, 28, 32, 224)] == [1, 1, 1, 2, 2, 14]
    assert [shift("diagonal", side) for side in (1, 28, 32, 47, 48, 224)] == [1, 1, 1, 1, 2, 7]
    assert "(256 at 224)" in resolve("10-crop").words(112)
    assert "at 224" not in resolve("10-crop").words(224)
    assert "d = 2" in resolve("tta").words(32)


def test_how_answers_become_one_is_said() -> None:
    assert resolve("centre").averaging == "one view"
    assert resolve("10-crop").averaging == "mean of the softmax probabilities of all views"
    assert resolve("vgg-dense").averaging.startswith("mean of the class score map, then softmax")
    both = resolve("dense+multi-crop")
    assert both.averaging == "mean of the softmax posteriors of vgg-multi-scale-jitter and multi-crop"
    assert both.to_dict()["parts"][1]["scales"] == [256, 384, 512]
    assert both.mirrors
    weighted = resolve("mirror-translate")
    assert "counted twice" in weighted.averaging
    assert weighted.weights(("centre", "centre mirrored", "up left")) == {
        "centre": 2,
        "centre mirrored": 2,
        "up left": 1,
    }
    assert resolve("tta").weights(("centre",)) is None
    assert not resolve("tta-shifts").mirrors
    assert not resolve("tta-turns").mirrors
    assert resolve("tta-turns").weights(("centre",)) is None


def test_other_scales_and_means_of_several() -> None:
    assert resolve("vgg-dense@384").scales == (384,)
    assert resolve("vgg-dense@256") is PROTOCOLS["vgg-dense"]
    assert resolve("multi-crop@384/256/256").views == 100
    mean = resolve("vgg-dense@384+10-crop")
    assert mean.name == "10-crop+vgg-dense@384"
    assert mean.views == 12
    assert resolve("10-crop+vgg-dense@384").to_dict() == mean.to_dict()
    assert resolve("10-crop+10-crop") is PROTOCOLS["10-crop"]
    assert resolve("vgg-ms") is PROTOCOLS["vgg-multi-scale"]
    nested = resolve("centre+dense+multi-crop")  # a mean of three
    assert nested.parts == ("centre", "multi-crop", "vgg-multi-scale-jitter")
    assert nested.views == 157


def test_parsing_a_list() -> None:
    names = [each.name for each in parse_protocols(["centre,10-crop", " vgg-ladder , centre"])]
    assert names == ["centre", "10-crop", *LADDERS["vgg-ladder"][1:]]
    assert [each.name for each in leaves(parse_protocols(["vgg-ladder"]))] == [
        "centre",
        "vgg-multi-scale-jitter",
        "multi-crop",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10-crp", "U253.*no protocol called '10-crp'[\\s\\S]*did you mean '10-crop'"),
        ("", "U253"),
        ("vgg-dense@", "U254.*cannot have the scales ''"),
        ("vgg-dense@223", "U254[\\s\\S]*from 224 to 2048"),
        ("vgg-dense@99999", "U254"),
        ("vgg-dense@1e3", "U254"),
        ("tta@256", "U254.*has no scales to set"),
        ("centre+nothing", "U253.*'nothing'"),
    ],
)
def test_names_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ConvworksError, match=message) as caught:
        parse_protocols([text])
    assert caught.value.exit_status == 2


def test_the_table_is_read_without_torch() -> None:
    code = "import sys, convworks.evaluation.protocols; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
