"""Bytes against sums written out, and the bytes of torch's own tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.anatomy import Row, dense_share, memory, trace


def rows() -> list[Row]:
    """3 x 8 x 8 -> conv -> 4 x 8 x 8 -> ReLU -> pool -> 4 x 4 x 4 -> 5."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )
    return trace(net, (3, 8, 8))


def test_by_hand() -> None:
    need = memory(rows(), (3, 8, 8), batch=2, optimizer_states=2)
    parameters = 3 * 4 * 9 + 4 + 64 * 5 + 5
    assert need.weights == need.gradients == 4 * parameters
    assert need.optimizer == 8 * parameters
    assert need.inference_activations == 2 * 4 * (256 + 256)  # the ReLU's input and output
    assert need.training_activations == 2 * 4 * (192 + 256 + 256 + 64 + 64 + 5)
    assert need.inference == need.weights + need.inference_activations
    assert need.training == 16 * parameters + need.training_activations


def test_the_outputs_are_those_that_torch_makes() -> None:
    net = models.create("resnet18", num_classes=10)
    held: list[int] = []
    for layer in net.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, __, out: held.append(out.numel() * out.element_size()))
    image = torch.zeros(1, 3, 64, 64)
    net.eval()(image)
    need = memory(trace(net, (3, 64, 64)), (3, 64, 64))
    assert need.training_activations == sum(held) // 2 + image.numel() * 4  # the trace ran it again
    assert need.weights == sum(p.numel() * p.element_size() for p in net.parameters())


@pytest.mark.parametrize(("name", "share"), [("vgg_e", 0.8606), ("googlenet", 0.5435)])
def test_dense_shares_of_the_lectures(name: str, share: float) -> None:
    with torch.device("meta"):
        net = models.create(name, num_classes=1000)
    assert dense_share(trace(net, (3, 224, 224))) == pytest.approx(share, abs=5e-5)


def test_googlenet_without_its_heads() -> None:
    with torch.device("meta"):
        net = models.create("googlenet", num_classes=1000)
    found = trace(net, (3, 224, 224))
    assert dense_share(found, idle=False) == pytest.approx((1024 * 1000 + 1000) / 6_998_552, abs=1e-9)


class Own(nn.Module):
    """A dense layer by another name, which knows its cost."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def macs(self, output: tuple[int, ...]) -> int:
        return 1


def test_what_counts_as_dense() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), Own(), nn.Flatten(), nn.Linear(4, 1))
    assert [row.dense for row in trace(net, (1, 2, 2))] == [False, False, True, False, True]
