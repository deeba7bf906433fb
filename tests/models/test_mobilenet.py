"""MobileNet V1 against Table 1: rows, widths and resolutions, printed costs, receptive field."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import anatomy, models
from convworks.errors import ConvworksError
from convworks.models.mobilenet import TABLE_1
from tests.models.inception import built, check_depth, stages
from tests.papers import mobilenet as paper

NAME = "mobilenet_v1_100_224"


def test_the_rows_are_those_of_table_one() -> None:
    first, *others = TABLE_1
    assert tuple(first) == ("Conv", 2, 3, 32)
    expected = [
        row
        for stride, before, after in paper.PAIRS
        for row in (("Conv dw", stride, 3, before), ("Conv", 1, 1, after))
    ]
    assert [tuple(row) for row in others] == expected


def test_there_are_sixteen_of_four_widths_and_four_sides() -> None:
    found = [name for name in models.names() if name.startswith("mobilenet_v1_")]
    assert sorted(found) == sorted(paper.NETWORKS)
    assert len(found) == 16
    for name in found:
        side = int(name[-3:])
        assert models.info(name).input_size == (side, side)


def test_28_layers() -> None:
    check_depth(NAME, built(NAME), 28)  # "MobileNet has 28 layers", section 3.2


@pytest.mark.parametrize(("width", "side"), paper.PRINTED_MACS)
def test_multiply_adds_are_those_of_tables_6_and_7(width: str, side: int) -> None:
    rows = anatomy.trace(built(f"mobilenet_v1_{width}_{side}"), (3, side, side))
    # printed in millions, some rounded and some cut
    assert anatomy.totals(rows).macs / 1e6 == pytest.approx(paper.PRINTED_MACS[width, side], abs=1)


def test_most_of_the_cost_is_in_1x1_convolutions() -> None:
    rows = anatomy.trace(built(NAME), (3, 224, 224))
    total = anatomy.totals(rows)
    share: dict[str, list[float]] = {}
    for row in rows:
        kind = {"conv1": "full", "fc": "fc"}.get(row.name.split(".")[0], row.name.split(".")[0][-2:])
        macs, parameters = share.setdefault(kind, [0.0, 0.0])
        share[kind] = [
            macs + 100 * row.macs / total.macs,
            parameters + 100 * row.parameters / total.parameters,
        ]
    # Table 2: 94.86 %, 3.06 % and 0.18 % of the multiply-adds; 74.59 %, 1.06 % and 24.33 % of the parameters
    assert share["pw"] == pytest.approx([94.86, 74.59], abs=0.7)
    assert share["dw"] == pytest.approx([3.06, 1.06], abs=0.6)
    assert share["fc"] == pytest.approx([0.18, 24.33], abs=0.2)


def test_every_3x3_but_the_first_is_depthwise() -> None:
    convolutions = [m for m in built(NAME).modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.groups == m.in_channels for m in convolutions] == [False] + [True] * 13


def test_a_depthwise_map_depends_on_one_input_map() -> None:
    net = models.create(NAME, num_classes=2, input_size=(32, 32))
    conv = net.get_submodule("conv2_dw.conv")
    x = torch.zeros(1, 32, 5, 5)
    x[0, 7] = 1
    assert conv(x)[0].flatten(1).any(dim=1).nonzero().flatten().tolist() == [7]


def test_the_receptive_field_is_that_of_the_published_table() -> None:
    assert stages(built(NAME), 224)["conv14_pw"].field == (paper.RECEPTIVE_FIELD,) * 2


def test_relu6_is_an_option_for_published_weights() -> None:
    net = built(NAME, activation="relu6")
    assert {type(m) for m in net.modules() if "ReLU" in type(m).__name__} == {nn.ReLU6}
    assert {type(m) for m in built(NAME).modules() if "ReLU" in type(m).__name__} == {nn.ReLU}


def test_another_activation_is_refused() -> None:
    with pytest.raises(ConvworksError, match=f"option 'activation' of {NAME} cannot be 'tanh'") as caught:
        models.create(NAME, num_classes=3, activation="tanh")
    assert caught.value.where == "allowed: relu, relu6"


@pytest.mark.parametrize("size", [(1, 1), (17, 40), (224, 160)])
def test_any_size_fits(size: tuple[int, int]) -> None:
    net = models.create("mobilenet_v1_025_128", num_classes=3, input_size=size).eval()
    assert net(torch.zeros(2, 3, *size)).shape == (2, 3)
