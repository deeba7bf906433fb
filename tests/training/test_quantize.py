"""Eight-bit rounding against plain loops; its gradient, its ranges, and why batch norm need not be folded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.layers import Conv2d, stage
from convworks.layers.fold import fold_batch_norm
from convworks.training.quantize import (
    InputScale,
    Quantizer,
    input_scale,
    quantizable,
    rounded_input,
    rounded_weight,
    weight_integers,
    weight_scales,
)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return stage(
        conv1=stage(conv=nn.Conv2d(2, 5, 3, bias=False), norm=nn.BatchNorm2d(5), relu=nn.ReLU()),
        conv2=stage(conv=Conv2d(5, 4, 3, padding="same"), norm=nn.BatchNorm2d(4), relu=nn.ReLU()),
        flatten=nn.Flatten(),
        fc=nn.Linear(64, 3),
    )


def test_weights_are_whole_multiples_of_a_scale_for_each_channel() -> None:
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    integers, scales = weight_integers(weight)
    found = rounded_weight(weight)
    for channel in range(4):
        largest = max(abs(float(v)) for v in weight[channel].flatten())
        scale = max(largest / 127, 1e-12)
        assert float(scales[channel]) == pytest.approx(scale, rel=1e-6)
        for value, whole in zip(weight[channel].flatten(), integers[channel].flatten(), strict=True):
            assert abs(float(value) / scale - int(whole)) <= 0.5 + 1e-4
    assert int(integers.abs().max()) == 127
    torch.testing.assert_close(integers.float() * scales.view(-1, 1, 1, 1), found, rtol=0, atol=0)


def test_inputs_are_whole_multiples_with_zero_exact() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(1)) * 3 + 1
    how = input_scale(float(x.min()), float(x.max()))
    found = rounded_input(x, how)
    for value, rounded in zip(x.tolist(), found.tolist(), strict=True):
        whole = min(255, max(0, round(value / how.scale) + how.zero))
        assert rounded == pytest.approx((whole - how.zero) * how.scale, abs=1e-5)
    assert float(rounded_input(torch.zeros(1), how)) == 0
    torch.testing.assert_close(rounded_input(x, None), found, rtol=0, atol=1e-5)
    assert float(rounded_input(torch.tensor([1e6]), how)) == pytest.approx((255 - how.zero) * how.scale)


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(0.0, 2.55, 0), (1.0, 2.55, 0), (-2.55, -1.0, 255), (0.0, 0.0, 0)]
)
def test_ranges_are_widened_to_zero(low: float, high: float, zero: int) -> None:
    assert input_scale(low, high).zero == zero
    assert input_scale(low, high).scale > 0


def test_the_gradient_goes_straight_through_and_is_cut_outside() -> None:
    x = torch.tensor([-0.4, 0.3, 5.0], requires_grad=True)
    rounded_input(x, InputScale(0.01, 0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0]  # below, inside, above the range 0 to 2.55
    weight = torch.randn(3, 4, requires_grad=True)
    (rounded_weight(weight) * 2).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[2.0] * 4] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types_are_kept(dtype: torch.dtype) -> None:
    assert rounded_weight(torch.randn(2, 3).to(dtype)).dtype == dtype
    assert rounded_input(torch.randn(2, 3).to(dtype), None).dtype == dtype


def test_parameters_names_and_order_are_those_of_the_plain_network() -> None:
    plain, made = network(), network()
    quantizer = Quantizer(made)
    assert quantizer.layers == ("conv1.conv", "conv2.conv", "fc")
    made(torch.randn(2, 2, 6, 6)).sum().backward()
    assert list(plain.state_dict()) == list(made.state_dict())
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in made.named_parameters()]
    assert all(p.grad is not None for p in made.parameters())
    assert "weight" not in made.get_submodule("fc").__dict__


def test_the_forward_pass_is_that_of_rounded_weights_and_inputs() -> None:
    made, x = network().eval(), torch.randn(4, 2, 6, 6)
    oracle = copy.deepcopy(made)
    for layer in quantizable(oracle).values():
        layer.weight.data = rounded_weight(layer.weight.data)
    y = oracle.conv1(rounded_input(x, None))  # type: ignore[operator]
    y = oracle.flatten(oracle.conv2(rounded_input(y, None)))  # type: ignore[operator]
    expected = oracle.fc(rounded_input(y, None))  # type: ignore[operator]
    plain = made(x)
    quantizer = Quantizer(made)
    torch.testing.assert_close(made(x), expected, rtol=0, atol=0)
    assert not torch.equal(plain, expected)
    with quantizer.off():
        torch.testing.assert_close(made(x), plain, rtol=0, atol=0)
    torch.testing.assert_close(made(x), expected, rtol=0, atol=0)


def test_a_layer_that_fails_leaves_its_parameter_in_place() -> None:
    made = network()
    Quantizer(made)
    with pytest.raises(RuntimeError):
        made(torch.randn(2, 3, 6, 6))
    assert all("weight" not in module.__dict__ for module in made.modules())


def test_ranges_are_those_of_all_batches_that_were_seen() -> None:
    made = network().eval()
    quantizer, x = Quantizer(made), torch.randn(8, 2, 6, 6)
    with quantizer.observing():
        made(x[:4])
        made(x[4:])
    expected = input_scale(float(x.min()), float(x.max()))
    assert quantizer.scales["conv1.conv"] == expected
    assert quantizer.scales.keys() == set(quantizer.layers)
    one = made(x[:1])
    torch.testing.assert_close(made(x)[:1], one, rtol=0, atol=1e-5)  # no longer a matter of the batch
    judge = copy.deepcopy(made)
    torch.testing.assert_close(judge(x[:1]), one, rtol=0, atol=0)
    with quantizer.off():  # copies follow
        assert not torch.equal(judge(x[:1]), one)


def test_an_interrupted_observation_fixes_nothing() -> None:
    made = network().eval()
    quantizer = Quantizer(made)
    before = made(torch.ones(1, 2, 6, 6))
    with pytest.raises(RuntimeError), quantizer.observing():
        made(torch.ones(1, 3, 6, 6) * 50)
    assert not quantizer.scales
    torch.testing.assert_close(made(torch.ones(1, 2, 6, 6)), before, rtol=0, atol=0)


def test_folding_batch_norm_changes_no_integer_but_its_sign() -> None:
    made = network().eval()
    norm = made.get_submodule("conv1.norm")
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.3, 5.0, -0.7]))  # type: ignore[operator,union-attr]
        norm.running_var.copy_(torch.tensor([0.1, 2.0, 3.0, 1.0, 0.5]))  # type: ignore[operator,union-attr]
    folded = fold_batch_norm(made).network
    before, _ = weight_integers(made.get_parameter("conv1.conv.weight"))
    after, _ = weight_integers(folded.get_parameter("conv1.conv.weight"))
    signs = torch.tensor([1, -1, 1, 1, -1]).view(-1, 1, 1, 1)
    differing = (before * signs != after).float().mean()
    assert float(differing) <= 0.02  # a weight in the middle between two integers may fall on either side
    assert int((before * signs - after).abs().max()) <= 1


def test_a_network_without_such_layers_is_refused() -> None:
    with pytest.raises(ConvworksError, match="no dense or convolutional layer") as caught:
        Quantizer(stage(norm=nn.BatchNorm2d(3)))
    assert caught.value.code == "U235"


@pytest.mark.parametrize("name", ["fastnet", "resnet20_cifar", "mobilenet_v1_025_128", "lenet5"])
def test_outputs_stay_near_those_of_floating_point(name: str) -> None:
    channels, size = (1, 32) if name == "lenet5" else (3, 128 if "mobile" in name else 32)
    torch.manual_seed(0)
    made = models.create(name, num_classes=4, in_channels=channels, input_size=(size, size)).eval()
    x = torch.randn(8, channels, size, size)
    plain = made(x)
    quantizer = Quantizer(made)
    with quantizer.observing():
        made(x)
    assert float((made(x) - plain).detach().abs().mean()) < 0.1 * float(plain.detach().abs().mean())


def test_a_planted_error_is_seen() -> None:
    weight = torch.randn(4, 6)
    integers, scales = weight_integers(weight)
    integers[1, 2] += 1
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            integers.float() * scales.view(-1, 1), rounded_weight(weight), rtol=0, atol=0
        )
    assert weight_scales(weight).shape == (4,)
