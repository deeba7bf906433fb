"""Losses and penalties against NumPy and SciPy; their gradients against differences; errors planted."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from torch import Tensor

from convworks.ops import loss
from convworks.ops.arguments import BadArgument

few = settings(max_examples=25, deadline=None, derandomize=True)
close = torch.testing.assert_close


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def differences(function: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-6) -> Tensor:
    """Central differences of a sum, entry by entry."""
    found = torch.empty_like(x)
    for index in np.ndindex(*x.shape):
        above, below = x.clone(), x.clone()
        above[index] += h
        below[index] -= h
        found[index] = (function(above).sum() - function(below).sum()) / (2 * h)
    return found


def oracle(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -(targets * scipy_log_softmax(logits, axis=1)).sum(axis=1)


SHAPES = st.tuples(st.integers(1, 4), st.integers(2, 5), st.lists(st.integers(1, 3), max_size=2))


@few
@given(SHAPES, st.integers(0, 99), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from(["mean", "sum", "none"]))
def test_cross_entropy_of_hard_labels(
    shape: tuple[int, int, list[int]], seed: int, eps: float, reduction: str
) -> None:
    n, k, rest = shape
    logits = 3 * normal(n, k, *rest, seed=seed)
    labels = torch.randint(0, k, (n, *rest), generator=torch.Generator().manual_seed(seed))
    targets = np.full((n, k, *rest), eps / k)
    for place in np.ndindex(n, *rest):
        targets[(place[0], int(labels[place]), *place[1:])] += 1 - eps
    expected = oracle(logits.numpy(), targets)
    expected = {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](expected)
    found = loss.cross_entropy(logits, labels, smoothing=eps, reduction=reduction)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)
    theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=eps, reduction=reduction)
    close(found, theirs)
    gradient = loss.cross_entropy_backward(logits, labels, smoothing=eps, reduction=reduction)
    close(
        gradient,
        differences(lambda x: loss.cross_entropy(x, labels, smoothing=eps, reduction=reduction), logits),
        rtol=1e-6,
        atol=1e-8,
    )


@few
@given(SHAPES, st.integers(0, 99), st.floats(0.0, 0.5))
def test_cross_entropy_of_soft_labels(shape: tuple[int, int, list[int]], seed: int, eps: float) -> None:
    n, k, rest = shape
    logits = normal(n, k, *rest, seed=seed)
    raw = normal(n, k, *rest, seed=seed + 1).exp()
    targets = raw / raw.sum(dim=1, keepdim=True)
    smoothed = (1 - eps) * targets.numpy() + eps / k
    found = loss.cross_entropy(logits, targets, smoothing=eps)
    np.testing.assert_allclose(found.item(), oracle(logits.numpy(), smoothed).mean(), rtol=1e-12)
    gradient = loss.cross_entropy_backward(logits, targets, smoothing=eps)
    close(
        gradient,
        differences(lambda x: loss.cross_entropy(x, targets, smoothing=eps), logits),
        rtol=1e-6,
        atol=1e-8,
    )


def test_cross_entropy_is_minus_the_log_probability() -> None:
    # softmax of (log 1, log 2, log 5) is (1/8, 2/8, 5/8)
    logits = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64).log()
    for label, p in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert loss.cross_entropy(logits, torch.tensor([label])).item() == pytest.approx(-math.log(p))
    gradient = loss.cross_entropy_backward(logits, torch.tensor([2]))
    close(gradient, torch.tensor([[1 / 8, 2 / 8, 5 / 8 - 1]], dtype=torch.float64))


def test_soft_labels_of_mixup_mix_the_losses() -> None:
    logits, first, second, share = normal(6, 4), torch.arange(6) % 4, torch.arange(6) // 2, 0.3
    mixed = share * loss.soft_targets(first, 4) + (1 - share) * loss.soft_targets(second, 4)
    parts = [loss.cross_entropy(logits, y) for y in (first, second)]
    close(loss.cross_entropy(logits, mixed), share * parts[0] + (1 - share) * parts[1], rtol=1e-6, atol=1e-6)


def test_label_smoothing_of_inception() -> None:
    """eps = 0.1, K = 1000: 0.9001 at the label, 0.0001 elsewhere; H = (1 - eps) H(q, p) + eps H(u, p)."""
    rows = loss.soft_targets(torch.tensor([3]), 1000, smoothing=0.1, dtype=torch.float64)
    assert rows[0, 3].item() == pytest.approx(0.9001)
    assert rows[0, 4].item() == pytest.approx(0.0001)
    assert rows.sum().item() == pytest.approx(1)
    logits, labels = normal(5, 10), torch.arange(5)
    uniform = -loss.log_softmax(logits).mean(dim=1).mean()
    expected = 0.9 * loss.cross_entropy(logits, labels) + 0.1 * uniform
    close(loss.cross_entropy(logits, labels, smoothing=0.1), expected)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_cross_entropy_does_not_overflow(size: float) -> None:
    logits = torch.tensor([[size, 0.0, -size]], requires_grad=True)
    total = loss.cross_entropy(logits, torch.tensor([2]))
    total.backward()
    assert total.item() == pytest.approx(2 * size)
    assert logits.grad is not None
    close(logits.grad, torch.tensor([[1.0, 0.0, -1.0]]))


def test_a_class_ruled_out_counts_nothing() -> None:
    logits = torch.tensor([[1.0, -math.inf, 2.0]], requires_grad=True)
    total = loss.cross_entropy(logits, torch.tensor([2]))
    total.backward()
    assert total.item() == pytest.approx(math.log1p(math.exp(-1)))
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types(dtype: torch.dtype) -> None:
    exact, labels = normal(8, 10), torch.arange(8)
    logits = exact.to(dtype).requires_grad_()
    total = loss.cross_entropy(logits, labels)
    total.backward()
    assert total.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    close(
        total.double(),
        loss.cross_entropy(logits.detach().double(), labels),
        rtol=0,
        atol=min(tolerance, 1e-5),
    )
    close(logits.grad.double(), loss.cross_entropy_backward(exact, labels), rtol=tolerance, atol=tolerance)


# Every differentiable function as (name, x -> sum, x -> gradient).
TARGETS = normal(3, 4, seed=5)
ACTIVE = torch.sigmoid(normal(3, 4, seed=6))
CASES: dict[str, tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "cross_entropy": (
        normal(3, 4),
        lambda x: loss.cross_entropy(x, torch.tensor([0, 3, 1]), smoothing=0.1, reduction="sum"),
        lambda x: loss.cross_entropy_backward(x, torch.tensor([0, 3, 1]), smoothing=0.1, reduction="sum"),
    ),
    "squared_error": (
        normal(3, 4),
        lambda x: loss.squared_error(x, TARGETS),
        lambda x: loss.squared_error_backward(x, TARGETS),
    ),
    "l2_half": (
        normal(3, 4),
        lambda w: loss.l2_penalty(w, strength=0.3),
        lambda w: loss.l2_penalty_backward(w, strength=0.3),
    ),
    "l2_plain": (
        normal(3, 4),
        lambda w: loss.l2_penalty(w, strength=0.3, convention="plain"),
        lambda w: loss.l2_penalty_backward(w, strength=0.3, convention="plain"),
    ),
    "l1": (
        normal(3, 4),
        lambda w: loss.l1_penalty(w, strength=0.3),
        lambda w: loss.l1_penalty_backward(w, strength=0.3),
    ),
    "sparsity": (
        ACTIVE,
        lambda a: loss.sparsity_penalty(a, target=0.05),
        lambda a: loss.sparsity_penalty_backward(a, target=0.05),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_an_error_planted_in_each(name: str) -> None:
    x, function, written = CASES[name]
    numeric, analytic = differences(function, x), written(x)
    close(analytic, numeric, rtol=1e-6, atol=1e-8)
    through = x.clone().requires_grad_()
    (3 * function(through)).backward()
    assert through.grad is not None
    close(through.grad, 3 * analytic)
    for index in ((0, 0), (2, 3)):
        planted = analytic.clone()
        planted[index] *= 1.01
        with pytest.raises(AssertionError):
            close(planted, numeric, rtol=1e-6, atol=1e-8)


def test_a_wrong_backward_is_caught_by_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss.squared_error(s, TARGETS), (x,))
    right = loss.squared_error_backward
    monkeypatch.setattr(loss, "squared_error_backward", lambda s, t: 1.01 * right(s, t))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda s: loss.squared_error(s, TARGETS), (x,))


@pytest.mark.parametrize("r", [1, 2])
def test_squared_error_with_a_penalty(r: int) -> None:
    outputs, targets, weights = normal(5, 3), normal(5, 3, seed=1), [normal(4, 3, seed=2), normal(7, seed=3)]
    total = 0.0
    for p in range(5):
        for k in range(3):
            total += (targets[p, k].item() - outputs[p, k].item()) ** 2
    penalty = sum(abs(w) ** r for weight in weights for w in weight.flatten().tolist())
    found = loss.penalised_squared_error(outputs, targets, weights, strength=0.01, r=r)
    assert found.item() == pytest.approx(total / (2 * 5) + 0.01 * penalty, rel=1e-12)
    traced = [w.clone().requires_grad_() for w in weights]
    loss.penalised_squared_error(outputs, targets, traced, strength=0.01, r=r).backward()
    for weight, leaf in zip(weights, traced, strict=True):
        expected = 0.01 * np.sign(weight.numpy()) if r == 1 else 2 * 0.01 * weight.numpy()
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-12)


def test_the_two_conventions_of_l2() -> None:
    w = torch.tensor([3.0, -4.0])
    assert loss.l2_penalty(w, strength=5e-4).item() == pytest.approx(0.5 * 5e-4 * 25)
    assert loss.l2_penalty(w, strength=5e-4, convention="plain").item() == pytest.approx(5e-4 * 25)
    close(loss.l2_penalty_backward(w, strength=5e-4), 5e-4 * w)
    close(loss.l2_penalty_backward(w, strength=5e-4, convention="plain"), 1e-3 * w)


def test_l1_gradient_is_the_sign_and_0_at_0() -> None:
    w = torch.tensor([2.0, -0.5, 0.0, -0.0])
    assert loss.l1_penalty_backward(w, strength=0.5).tolist() == [0.5, -0.5, 0.0, 0.0]


@few
@given(st.integers(0, 99), st.floats(0.0, 1.0))
def test_soft_threshold_minimises_its_problem(seed: int, t: float) -> None:
    w = normal(20, seed=seed)
    found = loss.soft_threshold(w, t)
    for before, after in zip(w.tolist(), found.tolist(), strict=True):
        expected = math.copysign(max(abs(before) - t, 0.0), before)
        assert after == pytest.approx(expected, abs=1e-15)
        for other in (after + 1e-3, after - 1e-3, 0.0):  # 1/2 (z - w)^2 + t |z| is smallest at the answer
            assert (after - before) ** 2 / 2 + t * abs(after) <= (other - before) ** 2 / 2 + t * abs(
                other
            ) + 1e-12


def test_proximal_steps_give_exact_zeros_where_sign_steps_do_not() -> None:
    start = torch.tensor([0.35, -0.02, 1.0])
    stepped, proximal = start.clone(), start.clone()
    for _ in range(50):
        stepped -= 0.1 * loss.l1_penalty_backward(stepped, strength=0.1)
        proximal = loss.soft_threshold(proximal, 0.1 * 0.1)
    assert (stepped != 0).all()
    assert proximal[:2].tolist() == [0.0, 0.0]
    assert proximal[2].item() == pytest.approx(0.5)


@few
@given(st.integers(0, 99), st.sampled_from([2.0, 3.0, 4.0]), st.integers(2, 4))
def test_max_norm(seed: int, c: float, ndim: int) -> None:
    w = 2 * normal(*([4] + [2] * (ndim - 1)), seed=seed)
    found = loss.max_norm(w, c)
    for before, after in zip(w.flatten(1), found.flatten(1), strict=True):
        length = math.sqrt(sum(x * x for x in before.tolist()))
        if length <= c:
            assert torch.equal(before, after)
        else:
            assert math.sqrt(sum(x * x for x in after.tolist())) == pytest.approx(c)
            close(after / c, before / length)


def test_max_norm_over_given_dimensions() -> None:
    w = torch.tensor([[3.0, 0.1], [4.0, 0.2]])
    close(
        loss.max_norm(w, 2.0, dims=(0,)), torch.tensor([[1.2, 0.1], [1.6, 0.2]])
    )  # column (3, 4) has norm 5
    assert torch.equal(loss.max_norm(torch.zeros(2, 3), 2.0), torch.zeros(2, 3))
    assert loss.max_norm(w.bfloat16(), 2.0).dtype == torch.bfloat16


def test_sparsity_penalty_in_plain_numbers() -> None:
    a = torch.tensor([[0.1, 0.4], [0.3, 0.8]], dtype=torch.float64)  # q = (0.2, 0.6)
    expected = sum(-0.05 * math.log(q) - 0.95 * math.log(1 - q) for q in (0.2, 0.6))
    assert loss.sparsity_penalty(a).item() == pytest.approx(expected)
    maps = a[:, :, None, None].expand(2, 2, 3, 3)
    assert loss.sparsity_penalty(maps).item() == pytest.approx(expected)
    at = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    values = [loss.sparsity_penalty(torch.full((2, 1), q)).item() for q in at.tolist()]
    assert at[int(np.argmin(values))].item() == pytest.approx(0.05)
    close(loss.sparsity_penalty_backward(torch.full((2, 1), 0.05)), torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: loss.cross_entropy(normal(2, 3), torch.tensor([0, 3])),
            ["label = 3", "3 classes", "0 to 2"],
        ),
        (lambda: loss.cross_entropy(normal(2, 3), torch.tensor([-1, 0])), ["label = -1"]),
        (lambda: loss.cross_entropy(normal(2, 3), torch.tensor([0])), ["int64 of shape (1,)", "(2, 3)"]),
        (lambda: loss.cross_entropy(normal(3), torch.tensor([0])), ["logits", "(N, K)"]),
        (
            lambda: loss.cross_entropy(normal(2, 3), torch.tensor([0, 1]), reduction="avg"),
            ["reduction = 'avg'", "mean, sum, none"],
        ),
        (lambda: loss.soft_targets(torch.tensor([0]), 2, smoothing=1.5), ["smoothing = 1.5"]),
        (lambda: loss.squared_error(normal(2, 3), normal(3, 2)), ["targets = 'shape (3, 2)'", "(2, 3)"]),
        (lambda: loss.norm_penalty(normal(2), strength=1.0, r=3), ["r = 3", "1 and 2"]),
        (lambda: loss.l2_penalty(normal(2), strength=-1.0), ["strength = -1.0"]),
        (
            lambda: loss.l2_penalty(normal(2), strength=1.0, convention="full"),
            ["convention = 'full'", "half, plain"],
        ),
        (lambda: loss.soft_threshold(normal(2), -0.1), ["threshold = -0.1"]),
        (lambda: loss.max_norm(normal(2, 2), 0.0), ["c = 0.0", "c=3"]),
        (lambda: loss.max_norm(normal(2), 3.0), ["dims = ()", "1 dimensions"]),
        (lambda: loss.sparsity_penalty(torch.tensor([[-0.3], [0.9]])), ["from -0.3 to 0.9", "sigmoid"]),
        (lambda: loss.sparsity_penalty(torch.zeros(3, 2)), ["mean outputs inside (0, 1)"]),
        (lambda: loss.sparsity_penalty(torch.full((2, 2), 0.5), target=0.0), ["target = 0.0"]),
        (lambda: loss.sparsity_penalty(torch.full((2,), 0.5)), ["activations", "(N, F)"]),
    ],
)
def test_messages(call: Callable[[], Tensor], words: list[str]) -> None:
    with pytest.raises(BadArgument) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
