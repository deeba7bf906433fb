"""The papers' fusions: members, views and what is no member."""

from __future__ import annotations

import pytest

from convworks import models
from convworks.errors import ConvworksError
from convworks.evaluation.fusion import FUSIONS, fusion, parse_vgg
from convworks.evaluation.protocols import resolve


@pytest.mark.parametrize(
    ("name", "networks", "passes"),
    [
        ("alexnet-5", 5, 50),
        ("alexnet-7", 7, 70),
        ("googlenet-7-1", 7, 7),
        ("googlenet-7-10", 7, 70),
        ("googlenet-7", 7, 1008),
        ("vgg-7", 7, 42),
        ("vgg-2", 2, 12),
        ("vgg-2-multi-crop", 2, 300),
        ("vgg-2-dense+multi-crop", 2, 312),
    ],
)
def test_members_and_forward_passes(name: str, networks: int, passes: int) -> None:
    found = fusion(name)
    assert (found.networks, found.passes) == (networks, passes)
    assert set(FUSIONS) >= {name}
    assert {each.model for each in found.members} <= set(models.names())


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_the_protocols_of_the_members_take_those_passes(name: str) -> None:
    found = fusion(name)
    views = sum(each.count * resolve(found.protocol_of(each)).views for each in found.members)
    assert views == found.passes


def test_the_lectures_line_is_seven_members() -> None:
    text = (
        "(D/256/224,256,288), (D/384/352,384,416), (D/[256;512]/256,384,512) (C/256/224,256,288), "
        "(C/384/352,384,416) (E/256/224,256,288), (E/384/352,384,416)"
    )
    found = parse_vgg(text)
    assert found == fusion("vgg-7").members
    assert [each.model for each in found] == ["vgg_d"] * 3 + ["vgg_c"] * 2 + ["vgg_e"] * 2
    assert (found[2].train_scale, found[2].test_scales) == ((256, 512), (256, 384, 512))
    assert found[0].text() == "vgg_d/256/224,256,288"
    assert found[2].text() == "vgg_d/[256;512]/256,384,512"


def test_a_fusion_of_ones_own() -> None:
    found = fusion("(A-LRN/256/256)")
    assert (found.networks, found.passes, found.members[0].model) == (1, 2, "vgg_a_lrn")


@pytest.mark.parametrize(
    "text", ["(D/256)", "(F/256/256)", "(D/256/256) and more", "(D/[512;256]/256)", "()", "(D/0/256)"]
)
def test_what_is_no_member(text: str) -> None:
    with pytest.raises(ConvworksError) as problem:
        fusion(text)
    assert problem.value.code == "U266"


def test_an_unknown_name() -> None:
    with pytest.raises(ConvworksError, match="did you mean 'googlenet-7'"):
        fusion("googlenet7")
