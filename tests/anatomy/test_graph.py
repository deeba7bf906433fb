"""Rows folded into boxes, against boxes counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models
from convworks.anatomy import trace_graph
from convworks.anatomy.graph import Box, boxes
from tests.anatomy.networks import Before, Bridge, Fork, residual


def found(network: nn.Module, *shape: int, most: int = 130) -> list[Box]:
    return boxes(trace_graph(network, shape), shape, most=most)


def meta(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    info = models.info(name)
    with torch.device("meta"):
        return models.create(name, num_classes=info.num_classes), (info.in_channels, *info.input_size)


def test_norms_and_activations_belong_to_the_layer_before() -> None:
    made = found(residual(), 3, 32, 32)
    assert [(box.label, box.parents, box.notes, box.stage) for box in made] == [
        ("image", (), (), ""),
        ("7x7 conv, 8, /2", (0,), ("BN", "ReLU"), "stem"),
        ("3x3 conv, 8", (1,), ("BN", "ReLU"), "stage1"),
        ("3x3 conv, 8", (2,), ("BN",), "stage1"),
        ("+", (1, 3), ("ReLU",), "stage1"),
        ("3x3 conv, 8", (4,), ("BN", "ReLU"), "stage1"),
        ("3x3 conv, 8", (5,), ("BN",), "stage1"),
        ("+", (4, 6), ("ReLU",), "stage1"),
        ("global pool", (7,), (), "head"),
        ("fc, 10", (8,), (), "head"),
    ]
    assert [box.shape for box in made[-3:]] == [(8, 16, 16), (8, 1, 1), (10,)]


def test_a_norm_that_a_shortcut_passes_by_belongs_to_the_layer_after() -> None:
    made = found(nn.Sequential(nn.Conv2d(1, 2, 1), Before(2)), 1, 8, 8)
    assert [(box.label, box.parents, box.before, box.notes) for box in made[1:]] == [
        ("1x1 conv, 2", (0,), (), ()),
        ("3x3 conv, 2", (1,), ("BN", "ReLU"), ()),
        ("+", (1, 2), (), ()),
    ]
    assert made[2].details == "2 x 8 x 8 · after BN, ReLU"


def test_branches_meet_in_a_concatenation() -> None:
    made = found(nn.Sequential(nn.Conv2d(1, 4, 1), Fork(), nn.Conv2d(11, 1, 1)), 1, 8, 8)
    assert [(box.label, box.parents) for box in made[2:]] == [
        ("1x1 conv, 2", (1,)),
        ("1x1 conv, 3", (1,)),
        ("3x3 conv, 5", (3,)),
        ("3x3 max pool", (1,)),
        ("concatenate", (2, 4, 5)),
        ("1x1 conv, 1", (6,)),
    ]
    assert made[6].shape == (11, 8, 8)


def test_a_join_that_nobody_reads_is_drawn_only_where_it_is_the_answer() -> None:
    assert [box.label for box in found(Bridge(), 1, 8, 8)][-1] == "+"
    assert [box.label for box in found(Bridge(), 1, 8, 8)].count("×") == 1


@pytest.mark.parametrize(
    ("layer", "shape", "label"),
    [
        (nn.Conv2d(6, 6, 3, groups=6), (6, 8, 8), "3x3 depthwise, 6"),
        (nn.Conv2d(6, 4, 3, groups=2, dilation=2), (6, 8, 8), "3x3 conv in 2 groups, 4, dilated 2"),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 4, 4), "2x2 transposed conv, 3, /2"),
        (nn.Conv1d(2, 3, 5), (2, 9), "5-tap conv, 3"),
        (nn.Conv2d(1, 3, (1, 7)), (1, 9, 9), "1x7 conv, 3"),
        (nn.AvgPool2d(2), (1, 8, 8), "2x2 average pool, /2"),
        (nn.Upsample(scale_factor=2), (1, 8, 8), "Upsample"),
    ],
)
def test_labels(layer: nn.Module, shape: tuple[int, ...], label: str) -> None:
    assert found(layer, *shape)[-1].label == label


def test_googlenet_has_its_boxes() -> None:
    """Stem: 3 convolutions and 2 poolings; 9 modules of 6 convolutions, a pooling and a concatenation; 2
    poolings between them, the mean and the linear layer; and the image."""
    network, shape = meta("googlenet")
    made = found(network, *shape)
    kinds = [box.kind for box in made]
    assert len(made) == 1 + 3 + 2 + 9 * (6 + 1 + 1) + 2 + 1 + 1
    assert (kinds.count("conv"), kinds.count("join"), kinds.count("pool")) == (3 + 9 * 6, 9, 2 + 9 + 2 + 1)


@pytest.mark.parametrize(
    ("name", "most"),
    [("resnet152", 130), ("resnet110_cifar", 130), ("preact_resnet110_cifar", 30), ("resnet34", 20)],
)
def test_deep_networks_have_blocks_or_stages_for_layers(name: str, most: int) -> None:
    network, shape = meta(name)
    graph = trace_graph(network, shape)
    made = boxes(graph, shape, most=most)
    assert len(made) <= most
    assert sum(box.macs for box in made) == sum(row.macs for row in graph.rows)
    assert all(parent < number for number, box in enumerate(made) for parent in box.parents)
    assert {box.stage for box in made} >= {row.name.split(".")[0] for row in graph.rows if row.macs}


def test_blocks_of_a_network_with_additions_outside_modules_are_a_chain() -> None:
    made = found(residual(), 3, 32, 32, most=6)
    assert [(box.label, box.parents) for box in made] == [
        ("image", ()),
        ("7x7 conv, 8, /2", (0,)),
        ("0: 2 layers", (1,)),
        ("1: 2 layers", (2,)),
        ("global pool", (3,)),
        ("fc, 10", (4,)),
    ]
    assert [box.label for box in found(residual(), 3, 32, 32, most=5)][2] == "stage1: 4 layers"
