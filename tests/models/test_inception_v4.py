"""Inception-v4: modules, depth, receptive field, and one backward pass."""

from __future__ import annotations

from torch import nn

from convworks import models
from tests.models.inception import built, check_depth, kernels, parameters_without_gradient, stages
from tests.papers import inception_v4 as paper

BLOCKS = ["stem", "inception_a", "reduction_a", "inception_b", "reduction_b", "inception_c"]


def test_outputs_are_those_of_figure_9() -> None:
    found = stages(built("inception_v4"), 299)
    assert [found[name].output[0] for name in BLOCKS] == paper.MAPS
    assert [found[name].output[1] for name in BLOCKS] == [35, 35, 17, 17, 8, 8]


def test_blocks_are_four_seven_and_three() -> None:
    net = built("inception_v4")
    counts = [len(list(net.get_submodule(f"inception_{kind}").children())) for kind in "abc"]
    assert counts == [4, 7, 3]


def test_weight_layers() -> None:
    convolutions = 3 + 1 + 6 + 1 + 4 * 7 + 4 + 7 * 10 + 6 + 3 * 10
    check_depth("inception_v4", built("inception_v4"), convolutions + 1)


def test_kernels_of_the_three_kinds() -> None:
    net = built("inception_v4")
    assert kernels(net.get_submodule("inception_a")) == {(1, 1), (3, 3)}
    assert kernels(net.get_submodule("inception_b")) == {(1, 1), (1, 7), (7, 1)}
    assert kernels(net.get_submodule("inception_c")) == {(1, 1), (1, 3), (3, 1)}


def test_means_do_not_count_the_border() -> None:
    pools = [m for m in built("inception_v4").modules() if isinstance(m, nn.AvgPool2d)]
    assert len(pools) == 14
    assert not any(pool.count_include_pad for pool in pools)


def test_the_receptive_field_is_that_of_the_published_table() -> None:
    assert stages(built("inception_v4"), 299)["inception_c"].field == (2071, 2071)


def test_every_parameter_gets_a_gradient() -> None:
    net = models.create("inception_v4", num_classes=10, input_size=(75, 75))
    assert parameters_without_gradient(net, 75) == []
