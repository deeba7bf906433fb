"""Inception-v3: modules, factorised kernels, the auxiliary head, counts with and without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models
from convworks.layers import WithAuxiliary
from convworks.models.branches import build_module
from convworks.models.inception_v3 import LAYERS
from tests.models.inception import built, check_depth, kernels, stages
from tests.papers import inception_v3 as paper


def conv_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))


def test_outputs_of_the_eleven_modules() -> None:
    found = stages(built("inception_v3"), 299)
    mixed = [name for name, _ in LAYERS if name.startswith("mixed")]
    assert [found[name].output[0] for name in mixed] == paper.MAPS
    assert [found[name].output[1] for name in ("mixed_5d", "mixed_6e", "mixed_7c")] == [35, 17, 8]


def test_counts_with_and_without_the_head() -> None:
    assert sum(p.numel() for p in built("inception_v3").parameters()) == paper.WITH_HEAD
    assert sum(p.numel() for p in built("inception_v3", auxiliary=False).parameters()) == paper.WITHOUT_HEAD


def test_weight_layers() -> None:
    convolutions = 5 + 3 * 7 + 4 + 4 * 10 + 6 + 2 * 9  # stem, A, B, C, D, E
    check_depth("inception_v3", built("inception_v3", auxiliary=False), convolutions + 1)
    check_depth("inception_v3", built("inception_v3"), convolutions + 1 + 3)


def test_two_3x3_convolutions_save_28_per_cent_of_a_5x5() -> None:
    one, two = build_module(64, "5x5 64")[0], build_module(64, "3x3 64 > 3x3 64")[0]
    assert conv_weights(two) / conv_weights(one) == pytest.approx(1 - 0.28)
    field = [
        sum(m.kernel_size[0] - 1 for m in net.modules() if isinstance(m, nn.Conv2d)) for net in (one, two)
    ]
    assert field == [4, 4]  # both see 5x5


def test_n_by_n_becomes_1_by_n_and_n_by_1() -> None:
    whole, factors = build_module(64, "7x7 64")[0], build_module(64, "1x7 64 > 7x1 64")[0]
    assert conv_weights(factors) / conv_weights(whole) == pytest.approx(2 / 7)
    net = built("inception_v3")
    for name in ("mixed_6b", "mixed_6c", "mixed_6d", "mixed_6e"):
        assert kernels(net.get_submodule(name)) == {(1, 1), (1, 7), (7, 1)}
    for name in ("mixed_7b", "mixed_7c"):
        assert kernels(net.get_submodule(name)) == {(1, 1), (1, 3), (3, 1), (3, 3)}


def test_means_count_the_border_as_torchvision_does() -> None:
    pools = [m for name, m in built("inception_v3").named_modules() if name.startswith("mixed")]
    means = [m for m in pools if isinstance(m, nn.AvgPool2d)]
    assert len(means) == 3 + 4 + 2
    assert all(mean.count_include_pad for mean in means)


def test_the_head_hangs_on_the_last_17x17_maps() -> None:
    net = built("inception_v3")
    children = [name for name, _ in net.named_children()]
    assert children[children.index("mixed_6e") + 1] == "auxiliary_6e"
    head = net.get_submodule("auxiliary_6e")
    assert [m.kernel_size for m in head.modules() if isinstance(m, nn.Conv2d)] == [(1, 1), (5, 5)]
    x = torch.zeros(1, 768, 17, 17, device="meta")
    assert head.get_submodule("pool")(x).shape == (1, 768, 5, 5)
    assert head.eval()(x).shape == (1, 1000)


@pytest.mark.parametrize("size", [(75, 75), (107, 139)])
def test_smaller_images_train_with_a_head_that_fits(size: tuple[int, int]) -> None:
    net = models.create("inception_v3", num_classes=4, input_size=size)
    output = net(torch.randn(2, 3, *size))
    assert isinstance(output, WithAuxiliary)
    assert output.auxiliary[0].shape == (2, 4)
    assert output.discount == 0.4


def test_the_receptive_field_is_that_of_the_published_table() -> None:
    assert stages(built("inception_v3"), 299)["mixed_7c"].field == (1311, 1311)
