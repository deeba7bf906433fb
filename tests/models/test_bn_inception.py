"""BN-Inception against Figure 5: outputs, two 3x3 for each 5x5, batch norm before each ReLU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models
from convworks.models.bn_inception import FIGURE_5
from tests.models.inception import built, check_depth, kernels, stages, weights
from tests.papers import bn_inception as paper
from tests.papers.googlenet import SEPARABLE_STEM


def test_outputs_of_the_ten_modules_are_those_of_figure_5() -> None:
    found = stages(built("bn_inception"), 224)
    assert [found[f"inception_{place}"].output[0] for place in paper.FIGURE_5] == paper.OUTPUTS
    assert [found[f"inception_{place}"].output[1] for place in ("3b", "3c", "4d", "4e")] == [28, 14, 14, 7]


def test_columns_are_those_of_figure_5() -> None:
    for place, (_, *columns) in paper.FIGURE_5.items():
        row = FIGURE_5[place]
        assert [row.c1, row.r3, row.c3, row.rd, row.cd] == columns[:5]
    assert [row.pool for row in FIGURE_5.values()].count("max + pass through") == 2
    assert FIGURE_5["5b"].pool == "max + 128"


def test_there_is_no_5x5_and_every_double_branch_has_two_3x3() -> None:
    net = built("bn_inception")
    assert kernels(net) == {(1, 1), (3, 3), (7, 7)}
    for place, row in FIGURE_5.items():
        double = net.get_submodule(f"inception_{place}.branch{2 if row.c1 else 1}")
        sizes = [m.kernel_size for m in double.modules() if isinstance(m, nn.Conv2d)]
        assert sizes == [(1, 1), (3, 3), (3, 3)]


def test_the_first_convolution_is_separable_with_multiplier_8() -> None:
    conv1 = stages(built("bn_inception"), 224)["conv1"]
    assert (weights(conv1) - 64, conv1.macs) == SEPARABLE_STEM  # without the factors of batch norm


def test_batch_norm_stands_before_every_relu() -> None:
    layers = [m for m in built("bn_inception").modules() if isinstance(m, (nn.BatchNorm2d, nn.ReLU))]
    assert len(layers) % 2 == 0
    assert all(isinstance(m, nn.BatchNorm2d) for m in layers[::2])
    assert all(isinstance(m, nn.ReLU) for m in layers[1::2])


def test_weight_layers() -> None:
    # 2 in the separable layer, 2 before the modules, 8 x 7 + 2 x 5 in them, 1 linear
    check_depth("bn_inception", built("bn_inception"), 2 + 2 + 8 * 7 + 2 * 5 + 1)


def test_the_receptive_field_is_that_of_the_published_table() -> None:
    assert stages(built("bn_inception"), 224)["inception_5b"].field == (699, 699)


@pytest.mark.parametrize("size", [(11, 11), (33, 50), (97, 64)])
def test_branches_of_stride_2_agree_at_odd_sizes(size: tuple[int, int]) -> None:
    net = models.create("bn_inception", num_classes=3, input_size=size).eval()
    assert net(torch.zeros(1, 3, *size)).shape == (1, 3)
