"""GoogLeNet against Table 1: columns, costs of every row, kernels of the branches, heads, normalisation."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from convworks import anatomy, models
from convworks.errors import ConvworksError
from convworks.layers import WithAuxiliary
from convworks.layers.normalization import LocalResponseNorm
from convworks.models.googlenet import TABLE_1, Row, inception, naive_inception
from tests.models.inception import built, check_depth, kernels, stages, weights
from tests.papers import googlenet as paper

FAMILY = ["googlenet", "googlenet_separable_stem", "googlenet_torchvision"]
every_form = pytest.mark.parametrize("name", FAMILY)


def on_28x28(module: nn.Module) -> anatomy.Row:
    """The module in the place of 3a: on 192 maps of 28x28."""
    rows = anatomy.trace(nn.Sequential(module), (192, 28, 28))
    (stage,) = anatomy.stages(rows)
    return stage


def test_the_rows_are_those_of_table_one() -> None:
    assert {place: tuple(row) for place, row in TABLE_1.items()} == {
        place: row.columns for place, row in paper.TABLE_1.items()
    }
    assert [row.out for row in TABLE_1.values()] == paper.OUTPUTS


@every_form
def test_outputs_of_the_nine_modules_are_those_of_table_one(name: str) -> None:
    found = stages(built(name), 224)
    for place, row in paper.TABLE_1.items():
        assert found[f"inception_{place}"].output == (row.maps, row.side, row.side)


def test_weights_and_multiply_adds_of_every_row() -> None:
    found = stages(built("googlenet"), 224)
    for place, (kibi, millions) in paper.COMPUTED.items():
        row = found[f"inception_{place}"]
        assert round(weights(row) / 1024, 1) == pytest.approx(kibi, abs=0.051)
        assert row.macs / 1e6 == pytest.approx(millions, abs=0.051)
    conv2 = found["conv2"]
    assert weights(conv2) == 112 * 1024  # printed: 112K, which shows that K is 1024
    assert conv2.macs == pytest.approx(360e6, abs=0.5e6)  # printed: 360M


def test_the_operations_of_table_one_hold_but_for_5a() -> None:
    found = stages(built("googlenet"), 224)
    far = [
        place
        for place, row in paper.TABLE_1.items()
        if abs(found[f"inception_{place}"].macs / 1e6 - row.ops) >= 1
    ]
    assert far == ["5a"]


def test_the_separable_stem_is_what_the_first_row_of_table_one_counts() -> None:
    standard = stages(built("googlenet"), 224)["conv1"]
    separable = stages(built("googlenet_separable_stem"), 224)["conv1"]
    assert (weights(separable), separable.macs) == paper.SEPARABLE_STEM
    assert (weights(standard), standard.macs) == (9_408, 118_013_952)
    total = anatomy.totals(anatomy.trace(built("googlenet_separable_stem"), (3, 224, 224))).macs
    assert round(total / 1e9, 1) == 1.5  # the paper's "1.5 billion multiply-adds at inference time"


@pytest.mark.parametrize("place", TABLE_1)
def test_the_5x5_branch_has_kernel_5(place: str) -> None:
    for name in ("googlenet", "googlenet_separable_stem"):
        branch = built(name).get_submodule(f"inception_{place}.branch_5x5")
        assert kernels(branch) == {(1, 1), (5, 5)}


def test_the_torchvision_form_has_kernel_3_there_and_says_so() -> None:
    assert (5, 5) not in kernels(built("googlenet_torchvision"))
    assert "3x3 kernels in the 5x5 branch" in models.info("googlenet_torchvision").deviations
    assert models.info("googlenet").deviations == ()


def test_a_naive_module_costs_more_than_twice_as_much() -> None:
    reduced, naive = on_28x28(inception(192, TABLE_1["3a"])), on_28x28(naive_inception(192, TABLE_1["3a"]))
    assert (weights(reduced), reduced.macs, reduced.output[0]) == paper.REDUCED_3A
    assert (weights(naive), naive.macs, naive.output[0]) == paper.NAIVE_3A
    assert round(naive.macs / reduced.macs, 2) == 2.37


def test_the_naive_pooling_passes_its_maps_through() -> None:
    x = torch.randn(1, 192, 5, 5)
    pooled = torch.nn.functional.max_pool2d(x, 3, stride=1, padding=1)
    torch.testing.assert_close(naive_inception(192, TABLE_1["3a"])(x)[:, -192:], pooled)


@every_form
def test_58_learnable_layers_and_six_in_the_heads(name: str) -> None:
    further = name == "googlenet_separable_stem"  # two convolutions for one
    check_depth(name, built(name, auxiliary=False), paper.LAYERS + further)
    check_depth(name, built(name), paper.LAYERS + paper.LAYERS_OF_THE_HEADS + further)


def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["convworks.models.googlenet"]
    monkeypatch.setattr(module, "TABLE_1", {p: row for p, row in TABLE_1.items() if p != "4b"})
    with pytest.raises(AssertionError, match="googlenet: 52 weight layers, the paper says 58"):
        check_depth("googlenet", built("googlenet", auxiliary=False), paper.LAYERS)


@pytest.mark.parametrize(
    ("name", "count"),
    [("googlenet", paper.INFERENCE), ("googlenet_torchvision", paper.TORCHVISION_INFERENCE)],
)
def test_without_heads_it_has_the_parameters_of_inference(name: str, count: int) -> None:
    net = built(name, auxiliary=False)
    assert sum(p.numel() for p in net.parameters()) == count
    assert not any("auxiliary" in child for child, _ in net.named_children())


def test_heads_hang_on_4a_and_4d() -> None:
    net = built("googlenet")
    children = [name for name, _ in net.named_children()]
    assert children[children.index("inception_4a") + 1] == "auxiliary_4a"
    assert children[children.index("inception_4d") + 1] == "auxiliary_4d"
    counts = [
        sum(p.numel() for p in net.get_submodule(f"auxiliary_{at}").parameters()) for at in ("4a", "4d")
    ]
    assert tuple(counts) == paper.AUXILIARY


def test_the_loss_of_a_head_reaches_what_is_below_it_and_nothing_above() -> None:
    torch.manual_seed(0)
    net = models.create("googlenet", num_classes=10, input_size=(48, 48))
    output = net(torch.randn(2, 3, 48, 48))
    assert isinstance(output, WithAuxiliary)
    assert output.discount == 0.3  # section 5
    assert [each.shape for each in output.auxiliary] == [(2, 10), (2, 10)]
    output.auxiliary[0].sum().backward()
    reached = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert reached == {"conv1", "conv2", "inception_3a", "inception_3b", "inception_4a", "auxiliary_4a"}


def test_a_head_sees_4x4_cells_at_the_published_size() -> None:
    for at, maps in (("4a", 512), ("4d", 528)):
        head = built("googlenet").get_submodule(f"auxiliary_{at}")
        seen = head.get_submodule("pool")(torch.zeros(1, maps, 14, 14, device="meta"))
        assert seen.shape == (1, maps, 4, 4)


def test_dropout_of_40_per_cent_stands_between_the_mean_and_the_linear_layer() -> None:
    net = built("googlenet")
    assert [name for name, _ in net.named_children()][-3:] == ["avg_pool", "dropout", "linear"]
    dropout = net.get_submodule("dropout")
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.4
    assert built("googlenet").get_submodule("auxiliary_4a.dropout").p == 0.7


def test_response_normalisation_stands_where_figure_3_has_it() -> None:
    at = [name for name, m in built("googlenet").named_modules() if isinstance(m, LocalResponseNorm)]
    assert at == ["pool1.norm", "conv2.norm"]
    torchvision = built("googlenet_torchvision")
    assert not any(isinstance(m, LocalResponseNorm) for m in torchvision.modules())
    assert {m.eps for m in torchvision.modules() if isinstance(m, nn.BatchNorm2d)} == {0.001}


def test_the_receptive_field_through_the_5x5_branches() -> None:
    found = stages(built("googlenet"), 224)
    assert found["inception_5b"].field == (paper.RECEPTIVE_FIELD,) * 2
    size, jump = 1, 1
    path = [(7, 2), (3, 2), (3, 1), (3, 2), (5, 1), (5, 1), (3, 2)] + [(5, 1)] * 5 + [(3, 2), (5, 1), (5, 1)]
    for kernel, stride in path:
        size, jump = size + (kernel - 1) * jump, jump * stride
    assert size == paper.RECEPTIVE_FIELD


@pytest.mark.parametrize("size", [(47, 47), (96, 61), (160, 224)])
def test_other_sizes_train_and_evaluate(size: tuple[int, int]) -> None:
    net = models.create("googlenet", num_classes=5, input_size=size)
    x = torch.randn(2, 3, *size)
    assert [each.shape for each in net(x).auxiliary] == [(2, 5), (2, 5)]
    assert net.eval()(x).shape == (2, 5)


def test_a_smaller_image_is_refused_with_the_layer_where_it_breaks() -> None:
    with pytest.raises(ConvworksError, match="cannot take images of 46x60 pixels") as caught:
        models.create("googlenet", num_classes=5, input_size=(46, 60))
    assert "pool4 has a 3x3 window, and 2 cells are left" in caught.value.format()
    assert "47x47 and larger" in caught.value.format()


def test_a_fresh_network_passes_a_signal_through_all_of_its_layers() -> None:
    torch.manual_seed(0)
    net = models.create("googlenet", num_classes=10).eval()
    with torch.no_grad():
        spread = net(torch.randn(4, 3, 224, 224)).std().item()
    assert 0.1 < spread < 10


def test_a_row_knows_its_output() -> None:
    assert Row(c1=1, r3=2, c3=3, r5=4, c5=5, proj=6).out == 1 + 3 + 5 + 6
