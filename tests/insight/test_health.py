"""Dead units, saturation, gradient norms at equal depth, the identity term of residual networks."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.insight.health import GradientNorm, dead_units, gradient_norms, record, saturation
from convworks.layers import ScaledTanh


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def healthy() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16 * 36, 64), nn.ReLU()
        )


def test_a_network_forced_dead_is_wholly_dead_and_a_healthy_one_is_not() -> None:
    x = normal(64, 3, 8, 8)
    net = healthy()
    for row in dead_units(net, x):
        assert row.share < 0.05
    for layer in (net[0], net[3]):
        nn.init.constant_(layer.bias, -1e3)
    assert [(row.name, row.units, row.dead, row.share) for row in dead_units(net, x)] == [
        ("1", 16, 16, 1.0),
        ("4", 64, 64, 1.0),
    ]


def test_dead_units_are_counted_one_by_one() -> None:
    net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU())
    net[0].weight.data = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, 0]])
    x = torch.tensor([[1.0, -1.0], [2.0, -3.0]])  # units 2, 3 and 4 are never positive
    assert [(row.units, row.dead) for row in dead_units(net, x)] == [(4, 3)]
    alive = torch.tensor([[1.0, -1.0], [-2.0, 3.0]])
    assert dead_units(net, alive)[0].dead == 1


def test_a_map_lives_where_one_place_of_one_image_does() -> None:
    x = torch.full((2, 2, 3, 3), -1.0)
    x[1, 0, 2, 2] = 0.5
    row = dead_units(nn.Sequential(nn.ReLU()), x)[0]
    assert (row.units, row.dead) == (2, 1)


@pytest.mark.parametrize("kind", ["Tanh", "Sigmoid", "ScaledTanh"])
def test_saturation_by_numpy(kind: str) -> None:
    x = 4 * normal(50, 20)
    layer = {"Tanh": nn.Tanh(), "Sigmoid": nn.Sigmoid(), "ScaledTanh": ScaledTanh()}[kind]
    row = saturation(nn.Sequential(layer), x)[0]
    v = x.double().numpy()
    if kind == "Sigmoid":
        a = 1 / (1 + np.exp(-v))
        slope, low = a * (1 - a) / 0.25, np.mean(a < 0.05)
    else:
        a = np.tanh(v if kind == "Tanh" else 2 / 3 * v)
        slope, low = 1 - a**2, 0
    assert row.kind == kind
    assert row.share == pytest.approx(np.mean(np.abs(a) > 0.95), abs=2e-3)
    assert row.share_low == pytest.approx(low, abs=2e-3)
    assert row.shrinkage == pytest.approx(np.sqrt(np.mean(slope**2)), rel=1e-4)


def test_saturation_shrinks_the_gradient_by_as_much_as_it_says() -> None:
    x = normal(200, 50).requires_grad_(True)
    dy = normal(200, 50, seed=1)
    for scale, least, most in ((0.1, 0.0, 0.001), (5, 0.6, 0.9)):
        layer = nn.Tanh()
        (dx,) = torch.autograd.grad(layer(scale * x), x, dy)
        row = saturation(nn.Sequential(layer), (scale * x).detach())[0]
        assert least <= row.share <= most
        assert float(dx.norm() / dy.norm()) / scale == pytest.approx(row.shrinkage, rel=0.05)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def deep(kind: str, depth: int = 20, width: int = 32) -> nn.Sequential:
    """`depth` dense ReLU layers with small weights: plain, with batch norm, or with identity shortcuts."""

    def layer() -> nn.Module:
        linear = nn.Linear(width, width, bias=False)
        nn.init.normal_(linear.weight, std=0.5 * math.sqrt(2 / width))
        parts = [linear, nn.BatchNorm1d(width), nn.ReLU()] if kind == "norm" else [linear, nn.ReLU()]
        block = nn.Sequential(*parts)
        return Residual(block) if kind == "residual" else block

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(*(layer() for _ in range(depth)), nn.Linear(width, 5))


def linear_layers(rows: list[GradientNorm]) -> list[GradientNorm]:
    return [row for row in rows if row.kind == "Linear"]


def shrinkage(kind: str) -> float:
    """Norm at the first linear layer over the norm at the last hidden one."""
    labels = torch.arange(40) % 5
    rows = linear_layers(gradient_norms(deep(kind), normal(40, 32), lambda y: F.cross_entropy(y, labels)))
    assert len(rows) == 21
    return rows[0].output / rows[-2].output


def test_the_gradient_vanishes_in_a_plain_network_and_not_with_shortcuts_or_batch_norm() -> None:
    plain, residual, norm = shrinkage("plain"), shrinkage("residual"), shrinkage("norm")
    assert plain < 1e-4
    assert 0.1 < residual < 100
    assert 0.01 < norm < 100


def test_the_gradient_explodes_with_large_weights() -> None:
    net = deep("plain")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 4
    labels = torch.arange(40) % 5
    rows = linear_layers(gradient_norms(net, normal(40, 32), lambda y: F.cross_entropy(y, labels)))
    assert rows[0].output > 1e3 * rows[-2].output


def test_norms_are_those_of_autograd() -> None:
    net, x = healthy(), normal(4, 3, 8, 8)
    rows = {row.name: row for row in gradient_norms(net, x, lambda y: y.square().sum())}
    net(x).square().sum().backward()
    for name in ("0", "3"):
        expected = math.sqrt(sum(float(p.grad.square().sum()) for p in net[int(name)].parameters()))
        assert rows[name].parameters == pytest.approx(expected, rel=1e-5)
    y = net(x).detach()
    assert rows["4"].output == pytest.approx(float((2 * y).norm()), rel=1e-5)
    assert rows["1"].parameters == 0
    net[1].inplace = False
    maps = net[0](x).detach().requires_grad_(True)
    (below,) = torch.autograd.grad(net[1:](maps).square().sum(), maps)
    assert rows["0"].output == pytest.approx(float(below.norm()), rel=1e-5)


def test_nothing_in_the_network_changes() -> None:
    net = deep("norm", depth=3)
    net.insert(1, nn.Dropout(0.5))
    net[0].eval()
    net[0][0].weight.grad = torch.ones_like(net[0][0].weight)
    kept, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    flags = [module.training for module in net.modules()]
    x = normal(8, 32)
    gradient_norms(net, x, lambda y: y.sum())
    dead_units(net, x)
    saturation(net, x)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, kept[name]), name
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net.modules()] == flags
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.equal(net[0][0].weight.grad, torch.ones_like(net[0][0].weight))
    assert all(p.grad is None for name, p in net.named_parameters() if name != "0.0.weight")
    with pytest.raises(RuntimeError):
        record(net, normal(8, 31))
    assert not any(module._forward_hooks for module in net.modules())
    assert [module.training for module in net.modules()] == flags


def test_a_layer_that_is_called_twice_has_two_rows() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.relu(x) - 10)

    assert [(row.name, row.share) for row in dead_units(Twice(), normal(20, 4).abs())] == [
        ("relu", 0.0),
        ("relu (2)", 1.0),
    ]


def test_the_recursion_and_the_identity_term_of_residual_stacks() -> None:
    """x_L = x_l + sum F(x_i), and dE/dx_l = dE/dx_L (1 + d/dx_l sum F): lectures, residual networks."""
    blocks = [copy.deepcopy(block).double() for block in deep("residual", depth=6)][:6]
    start = normal(3, 32).double().requires_grad_(True)
    x, total = start, torch.zeros_like(start)
    for block in blocks:
        step = block.inner(x)
        total = total + step
        x = block(x)
    torch.testing.assert_close(x, start + total, rtol=1e-14, atol=1e-14)
    energy = x.square().sum()
    (top,) = torch.autograd.grad(energy, x, retain_graph=True)
    (below,) = torch.autograd.grad(energy, start, retain_graph=True)
    (through,) = torch.autograd.grad(total, start, grad_outputs=top, retain_graph=True)
    torch.testing.assert_close(below, top + through, rtol=1e-12, atol=1e-12)


def test_the_recursion_is_exact_in_a_linear_stack_of_whole_numbers() -> None:
    weights = [
        torch.randint(-2, 3, (4, 4), generator=torch.Generator().manual_seed(k)).double() for k in range(5)
    ]
    x = start = torch.arange(4.0).double()
    total = torch.zeros(4).double()
    for w in weights:
        total = total + w @ x
        x = x + w @ x
    assert torch.equal(x, start + total)
