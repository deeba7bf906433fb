"""The notation of branches, auxiliary heads, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks.layers import WithAuxiliary
from convworks.models.branches import AuxiliaryHead, Branches, Headed, build_module, conv_bn, parse, windows
from convworks.models.fit import Window


def test_a_step_is_read_as_the_figures_write_it() -> None:
    step = parse("3x3/2 96 V")
    assert (step.kernel, step.stride, step.maps, step.padding) == ((3, 3), 2, 96, (0, 0))
    step = parse("1x7 192")
    assert (step.kernel, step.stride, step.maps, step.padding) == ((1, 7), 1, 192, (0, 3))
    step = parse("max/2")
    assert (step.pool, step.kernel, step.stride, step.maps, step.padding) == ("max", (3, 3), 2, 0, (1, 1))


@pytest.mark.parametrize("text", ["3x3", "max 64", "3 x 3 64", "mean", "", "3x3 64 W", "V"])
def test_what_is_no_step_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a convolution such as '3x3/2 96 V' nor a pooling"):
        parse(text)


def test_branches_stand_side_by_side_in_the_order_given() -> None:
    net, maps = build_module(3, ("1x1 4", "1x1 2 > 3x3 5", "max > 1x1 6"))
    assert isinstance(net, Branches)
    assert maps == 4 + 5 + 6
    x = torch.randn(2, 3, 7, 9)
    parts = [net.get_submodule(f"branch{i}")(x) for i in range(3)]
    torch.testing.assert_close(net(x), torch.cat(parts, dim=1))
    assert [part.shape[1] for part in parts] == [4, 5, 6]


def test_the_last_step_may_be_two_convolutions_on_the_same_maps() -> None:
    net, maps = build_module(3, "1x1 4 > 1x3 5 | 3x1 6")
    assert maps == 11
    kernels = {name: m.kernel_size for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {
        "conv1.conv": (1, 1),
        "split.side0.conv1.conv": (1, 3),
        "split.side1.conv1.conv": (3, 1),
    }
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, 11, 8, 8)


def test_the_mean_at_the_border_divides_by_nine_or_by_the_cells_there() -> None:
    x = torch.ones(1, 1, 3, 3)
    nine, there = (build_module(1, "avg", count_padding=count)[0](x) for count in (True, False))
    torch.testing.assert_close(nine[0, 0, 0], torch.tensor([4 / 9, 6 / 9, 4 / 9]))
    torch.testing.assert_close(there, x)


def test_a_convolution_has_no_bias_and_batch_norm_with_the_authors_epsilon() -> None:
    layer = conv_bn(3, 4, (1, 7))
    assert [name for name, _ in layer.named_children()] == ["conv", "bn", "relu"]
    conv, bn = layer.get_submodule("conv"), layer.get_submodule("bn")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    assert (conv.bias, conv.kernel_size, conv.padding, bn.eps) == (None, (1, 7), (0, 3), 0.001)


def test_windows_are_the_steps_that_make_maps_smaller() -> None:
    layers = [
        ("a", "3x3/2 8 V"),
        ("b", "3x3 8"),
        ("c", ("1x1 4 > 3x3/2 8", "max/2")),
        ("d", "1x7 8 > 3x3 8 V"),
    ]
    assert windows(layers) == [Window("a", 3, 2, 0), Window("c", 3, 2, 1), Window("d", 3, 1, 0)]


def headed() -> Headed:
    stages = {
        "first": nn.Linear(2, 3),
        "auxiliary": AuxiliaryHead(relu=nn.ReLU(), linear=nn.Linear(3, 4)),
        "last": nn.Linear(3, 4),
    }
    return Headed(stages, discount=0.3)


def test_a_head_takes_part_in_training_only() -> None:
    net, x = headed(), torch.randn(5, 2)
    logits = net.eval()(x)
    trained = net.train()(x)
    assert isinstance(trained, WithAuxiliary)
    torch.testing.assert_close(trained.logits, logits)
    first = net.get_submodule("first")(x)
    torch.testing.assert_close(trained.auxiliary[0], net.get_submodule("auxiliary")(first))
    assert trained.discount == 0.3


def test_without_heads_training_gives_the_logits_alone() -> None:
    net = Headed({"first": nn.Linear(2, 3)}, discount=0.3)
    assert isinstance(net.train()(torch.zeros(1, 2)), torch.Tensor)
