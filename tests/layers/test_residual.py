"""Residual units: the identity, the three shortcuts, the fit without weights, and the gradient's identity."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convworks.layers.residual import Fit, Residual, ZeroPad, projection, shortcut
from convworks.ops.arguments import BadArgument


class Zero(nn.Module):
    """F = 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def branch(c: int = 3, *, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(c, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, c, 3, padding=1)).double()


@pytest.mark.parametrize("beside", [None, nn.Identity(), shortcut("A", 3, 3), shortcut("B", 3, 3)])
def test_a_branch_of_zeros_gives_the_identity(beside: nn.Module | None) -> None:
    x = draw(2, 3, 4, 5)
    torch.testing.assert_close(Residual(Zero(), beside)(x), x, rtol=0, atol=0)


def test_the_sum_and_then_the_activation() -> None:
    x, f = draw(2, 3, 6, 6), branch()
    torch.testing.assert_close(Residual(f)(x), x + f(x), rtol=0, atol=0)
    rectified = Residual(f, activation=nn.ReLU())(x)
    torch.testing.assert_close(rectified, (x + f(x)).clamp(min=0), rtol=0, atol=0)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    c_in=st.integers(1, 4), more=st.integers(0, 3), side=st.integers(1, 9), stride=st.integers(1, 3),
    rank=st.integers(1, 3),
)  # fmt: skip
def test_option_a_keeps_every_s_th_place_and_adds_maps_of_zeros(
    c_in: int, more: int, side: int, stride: int, rank: int
) -> None:
    x = draw(2, c_in, *[side] * rank)
    y = ZeroPad(more, stride=stride)(x).numpy()
    for index in range(c_in + more):
        for place in range(y.shape[2]):
            expected = 0.0 if index >= c_in else x[1, index, *[place * stride] * rank].item()
            assert y[(1, index, *[place] * rank)] == expected
    assert y.shape == (2, c_in + more, *[-(-side // stride)] * rank)


def test_the_three_options() -> None:
    same, changed = (16, 16, 1), (16, 32, 2)
    kinds = {
        option: [type(shortcut(option, a, b, stride=s)).__name__ for a, b, s in (same, changed)]
        for option in ("A", "B", "C")
    }
    assert kinds == {
        "A": ["Identity", "ZeroPad"],
        "B": ["Identity", "Sequential"],
        "C": ["Sequential", "Sequential"],
    }
    counted = [sum(p.numel() for p in shortcut(o, 16, 32, stride=2).parameters()) for o in ("A", "B", "C")]
    assert counted == [0, 16 * 32 + 2 * 32, 16 * 32 + 2 * 32]
    assert sum(p.numel() for p in projection(16, 32, norm=False).parameters()) == 16 * 32
    for option in ("A", "B", "C"):
        assert shortcut(option, 16, 32, stride=2)(torch.zeros(2, 16, 7, 9)).shape == (2, 32, 4, 5)
    assert projection(3, 5, stride=2, rank=1)(torch.zeros(2, 3, 7)).shape == (2, 5, 4)


def test_an_option_that_is_not_there_and_maps_that_zeros_cannot_make() -> None:
    with pytest.raises(BadArgument, match="option = 'D' does not fit: it is one of A, B, C"):
        shortcut("D", 3, 3)  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="zeros cannot turn 8 maps into 4") as caught:
        shortcut("A", 8, 4)
    assert caught.value.hint == "option='B'"


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 9, 7)),  # every second place, five more maps
        (nn.Conv2d(3, 3, 3), (2, 3, 9, 7)),  # the middle
        (nn.Conv2d(3, 4, 1, padding=1), (2, 3, 5, 5)),  # zeros around
        (nn.Sequential(nn.Conv1d(2, 6, 5, padding=2), nn.MaxPool1d(3)), (4, 2, 12)),
        (nn.Conv3d(1, 2, 3, padding=1), (1, 1, 4, 4, 4)),
        (nn.Linear(5, 9), (3, 5)),
        (nn.Identity(), (3, 5)),
    ],
)
def test_any_module_can_be_wrapped(module: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape, requires_grad=True)
    y = Residual(module)(x)
    assert y.shape == module(x).shape
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_the_fit_by_hand() -> None:
    x = torch.arange(1.0, 6.0).view(1, 1, 5)
    fit = Fit()
    assert fit(x, torch.zeros(1, 1, 3)).tolist() == [[[1, 3, 5]]]  # every second
    assert fit(x, torch.zeros(1, 1, 4)).tolist() == [[[1, 2, 3, 4]]]  # the middle, as near as it goes
    seven = torch.arange(7.0).view(1, 1, 7)
    assert fit(seven, torch.zeros(1, 1, 5)).tolist() == [[[1, 2, 3, 4, 5]]]
    assert fit(x[..., :4], torch.zeros(1, 1, 2)).tolist() == [[[1, 3]]]
    assert fit(x, torch.zeros(1, 2, 8)).tolist() == [[[0, 1, 2, 3, 4, 5, 0, 0], [0] * 8]]


def test_fewer_maps_need_a_projection() -> None:
    unit = Residual(nn.Conv2d(8, 4, 3, padding=1))
    with pytest.raises(
        BadArgument, match=r"a module from \(1, 8, 6, 6\) to \(1, 4, 6, 6\)' does not fit"
    ) as caught:
        unit(torch.zeros(1, 8, 6, 6))
    assert caught.value.hint == "shortcut=projection(c_in, c_out)"
    unit = Residual(nn.Conv2d(8, 4, 3, padding=1), projection(8, 4))
    assert unit(torch.zeros(2, 8, 6, 6)).shape == (2, 4, 6, 6)


def test_a_shortcut_of_another_shape_is_not_broadcast() -> None:
    unit = Residual(nn.Conv2d(3, 4, 3, stride=4, padding=1), shortcut("B", 3, 4, stride=2))
    with pytest.raises(BadArgument, match=r"shortcut \(1, 4, 2, 2\) and branch \(1, 4, 1, 1\)"):
        unit.eval()(torch.zeros(1, 3, 4, 4))


def test_the_sum_of_all_branches_joins_any_two_layers() -> None:
    # x_L = x_l + the sum of F(x_i): equation 4 of the second paper
    units = [Residual(branch(seed=i)) for i in range(5)]
    xs = [draw(2, 3, 6, 6)]
    for unit in units:
        xs.append(unit(xs[-1]))
    for first in range(5):
        total = xs[first] + sum(unit.branch(x) for unit, x in zip(units[first:], xs[first:-1], strict=True))
        torch.testing.assert_close(total, xs[-1], rtol=0, atol=1e-12)


def test_the_gradient_passes_all_units_unchanged_beside_that_of_the_branches() -> None:
    # dE/dx_l = dE/dx_L (1 + d/dx_l of the sum of F(x_i)): equation 5
    units = nn.Sequential(*(Residual(branch(seed=i)) for i in range(4)))
    x, toward = draw(1, 3, 4, 4).requires_grad_(), draw(1, 3, 4, 4, seed=1)  # toward is dE/dx_L

    def sum_of_branches(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for unit in units:
            step = unit.branch(x)
            x, total = x + step, total + step
        return total

    (whole,) = torch.autograd.grad(units(x), x, toward)
    (of_branches,) = torch.autograd.grad(sum_of_branches(x), x, toward)
    torch.testing.assert_close(whole, toward + of_branches, rtol=0, atol=1e-12)
    with pytest.raises(AssertionError):  # the identity is seen: without it the gradient is another
        torch.testing.assert_close(whole, of_branches, rtol=0, atol=1e-3)


def test_with_dead_branches_the_gradient_arrives_whole() -> None:
    units = nn.Sequential(*(Residual(branch(seed=i)) for i in range(30)))
    for unit in units:
        nn.init.zeros_(unit.branch[2].weight)
    x, toward = draw(1, 3, 4, 4).requires_grad_(), draw(1, 3, 4, 4, seed=1)
    (gradient,) = torch.autograd.grad(units(x), x, toward)
    torch.testing.assert_close(gradient, toward, rtol=0, atol=0)


def test_the_gradient_of_a_unit_is_that_of_differences() -> None:
    unit = Residual(nn.Conv2d(2, 4, 3, stride=2, padding=1), shortcut("A", 2, 4, stride=2)).double()
    assert torch.autograd.gradcheck(unit, (draw(1, 2, 5, 4).requires_grad_(),))
    fitted = Residual(nn.Conv2d(2, 4, 3, stride=2, padding=1)).double()
    assert torch.autograd.gradcheck(fitted, (draw(1, 2, 5, 4).requires_grad_(),))
