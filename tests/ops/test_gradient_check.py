"""The checker: right gradients pass, the first wrong entry is named, kinks are kinks, nothing changes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from convworks.errors import ConvworksError
from convworks.ops.arguments import BadArgument
from convworks.ops.gradient_check import GradientCheck, check_gradient


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(
    function: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor, *, samples: int | None = None
) -> GradientCheck:
    return check_gradient(lambda: function(x), {"x": x}, {"x": gradient}, samples=samples)


SMOOTH: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "square": (lambda x: x.square().sum(), lambda x: 2 * x),
    "terms": (lambda x: x.square(), lambda x: 2 * x),
    "exp": (lambda x: (3 * x).exp(), lambda x: 3 * (3 * x).exp()),
    "steep": (lambda x: (1000 * x).sin(), lambda x: 1000 * (1000 * x).cos()),
    "large": (lambda x: 1e4 + x.square(), lambda x: 2 * x),
    "small": (lambda x: 1e-12 * x.square(), lambda x: 2e-12 * x),
    "constant": (lambda x: 0 * x + 5, lambda x: 0 * x),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_right_gradients_pass(name: str) -> None:
    function, gradient = SMOOTH[name]
    x = normal(3, 4)
    result = run(function, x, gradient(x))
    result.require()
    assert result.checked == 12
    assert result.kinks == 0
    assert result.worst_error <= 1e-6


@pytest.mark.parametrize("name", [name for name in SMOOTH if name != "constant"])
@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0, 0.0, 1 + 2e-4, float("nan"), float("inf")])
def test_one_wrong_entry_is_named(name: str, factor: float) -> None:
    function, gradient = SMOOTH[name]
    x = normal(3, 4)
    wrong = gradient(x)
    wrong[1, 2] *= factor
    wrong[2, 0] *= factor
    found = run(function, x, wrong).first_wrong
    assert found is not None
    assert (found.tensor, found.index) == ("x", (1, 2))


def test_the_entry_has_both_numbers_and_the_message_too() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    result = run(lambda v: v.square(), x, torch.tensor([2.0, 4.04], dtype=torch.float64))
    assert str(result.first_wrong) == "x[1]: analytic 4.04, numeric 4, error 9.9e-03"
    assert not result.ok
    assert result.worst == result.first_wrong
    with pytest.raises(ConvworksError) as caught:
        result.require()
    assert caught.value.code == "N630"
    assert caught.value.what == "the gradient of x is wrong at [1]"
    assert re.search(r"analytic 4.04, finite difference 4.*: relative error 9.9e-03", caught.value.why)


@pytest.mark.parametrize("place", [0, 1233, 4999])
def test_an_entry_that_was_not_sampled_is_found(place: int) -> None:
    x = normal(50, 100)
    wrong = x.cos()
    wrong.view(-1)[place] *= 1.01
    result = run(torch.sin, x, wrong, samples=3)
    assert result.first_wrong is not None
    assert result.first_wrong.index == divmod(place, 100)
    assert result.checked == 3
    assert run(torch.sin, x, x.cos(), samples=3).ok


def test_the_first_of_many_wrong_entries_in_order() -> None:
    x, y = normal(5), normal(2, 3, seed=1)
    gradients = {"x": 2 * x, "y": 2.2 * y}
    result = check_gradient(lambda: x.square().sum() + y.square().sum(), {"x": x, "y": y}, gradients)
    assert [each.first_wrong is None for each in result.tensors] == [True, False]
    assert result.first_wrong is not None
    assert (result.first_wrong.tensor, result.first_wrong.index) == ("y", (0, 0))


@pytest.mark.parametrize("chosen", [0.0, 1.0, 0.3])
def test_relu_at_zero_is_a_kink(chosen: float) -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    result = run(lambda v: 5 * v.clamp(min=0), x, torch.tensor([0, 5 * chosen, 5], dtype=torch.float64))
    assert result.ok
    assert result.kinks == 1
    assert result.checked == 3


def test_no_subgradient_is_wrong_even_at_a_kink() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    result = run(lambda v: 5 * v.clamp(min=0), x, torch.tensor([0, 5.05, 5], dtype=torch.float64))
    assert result.first_wrong is not None
    assert result.first_wrong.index == (1,)


def test_the_maximum_of_equal_values_is_a_kink() -> None:
    x = torch.tensor([1.0, 1.0, -3.0], dtype=torch.float64)
    result = run(lambda v: v.max(), x, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    assert (result.ok, result.kinks) == (True, 2)
    assert not run(lambda v: v.max(), x, torch.tensor([1.0, 0, 0.01], dtype=torch.float64)).ok


@pytest.mark.parametrize("distance", [1e-5, 3e-6, 1e-7, 2e-8, -3e-6])
def test_near_a_kink_a_smaller_step_decides(distance: float) -> None:
    x = torch.tensor([distance], dtype=torch.float64)
    slope = 1.0 if distance > 0 else 0.0
    assert run(lambda v: v.clamp(min=0) + v.exp(), x, slope + x.exp()).ok
    assert not run(lambda v: v.clamp(min=0) + v.exp(), x, 1.01 * (slope + x.exp())).ok


def test_curvature_is_no_kink() -> None:
    x = torch.tensor([1e-9], dtype=torch.float64)
    curved: Callable[[Tensor], Tensor] = lambda v: 1e6 * v.square() + v  # noqa: E731
    right = 2e6 * x + 1
    assert run(curved, x, right).ok
    assert not run(curved, x, 1.01 * right).ok


def test_terms_that_do_not_change_add_no_rounding() -> None:
    x, large = normal(3), torch.tensor([1e9], dtype=torch.float64)
    both = lambda v: torch.cat([v.square(), large])  # noqa: E731
    assert run(both, x, 2 * x).ok
    assert not run(both, x, 2.02 * x).ok
    assert run(lambda v: both(v).sum(), x, 2.02 * x).ok  # as one number it cannot be told


def test_the_tensors_come_back_to_the_bit() -> None:
    x = normal(4, 3)
    kept = x.clone()
    run(torch.sin, x, 2 * x.cos(), samples=2)
    assert torch.equal(x, kept)

    def breaks() -> Tensor:
        if not torch.equal(x, kept):
            raise RuntimeError("half way")
        return x.sum()

    with pytest.raises(RuntimeError, match="half way"):
        check_gradient(breaks, {"x": x}, {"x": torch.ones_like(x)})
    assert torch.equal(x, kept)


def test_a_tensor_that_is_a_view_is_changed_where_it_lies() -> None:
    base = normal(4, 3)
    x = base.T
    assert check_gradient(base.sin, {"x": x}, {"x": x.cos()}).ok
    assert not check_gradient(base.sin, {"x": x}, {"x": 1.01 * x.cos()}).ok


def test_the_same_seed_draws_the_same_entries() -> None:
    def worst(seed: int) -> tuple[int, ...]:
        x = normal(100)
        result = check_gradient(x.sin, {"x": x}, {"x": x.cos()}, samples=3, seed=seed)
        assert result.worst is not None
        return result.worst.index

    assert worst(1) == worst(1)
    assert len({worst(seed) for seed in range(6)}) > 1


def test_an_empty_tensor_has_nothing_to_check() -> None:
    x = normal(0, 3)
    result = run(lambda v: v.sum(), x, x.clone())
    assert (result.ok, result.checked, result.worst, result.worst_error) == (True, 0, None, 0.0)


@pytest.mark.parametrize(
    ("value", "gradient", "said"),
    [
        (normal(3).float(), normal(3).float(), r"x = torch.float32 does not fit: finite differences need"),
        (normal(3), normal(4), r"gradients\['x'\] = \(4,\) does not fit: the tensor has the shape \(3,\)"),
    ],
)
def test_what_does_not_fit_is_named(value: Tensor, gradient: Tensor, said: str) -> None:
    with pytest.raises(BadArgument, match=said):
        run(torch.sin, value, gradient)


def test_a_missing_gradient_is_named() -> None:
    x = normal(3)
    with pytest.raises(BadArgument, match=r"gradients\['x'\] = None does not fit"):
        check_gradient(x.sum, {"x": x}, {})
