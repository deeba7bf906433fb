"""The dilated causal stack: what each output sees, and that it never looks ahead."""

from __future__ import annotations

import pytest
import torch

from convworks import models
from convworks.errors import ConvworksError
from convworks.models.wavenet import dilations, wavenet
from tests.papers import wavenet as facts


def seen(layers: int, kernel: int, cycles: int = 1, length: int = 140) -> list[int]:
    """Steps of the input with a gradient to the last step of the output, counted back from it."""
    torch.manual_seed(0)
    net = wavenet(num_classes=3, layers=layers, kernel=kernel, cycles=cycles).double()  # type: ignore[arg-type]
    x = torch.randn(1, 1, 1, length, dtype=torch.float64, requires_grad=True)
    net(x).square().sum().backward()
    assert x.grad is not None
    return [length - 1 - int(t) for t in x.grad[0, 0, 0].nonzero().flatten()][::-1]


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("kernel", [2, 3])
def test_the_receptive_field_doubles_with_each_layer(layers: int, kernel: int) -> None:
    expected = 2**layers if kernel == 2 else 2 ** (layers + 1) - 1
    assert seen(layers, kernel) == list(range(expected))


def test_printed_numbers() -> None:
    assert len(seen(5, 3)) == 63  # lectures: five layers, dilations 1, 2, 4, 8, 16
    assert len(seen(10, 2, length=1100)) == facts.PRINTED_RECEPTIVE_FIELD
    assert len(seen(3, 2, cycles=3)) == 1 + 3 * 7
    assert dilations(10)[-1] == 512
    assert dilations(3, 2) == [1, 2, 4, 1, 2, 4]


@pytest.mark.parametrize("kernel", [2, 3])
def test_no_step_depends_on_later_ones(kernel: int) -> None:
    torch.manual_seed(0)
    net = wavenet(num_classes=5, layers=4, kernel=kernel)[:-1].eval()  # type: ignore[arg-type]
    x = torch.randn(2, 1, 1, 40)
    with torch.no_grad():
        before = net(x)
        for t in (0, 7, 38):
            changed = x.clone()
            changed[..., t + 1 :] = torch.randn(39 - t)
            after = net(changed)
            assert torch.equal(after[..., : t + 1], before[..., : t + 1])
            assert not torch.equal(after[..., t + 1 :], before[..., t + 1 :])


def test_without_its_last_child_it_gives_every_step() -> None:
    torch.manual_seed(0)
    net = wavenet(num_classes=5, layers=3).eval()
    x = torch.randn(2, 1, 1, 30)
    steps = net[:-1](x)
    assert steps.shape == (2, 5, 30)
    torch.testing.assert_close(net(x), steps[..., -1])
    torch.testing.assert_close(net(x[..., :20]), steps[..., 19])


def test_a_unit_is_tanh_times_sigmoid() -> None:
    torch.manual_seed(0)
    unit = wavenet(layers=2).get_submodule("stack.unit2")  # dilation 2
    x = torch.randn(1, 32, 9)

    def at(layer: torch.nn.Module, t: int) -> torch.Tensor:
        early = x[0, :, t - 2] if t >= 2 else torch.zeros(32)
        return layer.weight[:, :, 0] @ early + layer.weight[:, :, 1] @ x[0, :, t] + layer.bias

    for t in (0, 1, 5):
        z = at(unit.filter, t).tanh() * at(unit.gate, t).sigmoid()
        expected = unit.conv.weight[:, :, 0] @ z + unit.conv.bias
        torch.testing.assert_close(unit(x)[0, :, t], expected)


@pytest.mark.parametrize(("option", "value"), [("kernel", 4), ("layers", 0), ("layers", 17), ("cycles", 9)])
def test_options_out_of_range(option: str, value: int) -> None:
    with pytest.raises(ConvworksError, match=f"option '{option}' of wavenet cannot be {value}") as caught:
        models.create("wavenet", num_classes=4, **{option: value})
    assert caught.value.code == "U123"


def test_images_are_refused() -> None:
    with pytest.raises(ConvworksError, match="wavenet cannot take images of 28x28 pixels") as caught:
        models.create("wavenet", num_classes=4, input_size=(28, 28))
    assert "a sequence, which is an image of one row" in caught.value.format()
    assert caught.value.try_ == "convworks show wavenet --input 1x1024x1"
