"""Inception-ResNet-v1 and -v2: residual blocks and their scale, depth, receptive field, one backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.models.inception_resnet import CONFIGS, Scale, residual_block
from tests.models.inception import built, check_depth, parameters_without_gradient, stages

FAMILY = ["inception_resnet_v1", "inception_resnet_v2", "inception_resnet_v2_as_printed"]


def scales(net: nn.Module) -> list[float]:
    return [m.factor for m in net.modules() if isinstance(m, Scale)]


@pytest.mark.parametrize(
    ("name", "maps"),
    [(FAMILY[0], (256, 896, 1792)), (FAMILY[1], (320, 1088, 2080)), (FAMILY[2], (384, 1152, 2144))],
)
def test_maps_of_the_three_kinds_of_blocks(name: str, maps: tuple[int, int, int]) -> None:
    found = stages(built(name), 299)
    assert tuple(found[f"inception_resnet_{kind}"].output[0] for kind in "abc") == maps
    assert [found[f"inception_resnet_{kind}"].output[1] for kind in "abc"] == [35, 17, 8]


@pytest.mark.parametrize(
    ("name", "blocks"), [(FAMILY[0], (5, 10, 5)), (FAMILY[1], (10, 20, 10)), (FAMILY[2], (5, 10, 5))]
)
def test_numbers_of_blocks(name: str, blocks: tuple[int, int, int]) -> None:
    net = built(name)
    found = [len(list(net.get_submodule(f"inception_resnet_{kind}").children())) for kind in "abc"]
    assert tuple(found) == blocks == CONFIGS[name].blocks


def test_weight_layers() -> None:
    blocks_v1, blocks_v2 = 5 * 7 + 10 * 5 + 5 * 5, 10 * 7 + 20 * 5 + 10 * 5
    check_depth(FAMILY[0], built(FAMILY[0]), 6 + blocks_v1 + 4 + 7 + 1)
    check_depth(FAMILY[1], built(FAMILY[1]), 5 + 7 + blocks_v2 + 4 + 7 + 1 + 1)
    check_depth(FAMILY[2], built(FAMILY[2]), 11 + blocks_v1 + 4 + 7 + 1)


def test_a_block_adds_its_scaled_branches_to_its_input() -> None:
    block = residual_block(8, ("1x1 4", "1x1 4 > 3x3 6"), scale=0.2).eval()
    x = torch.randn(2, 8, 5, 5)
    joined = block.get_submodule("branch.branches")(x)
    up = block.get_submodule("branch.up")
    assert isinstance(up, nn.Conv2d)
    expected = torch.relu(
        x
        + 0.2 * torch.einsum("oi,nihw->nohw", up.weight[:, :, 0, 0], joined)
        + 0.2 * up.bias.view(1, -1, 1, 1)
    )
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_branches_that_give_nothing_leave_the_identity() -> None:
    block = residual_block(8, ("1x1 4",), scale=1.0, relu=False).eval()
    up = block.get_submodule("branch.up")
    nn.init.zeros_(up.weight)
    nn.init.zeros_(up.bias)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_the_scales_are_those_of_the_authors_and_the_last_block_of_v2_has_none() -> None:
    assert scales(built(FAMILY[0])) == [0.17] * 5 + [0.10] * 10 + [0.20] * 5
    assert scales(built(FAMILY[1])) == [0.17] * 10 + [0.10] * 20 + [0.20] * 9 + [1.0]
    last = built(FAMILY[1]).get_submodule("inception_resnet_c.block10")
    assert not any(isinstance(m, nn.ReLU) for m in last.activation.modules())  # type: ignore[union-attr]


def test_the_option_residual_scale_sets_all() -> None:
    assert set(scales(built(FAMILY[0], residual_scale=0.3))) == {0.3}
    x = torch.randn(1, 3, 75, 75)
    outputs = []
    for factor in (0.1, 1.0):
        torch.manual_seed(0)
        net = models.create(FAMILY[0], num_classes=4, input_size=(75, 75), residual_scale=factor).eval()
        outputs.append(net(x))
    assert not torch.allclose(outputs[0], outputs[1])


@pytest.mark.parametrize("factor", [0, -0.1])
def test_a_scale_that_is_not_above_zero_is_refused(factor: float) -> None:
    with pytest.raises(
        ConvworksError, match="option 'residual_scale' of inception_resnet_v1 cannot be"
    ) as caught:
        models.create(FAMILY[0], num_classes=4, residual_scale=factor)
    assert caught.value.code == "U123"


def test_the_receptive_field_is_that_of_the_published_table() -> None:
    assert stages(built(FAMILY[1]), 299)["inception_resnet_c"].field == (3039, 3039)


@pytest.mark.parametrize("name", FAMILY[1:])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    net = models.create(name, num_classes=10, input_size=(75, 75))
    assert parameters_without_gradient(net, 75) == []
