"""VGG against Table 1: weight layers, kernels, receptive fields, initial weights, staged initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import anatomy, models
from convworks.errors import ConvworksError
from convworks.models import initialise_from_a, vgg
from convworks.ops.arguments import BadArgument
from tests.papers import vgg as facts

every_column = pytest.mark.parametrize("name", facts.TABLE_1)


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return models.create(name, num_classes=1000, **options)


def check_table(name: str) -> None:
    """Weight layers and kernels as Table 1 prints them."""
    layers = [layer for layer in on_meta(name).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    printed = facts.WEIGHT_LAYERS[name]
    assert len(layers) == printed, f"{name}: {len(layers)} weight layers, the paper says {printed}"
    kernels = [layer.kernel_size[0] for layer in layers if isinstance(layer, nn.Conv2d)]
    assert kernels == [kernel for stage in facts.TABLE_1[name] for kernel in stage]


@every_column
def test_weight_layers_and_kernels_are_those_of_table_1(name: str) -> None:
    check_table(name)


def test_a_deleted_layer_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vgg.CONFIGS, "vgg_d", ("33", "33", "333", "333", "33"))
    with pytest.raises(AssertionError, match="vgg_d: 15 weight layers, the paper says 16"):
        check_table("vgg_d")


@every_column
def test_the_printed_millions_multiply_adds_and_fields(name: str) -> None:
    rows = anatomy.trace(on_meta(name), (3, 224, 224))
    total = anatomy.totals(rows)
    assert round(total.parameters / 1e6) == facts.MILLIONS[name]
    assert round(total.macs / 1e9, 3) == facts.GIGA_MACS[name]
    assert {row.name: row.field for row in rows}["conv5.pool5"] == (facts.FIELDS[name],) * 2


def test_the_dense_layers_are_86_per_cent_of_e() -> None:
    assert facts.DENSE == facts.DENSE_OF_E == 123_642_856
    stages = anatomy.stages(anatomy.trace(on_meta("vgg_e"), (3, 224, 224)))
    dense = sum(row.parameters for row in stages if row.name.startswith("fc"))
    assert dense == facts.DENSE_OF_E
    assert round(100 * dense / 143_667_240, 2) == 86.06


def test_small_kernels_have_fewer_weights() -> None:
    for count, kernel, per_cent in ((3, 7, 81.48), (2, 5, 38.89)):  # 27 against 49 C^2, 18 against 25 C^2
        c = 16
        stacked = sum(nn.Conv2d(c, c, 3, bias=False).weight.numel() for _ in range(count))
        single = nn.Conv2d(c, c, kernel, bias=False).weight.numel()
        assert (stacked, single) == (9 * count * c * c, kernel * kernel * c * c)
        assert round(100 * (single / stacked - 1), 2) == per_cent
    assert round(1 - 18 / 25, 2) == 0.28


def test_c_is_d_with_three_1x1_convolutions() -> None:
    c, d = vgg.CONFIGS["vgg_c"], vgg.CONFIGS["vgg_d"]
    assert c == (*d[:2], *(f"{stage[:-1]}1" for stage in d[2:]))


def test_a_lrn_is_a_with_one_response_normalisation() -> None:
    net = on_meta("vgg_a_lrn")
    assert [name for name, _ in net.get_submodule("conv1").named_children()] == [
        "conv1_1", "relu1_1", "norm1_1", "pool1",
    ]  # fmt: skip
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in on_meta("vgg_a").named_parameters()]


def test_dropout_is_behind_the_first_two_dense_layers() -> None:
    drops = {name: m.p for name, m in on_meta("vgg_e").named_modules() if isinstance(m, nn.Dropout)}
    assert drops == {"fc6.drop": 0.5, "fc7.drop": 0.5}


def small(name: str, **options: object) -> nn.Module:
    return models.create(name, num_classes=10, input_size=(32, 32), **options)


def test_the_two_initial_weights_of_section_3() -> None:
    torch.manual_seed(0)
    normal, glorot = small("vgg_a", initial="normal"), small("vgg_a")
    for net in (normal, glorot):
        assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))
    assert normal.get_parameter("conv5.conv5_1.weight").std().item() == pytest.approx(0.1, rel=0.01)
    assert normal.get_parameter("fc7.linear.weight").var().item() == pytest.approx(0.01, rel=0.01)
    weight = glorot.get_parameter("fc7.linear.weight")
    assert weight.abs().max().item() == pytest.approx((6 / (4096 + 4096)) ** 0.5, rel=1e-3)
    assert weight.var().item() == pytest.approx(2 / (4096 + 4096), rel=0.01)
    with pytest.raises(ConvworksError, match="option 'initial' of vgg_a cannot be 'he'") as caught:
        small("vgg_a", initial="he")
    assert caught.value.where == "allowed: glorot, normal"


@pytest.mark.parametrize("name", ["vgg_d", "vgg_e"])
def test_deeper_networks_begin_with_seven_layers_of_a(name: str) -> None:
    torch.manual_seed(0)
    source, target = small("vgg_a"), small(name)
    before = {key: p.detach().clone() for key, p in target.named_parameters()}
    copied = initialise_from_a(target, source)
    assert {key.rpartition(".")[0] for key in copied} == set(vgg.FROM_A)
    assert (len(copied), len(vgg.FROM_A)) == (14, 7)
    theirs = dict(source.named_parameters())
    for key, p in target.named_parameters():
        torch.testing.assert_close(p, theirs[key] if key in copied else before[key], rtol=0, atol=0)
    assert (target.get_parameter("conv3.conv3_2.weight") == theirs["conv3.conv3_2.weight"]).all()


def test_a_source_that_does_not_fit_changes_nothing() -> None:
    source = models.create("vgg_a", num_classes=5, input_size=(32, 32))
    target = small("vgg_b")
    before = {key: p.detach().clone() for key, p in target.named_parameters()}
    with pytest.raises(BadArgument, match=r"fc8.weight is \(5, 4096\) in the source and \(10, 4096\) in the"):
        initialise_from_a(target, source)
    torch.testing.assert_close(dict(target.named_parameters()), before, rtol=0, atol=0)
    with pytest.raises(BadArgument, match="conv1.conv1_1.weight is missing in the source"):
        initialise_from_a(target, nn.Linear(2, 2))


def test_batch_norm_is_an_option() -> None:
    net = on_meta("vgg_d", batch_norm=True)
    norms = [name for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 13
    assert norms[0] == "conv1.bn1_1"
    assert sum(p.numel() for p in net.parameters()) == 138_357_544 + 2 * 4224  # 4,224 maps, scale and shift


def test_a_size_that_is_too_small() -> None:
    with pytest.raises(ConvworksError) as caught:
        models.create("vgg_d", num_classes=10, input_size=(32, 31))
    assert caught.value.where == "what fits: 32x32 and larger"
