"""Batch norm against NumPy: four formulas forward, six backward, what it does not feel, the population."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import gradcheck

from convworks.ops import batch_norm as module
from convworks.ops.arguments import BadArgument
from convworks.ops.batch_norm import (
    PopulationStatistics,
    average_of_batches,
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_norm_inference_backward,
    batch_statistics,
    fold_affine,
)

Array = NDArray[np.float64]
SHAPES = [(7, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3, 2, 2, 3)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(2 * np.random.default_rng(seed).normal(size=shape) + 3)


def columns(x: Array) -> Array:
    """(N, F, *S) -> (m, F): every place of a map is an example."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def back(values: Array, shape: tuple[int, ...]) -> Array:
    return np.moveaxis(values.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def by_formulas(x: Array, gamma: Array, beta: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """y, mu, sigma^2, one feature and one example after the other, as lecture and paper write them."""
    flat = columns(x)
    m, features = flat.shape
    y, mu, var = np.empty_like(flat), np.zeros(features), np.zeros(features)
    for f in range(features):
        for j in range(m):
            mu[f] += flat[j, f] / m
        for j in range(m):  # over the examples j: one lecture writes i, the feature
            var[f] += (flat[j, f] - mu[f]) ** 2 / m
        for j in range(m):
            z = (flat[j, f] - mu[f]) / (var[f] + epsilon) ** 0.5
            y[j, f] = gamma[f] * z + beta[f]
    return back(y, x.shape), mu, var


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    n=st.integers(2, 5),
    f=st.integers(1, 4),
    space=st.lists(st.integers(1, 3), max_size=3),
    epsilon=st.sampled_from([1e-5, 1e-2]),
    seed=st.integers(0, 9),
)
def test_the_four_formulas(n: int, f: int, space: list[int], epsilon: float, seed: int) -> None:
    x, gamma, beta = draw(n, f, *space, seed=seed), draw(f, seed=1), draw(f, seed=2)
    y, mu, var = by_formulas(x.numpy(), gamma.numpy(), beta.numpy(), epsilon)
    found = batch_statistics(x)
    assert found.count == n * int(np.prod(space))
    np.testing.assert_allclose(found.mean.numpy(), mu, rtol=1e-10)
    np.testing.assert_allclose(found.var.numpy(), var, rtol=1e-9)
    np.testing.assert_allclose(batch_norm(x, gamma, beta, epsilon=epsilon).numpy(), y, rtol=1e-8, atol=1e-9)
    as_torch = F.batch_norm(x, None, None, gamma, beta, training=True, eps=epsilon)
    torch.testing.assert_close(batch_norm(x, gamma, beta, epsilon=epsilon), as_torch, rtol=1e-6, atol=1e-9)


def test_maps_have_one_mean_one_gamma_and_one_beta() -> None:
    """Statistics over N, H and W: a map moved as a whole is moved back, and 2 numbers are learnt for each."""
    x = draw(4, 3, 5, 6)
    found = batch_statistics(x)
    assert found.mean.shape == found.var.shape == (3,)
    assert found.count == 4 * 5 * 6
    np.testing.assert_allclose(found.mean.numpy(), x.numpy().mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.var.numpy(), x.numpy().var(axis=(0, 2, 3)), rtol=1e-12)
    y = batch_norm(x, torch.ones(3).double(), torch.zeros(3).double(), epsilon=0)
    np.testing.assert_allclose(y.numpy().mean(axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.numpy().std(axis=(0, 2, 3)), 1, rtol=1e-12)


def six_by_loops(dy: Array, x: Array, gamma: Array, epsilon: float) -> dict[str, Array]:
    """The six formulas of the paper, with both terms of dl/dmu, written as loops over examples."""
    g, flat = columns(dy), columns(x)
    m, features = flat.shape
    mu, s2 = flat.mean(axis=0), flat.var(axis=0) + epsilon
    found = {k: np.zeros(features) for k in ("var", "mean", "mean_through_var", "gamma", "beta")}
    d_hat, dx = np.empty_like(flat), np.empty_like(flat)
    for f in range(features):
        for i in range(m):
            d_hat[i, f] = g[i, f] * gamma[f]
            found["var"][f] += d_hat[i, f] * (flat[i, f] - mu[f]) * -0.5 * s2[f] ** -1.5
            found["mean"][f] += d_hat[i, f] * -1 / s2[f] ** 0.5
            found["gamma"][f] += g[i, f] * (flat[i, f] - mu[f]) / s2[f] ** 0.5
            found["beta"][f] += g[i, f]
        for i in range(m):
            found["mean_through_var"][f] += found["var"][f] * -2 * (flat[i, f] - mu[f]) / m
        for i in range(m):
            dx[i, f] = d_hat[i, f] / s2[f] ** 0.5 + found["var"][f] * 2 * (flat[i, f] - mu[f]) / m
            dx[i, f] += (found["mean"][f] + found["mean_through_var"][f]) / m
    return {**found, "x_hat": back(d_hat, x.shape), "x": back(dx, x.shape)}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_six_formulas(shape: tuple[int, ...]) -> None:
    x, dy, gamma = draw(*shape), draw(*shape, seed=1), draw(3, seed=2)
    found = batch_norm_backward(dy, x, gamma, batch_statistics(x), epsilon=1e-3)
    for name, expected in six_by_loops(dy.numpy(), x.numpy(), gamma.numpy(), 1e-3).items():
        np.testing.assert_allclose(
            getattr(found, name).numpy(), expected, rtol=1e-6, atol=1e-12, err_msg=name
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_derivative_is_autograds(shape: tuple[int, ...]) -> None:
    """To 1e-6, with mu, sigma^2 and x_hat made variables of their own."""
    x, gamma, beta = (draw(*s, seed=k).requires_grad_() for k, s in enumerate((shape, (3,), (3,))))
    axes, view = (0, *range(2, len(shape))), (1, 3, *[1] * (len(shape) - 2))
    mu = x.mean(dim=axes)
    var = (x - mu.view(view)).square().mean(dim=axes)
    x_hat = (x - mu.view(view)) / (var + 1e-5).sqrt().view(view)
    y = gamma.view(view) * x_hat + beta.view(view)
    dy = draw(*shape, seed=5)
    wanted = torch.autograd.grad(y, (x_hat, var, mu, x, gamma, beta), dy)
    found = batch_norm_backward(dy, x.detach(), gamma.detach(), batch_statistics(x.detach()))
    got = (found.x_hat, found.var, found.mean + found.mean_through_var, found.x, found.gamma, found.beta)
    for name, a, b in zip(("x_hat", "var", "mean", "x", "gamma", "beta"), got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    n=st.integers(2, 40), f=st.integers(1, 4), seed=st.integers(0, 99), offset=st.sampled_from([0.0, 50.0])
)
def test_the_term_that_the_lecture_leaves_out_is_zero(n: int, f: int, seed: int, offset: float) -> None:
    """sum_i (x_i - mu) = 0, so dl/dsigma^2 (1/m) sum_i -2 (x_i - mu) = 0: rounding is all that is left."""
    x = draw(n, f, seed=seed) + offset
    found = batch_norm_backward(draw(n, f, seed=seed + 1), x, torch.ones(f).double(), batch_statistics(x))
    scale = float(found.var.abs().max()) * float(x.abs().max())
    assert float(found.mean_through_var.abs().max()) <= 1e-14 * scale
    assert float(found.mean.abs().max()) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_agree_with_finite_differences(shape: tuple[int, ...]) -> None:
    x, gamma, beta = (draw(*s, seed=k).requires_grad_() for k, s in enumerate((shape, (3,), (3,))))
    assert gradcheck(batch_norm, (x, gamma, beta))


@pytest.mark.parametrize("name", ["x", "gamma", "beta"])
def test_an_error_planted_in_a_gradient_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    right = module.batch_norm_backward

    def wrong(*args: Any, **options: Any) -> Any:
        found = right(*args, **options)
        getattr(found, name).view(-1)[1] *= 1.01
        return found

    monkeypatch.setattr(module, "batch_norm_backward", wrong)
    x, gamma, beta = (draw(*s, seed=k).requires_grad_() for k, s in enumerate(((5, 2), (2,), (2,))))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(batch_norm, (x, gamma, beta))


def test_gamma_and_beta_restore_the_input() -> None:
    """gamma = sqrt(Var) and beta = E bring the values back, to 1e-5."""
    x = draw(64, 5).float()
    found = batch_statistics(x)
    y = batch_norm(x, found.var.sqrt(), found.mean, epsilon=0)
    torch.testing.assert_close(y, x, rtol=1e-5, atol=1e-5)
    scale, shift = fold_affine(found.var.sqrt(), found.mean, found.mean, found.var, epsilon=0)
    torch.testing.assert_close(scale, torch.ones(5).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(shift, torch.zeros(5).double(), rtol=0, atol=1e-5)


def test_a_network_can_learn_to_undo_it() -> None:
    x, found = draw(64, 2), batch_statistics(draw(64, 2))
    gamma, beta = torch.ones(2).double().requires_grad_(), torch.zeros(2).double().requires_grad_()
    for _ in range(200):
        loss = (batch_norm(x, gamma, beta) - x).square().mean()
        steps = torch.autograd.grad(loss, (gamma, beta))
        gamma, beta = (
            (p - 0.5 * d).detach().requires_grad_() for p, d in zip((gamma, beta), steps, strict=True)
        )
    torch.testing.assert_close(gamma.detach(), found.var.sqrt(), rtol=1e-4, atol=0)
    torch.testing.assert_close(beta.detach(), found.mean, rtol=1e-4, atol=0)


def test_a_bias_before_it_changes_nothing() -> None:
    """a(BN(Wx + b)) = a(BN(Wx)), and the gradient to b is zero."""
    x, w, b = draw(20, 4), draw(3, 4, seed=1), draw(3, seed=2).requires_grad_()
    gamma, beta = draw(3, seed=3), draw(3, seed=4)
    with_bias = torch.relu(batch_norm(x @ w.T + b, gamma, beta))
    torch.testing.assert_close(
        with_bias.detach(), torch.relu(batch_norm(x @ w.T, gamma, beta)), rtol=1e-10, atol=1e-10
    )
    with_bias.square().sum().backward()
    assert b.grad is not None
    assert float(b.grad.abs().max()) < 1e-10


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_scale_invariance_and_the_shrinking_gradient(c: float) -> None:
    """BN(cWx) = BN(Wx), the same to x; the gradient to cW is 1/c of the one to W."""
    x, w = draw(30, 4).requires_grad_(), draw(3, 4, seed=1)
    gamma, beta, dy = draw(3, seed=2), draw(3, seed=3), draw(30, 3, seed=4)

    def pass_both_ways(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        leaf = weight.clone().requires_grad_()
        y = batch_norm(x @ leaf.T, gamma, beta, epsilon=0)
        return (y.detach(), *torch.autograd.grad(y, (x, leaf), dy))

    y, dx, dw = pass_both_ways(w)
    scaled_y, scaled_dx, scaled_dw = pass_both_ways(c * w)
    torch.testing.assert_close(scaled_y, y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scaled_dx, dx, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose((scaled_dw / dw).numpy(), 1 / c, rtol=1e-4)


def test_statistics_of_bfloat16_are_float32() -> None:
    x = (draw(2000, 3) + 100).bfloat16()
    found = batch_statistics(x)
    assert found.mean.dtype == found.var.dtype == torch.float32
    np.testing.assert_allclose(found.mean.numpy(), x.double().numpy().mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.var.numpy(), x.double().numpy().var(axis=0), rtol=1e-4)
    leaf, gamma = x.requires_grad_(), torch.ones(3, requires_grad=True)
    y = batch_norm(leaf, gamma, torch.zeros(3))
    y.sum().backward()
    assert leaf.grad is not None
    assert gamma.grad is not None
    assert (y.dtype, leaf.grad.dtype, gamma.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    exact = F.batch_norm(x.detach().double(), None, None, training=True)
    torch.testing.assert_close(y.detach().double(), exact, rtol=1e-2, atol=1e-2)


# Inference


@pytest.mark.parametrize("shape", SHAPES)
def test_inference_is_an_affine_map(shape: tuple[int, ...]) -> None:
    """y = gamma/sqrt(Var + eps) x + (beta - gamma E/sqrt(Var + eps)), by NumPy and by torch."""
    x, gamma, beta, mean = draw(*shape), draw(3, seed=1), draw(3, seed=2), draw(3, seed=3)
    var = draw(3, seed=4).square()
    y = batch_norm_inference(x, gamma, beta, mean, var, epsilon=1e-3)
    a = gamma.numpy() / np.sqrt(var.numpy() + 1e-3)
    expected = back(a * columns(x.numpy()) + (beta.numpy() - a * mean.numpy()), shape)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)
    scale, shift = fold_affine(gamma, beta, mean, var, epsilon=1e-3)
    np.testing.assert_allclose(scale.numpy(), a, rtol=1e-12)
    np.testing.assert_allclose(shift.numpy(), beta.numpy() - a * mean.numpy(), rtol=1e-12)
    torch.testing.assert_close(y, F.batch_norm(x, mean, var, gamma, beta, eps=1e-3))
    first = batch_norm_inference(x[:1], gamma, beta, mean, var, epsilon=1e-3)
    torch.testing.assert_close(first, y[:1], rtol=0, atol=0)  # no example sees another


def test_the_gradient_of_inference() -> None:
    x, gamma, beta = (draw(*s, seed=k).requires_grad_() for k, s in enumerate(((4, 3, 5), (3,), (3,))))
    mean, var, dy = draw(3, seed=3), draw(3, seed=4).square(), draw(4, 3, 5, seed=5)
    y = F.batch_norm(x, mean, var, gamma, beta)
    wanted = torch.autograd.grad(y, (x, gamma, beta), dy)
    found = batch_norm_inference_backward(dy, x.detach(), gamma.detach(), mean, var)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    wrong = found[0].clone()
    wrong[0, 0, 0] *= 1.01
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(wrong, wanted[0], rtol=1e-9, atol=1e-12)


# The population


@pytest.mark.parametrize("shape", [(37, 3), (37, 3, 2, 2)])
def test_population_statistics_are_those_of_all_data_at_once(shape: tuple[int, ...]) -> None:
    x = draw(*shape) * 1e-3 + 1e3  # squares would cancel here, even in float64: 1e6 beside 4e-6
    found = PopulationStatistics()
    for part in torch.split(x, [1, 9, 9, 9, 0, 9]):
        found.add(part)
    flat = columns(x.numpy())
    assert found.count == len(flat)
    np.testing.assert_allclose(found.mean.numpy(), flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.var.numpy(), flat.var(axis=0, ddof=1), rtol=1e-7)
    m = len(flat)
    np.testing.assert_allclose(found.var.numpy(), m / (m - 1) * flat.var(axis=0), rtol=1e-7)


def test_algorithm_2_averages_the_batches() -> None:
    """Equal to the population's where all data is one batch; over many random ones right on average."""
    x = draw(4000, 2)
    mean, var = average_of_batches(batch_statistics(each) for each in x.split(8))
    by_hand = np.mean([each.var(axis=0) for each in np.split(x.numpy(), 500)], axis=0) * 8 / 7
    np.testing.assert_allclose(mean.numpy(), x.numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), by_hand, rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), x.numpy().var(axis=0, ddof=1), rtol=0.05)
    whole = PopulationStatistics()
    whole.add(x)
    one_mean, one_var = average_of_batches([batch_statistics(x)])
    torch.testing.assert_close(one_mean, whole.mean)
    torch.testing.assert_close(one_var, whole.var)
    assert float((var - whole.var).abs().max()) > 1e-4  # two estimates, not one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batch_statistics(torch.ones(4)), r"x = \(4,\) does not fit: it is \(N, F\)"),
        (lambda: batch_statistics(torch.ones(1, 3)), "one value has no variance"),
        (
            lambda: batch_norm(draw(4, 3), draw(2), draw(3)),
            r"gamma = \(2,\) does not fit: there are 3 features",
        ),
        (lambda: batch_norm(draw(4, 3), draw(3), draw(3), epsilon=-1), "epsilon = -1 does not fit"),
        (lambda: average_of_batches([]), "there is no batch"),
        (
            lambda: average_of_batches([batch_statistics(draw(4, 2)), batch_statistics(draw(5, 2))]),
            r"batches = \[4, 5\] does not fit: the formula has one m",
        ),
        (lambda: PopulationStatistics().mean, "m = 0 does not fit"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        call()


def test_population_of_other_features_or_one_value() -> None:
    found = PopulationStatistics()
    found.add(draw(1, 2))
    with pytest.raises(BadArgument, match="it takes 2 values or more"):
        _ = found.var
    with pytest.raises(BadArgument, match="before there were 2 features"):
        found.add(draw(4, 3))
