"""ZFNet against Figure 3: sizes, order of the parts, initial weights."""

from __future__ import annotations

import pytest
import torch

from convworks import anatomy, models
from convworks.errors import ConvworksError
from tests.papers import zfnet as facts


def test_sizes_are_those_of_figure_3() -> None:
    with torch.device("meta"):
        net = models.create("zfnet", num_classes=1000)
    rows = anatomy.trace(net, (3, 224, 224))
    sides = [row.output[1] for row in rows if row.kernel and len(row.output) == 3]
    assert tuple(sides) == facts.PRINTED_SIDES
    kernels = [(row.kernel[0], row.stride[0]) for row in rows if row.kind == "Conv2d"]
    assert kernels == [(7, 2), (5, 2), (3, 1), (3, 1), (3, 1)]


def test_pooling_comes_before_the_normalisation() -> None:
    net = models.create("zfnet", num_classes=10, input_size=(63, 63))
    assert [name for name, _ in net.get_submodule("conv1").named_children()] == [
        "conv",
        "relu",
        "pool",
        "norm",
    ]
    assert [name for name, _ in net.get_submodule("conv5").named_children()] == ["conv", "relu", "pool"]


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = models.create("zfnet", num_classes=10, input_size=(63, 63))
    assert net.get_parameter("conv4.conv.weight").std().item() == pytest.approx(0.01, rel=0.01)
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))


def test_a_size_that_is_too_small() -> None:
    with pytest.raises(ConvworksError) as caught:
        models.create("zfnet", num_classes=10, input_size=(62, 224))
    assert caught.value.where == "what fits: 63x63 and larger"
    assert caught.value.why == "conv5.pool has a 3x3 window, and 2 cells are left"
