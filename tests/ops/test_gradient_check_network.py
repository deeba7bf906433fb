"""Any torch network: every kind of layer passes, a wrong backward is found where it is, nothing changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.ops.gradient_check_network import WHOLE, LayerCheck, check_module, check_network


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class WrongSquare(torch.autograd.Function):
    """x^2 with the derivative 2.02 x in place of 2 x."""

    factor = 2.02

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return WrongSquare.factor * x * dy


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return WrongSquare.apply(x)


class Between(nn.Module):
    """The wrong square is not in a module, but between two."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(WrongSquare.apply(self.one(x)))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, groups=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 6),
            nn.LayerNorm(6),
            nn.Dropout(0.3),
            nn.Linear(6, 3),
            nn.LogSoftmax(dim=1),
        )


def by_name(lines: list[LayerCheck]) -> dict[str, LayerCheck]:
    return {line.name: line for line in lines}


def test_every_layer_and_the_whole_pass() -> None:
    seen: list[str] = []
    lines = check_network(network(), normal(3, 2, 8, 8), report=lambda line: seen.append(line.name))
    assert [line.name for line in lines] == [*map(str, range(14)), WHOLE] == seen
    for line in lines:
        assert line.result is not None
        line.result.require()
    assert lines[2].result is not None
    assert lines[2].result.kinks == 0  # the ReLU in place gets what reached it, not what it made of it
    assert {each.tensor for each in lines[0].result.tensors} == {"weight", "input"}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["lenet5", "lenet5_modern", "tutorial_cnn", "mlp128"])
def test_registered_networks_pass(name: str) -> None:
    info = models.info(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.create(name, num_classes=info.num_classes)
    lines = check_network(net, normal(2, info.in_channels, *info.input_size), samples=3)
    assert [line.name for line in lines if not line.ok] == []


def test_a_wrong_backward_is_found_in_its_layer() -> None:
    net = nn.Sequential(nn.Linear(3, 4), Square(), nn.Linear(4, 2))
    lines = by_name(check_network(net, normal(5, 3)))
    assert [name for name, line in lines.items() if not line.ok] == ["1", WHOLE]
    found = lines["1"].result
    assert found is not None
    assert found.first_wrong is not None
    assert found.first_wrong.tensor == "input"
    assert found.first_wrong.error == pytest.approx(0.02 / 2.02, rel=1e-3)


def test_a_right_square_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WrongSquare, "factor", 2.0)
    assert all(line.ok for line in check_network(nn.Sequential(Square()), normal(5, 3)))


def test_what_is_between_the_layers_shows_in_the_whole() -> None:
    lines = by_name(check_network(Between(), normal(5, 3)))
    assert [name for name, line in lines.items() if not line.ok] == [WHOLE]
    found = lines[WHOLE].result
    assert found is not None
    assert found.first_wrong is not None
    assert found.first_wrong.tensor == "one.weight"


def test_the_users_network_and_generator_stay_as_they_were() -> None:
    net = network().eval()
    net[0].weight.requires_grad_(False)
    net[9].weight.grad = torch.ones_like(net[9].weight)
    kept, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    x = normal(3, 2, 8, 8).float()
    given = x.clone()
    check_network(net, x)
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, kept[name]), name
        assert tensor.dtype == kept[name].dtype
    assert not any(module.training for module in net.modules())
    assert not net[0].weight.requires_grad
    assert torch.equal(net[9].weight.grad, torch.ones_like(net[9].weight))
    assert not any(module._forward_pre_hooks for module in net.modules())


class Odd(nn.Module):
    """A layer that is never called, one without gradients, one with two inputs and a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.blind = Blind()
        self.pair = Pair()

    def forward(self, x: Tensor) -> dict[str, Any]:
        return self.pair(x, self.blind(x), scale=2.0)


class Blind(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).to(torch.int64)


class Pair(nn.Module):
    def forward(self, x: Tensor, which: Tensor, *, scale: float) -> dict[str, Any]:
        return {"a": (x * which * scale, which), "b": [x.sum()]}


def test_what_cannot_be_checked_says_why() -> None:
    lines = by_name(check_network(Odd(), normal(4, 2)))
    assert lines["unused"].why == "not reached"
    assert lines["blind"].why.startswith("no gradient")
    assert lines["unused"].ok
    assert lines["pair"].result is not None
    assert lines["pair"].result.ok
    assert lines["pair"].result.checked == 8
    assert lines[WHOLE].ok


def test_ties_in_a_module_are_kinks() -> None:
    x = torch.tensor([[[1.0, 1.0, 0.0, 2.0]]], dtype=torch.float64)
    result = check_module(nn.MaxPool1d(2), x)
    assert result is not None
    assert (result.ok, result.kinks, result.checked) == (True, 2, 4)


def test_dropout_draws_by_the_seed_alone() -> None:
    errors = []
    for state in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(state)
            result = check_module(nn.Dropout(0.5), normal(20).requires_grad_(True), seed=3)
        assert result is not None
        result.require()
        errors.append([each.worst for each in result.tensors])
    assert errors[0] == errors[1]


def test_batch_norm_has_the_statistics_of_the_batch_and_its_own_back() -> None:
    norm = nn.BatchNorm1d(3).double().train()
    result = check_module(norm, normal(6, 3))
    assert result is not None
    result.require()
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(3, dtype=torch.float64))
