"""Standardisation and whitening against scikit-learn and NumPy, and what to do where data does not vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.autograd.functional import jacobian

from convworks.ops.arguments import BadArgument
from convworks.ops.whitening import (
    covariance,
    fit_standardisation,
    fit_whitening,
    standardise,
    whitening_cost,
)


def mixed(n: int, f: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated features of different means and sizes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, f)) @ rng.normal(size=(f, f)) + 10 * rng.normal(size=f)
    return torch.from_numpy(x).to(dtype)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(n=st.integers(2, 30), f=st.integers(1, 8), seed=st.integers(0, 9))
def test_every_feature_has_mean_0_and_std_1(n: int, f: int, seed: int) -> None:
    x = mixed(n, f, seed=seed)
    z = standardise(x)
    np.testing.assert_allclose(z.mean(dim=0).numpy(), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(dim=0, unbiased=False).numpy(), 1, rtol=1e-12)
    np.testing.assert_allclose(z.numpy(), StandardScaler().fit_transform(x.numpy()), rtol=1e-9, atol=1e-12)


def test_statistics_are_those_of_the_training_set() -> None:
    training, test = mixed(50, 4), mixed(20, 4, seed=1)
    scaler = StandardScaler().fit(training.numpy())
    z = standardise(test, reference=training)
    np.testing.assert_allclose(z.numpy(), scaler.transform(test.numpy()), rtol=1e-10)
    assert float(z.mean(dim=0).abs().max()) > 0.5  # the test set's own mean is not taken away


def test_features_may_have_any_shape() -> None:
    x = mixed(12, 24)
    z = standardise(x.view(12, 2, 3, 4))
    torch.testing.assert_close(z.flatten(1), standardise(x), rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_feature_becomes_zero(value: float) -> None:
    x = mixed(45, 3)
    x[:, 1] = value  # 45 times 0.1, over 45, is not 0.1
    z = standardise(x)
    assert not z[:, 1].abs().gt(1e-9).any()
    np.testing.assert_allclose(z[:, [0, 2]].std(dim=0, unbiased=False).numpy(), 1, rtol=1e-12)
    assert float(fit_standardisation(x).std[1]) == 1


def test_the_gradient_of_standardisation_is_dz_over_std() -> None:
    fitted, x = fit_standardisation(mixed(20, 3)), mixed(1, 3, seed=1)
    slopes = jacobian(lambda v: fitted(v[None])[0], x[0])
    dz = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(fitted.backward(dz), dz @ slopes, rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", ["zca", "pca"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_covariance_of_the_output_is_the_identity(method: Any, dtype: torch.dtype) -> None:
    x = mixed(400, 12, dtype=dtype)
    y = fit_whitening(x, method=method)(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(
        np.cov(y.numpy().astype(float), rowvar=False, bias=True), np.eye(12), atol=1e-4
    )
    np.testing.assert_allclose(y.double().mean(dim=0).numpy(), 0, atol=1e-4)


def test_the_covariance_is_numpys_and_the_formula_of_the_lectures() -> None:
    x = mixed(40, 5)
    cov = covariance(x).numpy()
    np.testing.assert_allclose(cov, np.cov(x.numpy(), rowvar=False, bias=True), rtol=1e-10)
    mean = x.numpy().mean(axis=0)
    np.testing.assert_allclose(
        cov, (x.numpy().T @ x.numpy()) / 40 - np.outer(mean, mean), rtol=1e-8, atol=1e-9
    )


def test_zca_is_the_inverse_root_of_the_covariance() -> None:
    x = mixed(60, 6)
    root = fractional_matrix_power(np.cov(x.numpy(), rowvar=False, bias=True), -0.5)
    fitted = fit_whitening(x)
    np.testing.assert_allclose(fitted.matrix.numpy(), root, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(
        fitted(x).numpy(), (x.numpy() - x.numpy().mean(axis=0)) @ root, rtol=1e-6, atol=1e-8
    )


def test_pca_is_scikit_learns_up_to_signs() -> None:
    x = mixed(60, 6)
    known = PCA(whiten=True).fit_transform(x.numpy()) * np.sqrt(60 / 59)  # it divides by N - 1
    np.testing.assert_allclose(
        np.abs(fit_whitening(x, method="pca")(x).numpy()), np.abs(known), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("method", ["zca", "pca"])
def test_whitening_can_be_undone(method: Any) -> None:
    x = mixed(60, 6)
    fitted = fit_whitening(x, method=method)
    torch.testing.assert_close(fitted.undo(fitted(x)), x, rtol=1e-9, atol=1e-9)


def test_standardisation_leaves_correlations_and_whitening_does_not() -> None:
    x = torch.from_numpy(load_digits().data[:, 18:22])
    each, jointly = standardise(x), fit_whitening(x)(x)
    off = ~np.eye(4, dtype=bool)
    assert np.abs(np.corrcoef(each.numpy(), rowvar=False)[off]).max() > 0.3
    assert np.abs(np.corrcoef(jointly.numpy(), rowvar=False)[off]).max() < 1e-10


def test_the_gradient_of_whitening_is_the_transposed_map() -> None:
    fitted, x = fit_whitening(mixed(20, 3), method="pca"), mixed(1, 3, seed=1)
    slopes = jacobian(lambda v: fitted(v[None])[0], x[0])
    dy = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(fitted.backward(dy), dy @ slopes, rtol=1e-10, atol=0)
    wrong = fitted.backward(dy)
    wrong[0, 1] *= 1.01  # the check would see it
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(wrong, dy @ slopes, rtol=1e-10, atol=0)


def test_data_of_fewer_dimensions_needs_an_epsilon_and_is_told_so() -> None:
    x = torch.from_numpy(load_digits().data)  # three of its 64 pixels are always 0
    with pytest.raises(BadArgument, match="varies in 61 of 64 directions") as caught:
        fit_whitening(x)
    assert caught.value.try_ == "epsilon=1e-05"
    fitted = fit_whitening(x, epsilon=1e-5)
    assert fitted.rank == 61
    cov = covariance(fitted(x))
    eigenvalues = torch.linalg.eigvalsh(cov).flip(0)
    largest = torch.linalg.eigvalsh(covariance(x)).flip(0)[:61]
    expected = largest / (largest + 1e-5 * largest[0])  # I, less what the epsilon takes from weak directions
    torch.testing.assert_close(eigenvalues[:61], expected.sort(descending=True).values, rtol=1e-6, atol=1e-9)
    assert float(eigenvalues[61:].abs().max()) < 1e-9


def test_fewer_examples_than_features() -> None:
    with pytest.raises(BadArgument, match="varies in 4 of 9 directions"):
        fit_whitening(mixed(5, 9))
    y = fit_whitening(mixed(5, 9), epsilon=1e-9)(mixed(5, 9))
    np.testing.assert_allclose(torch.linalg.eigvalsh(covariance(y)).numpy()[-4:], 1, atol=1e-4)


def test_bfloat16_goes_by_way_of_float32() -> None:
    x = mixed(100, 4)
    short = x.bfloat16()
    for fitted in (fit_whitening(short), fit_standardisation(short)):
        y = fitted(short)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.double(), fitted(short.double()), rtol=1e-2, atol=1e-2)


def test_whitening_costs_the_number_of_features_times_as_much() -> None:
    """32x32 colour images: 3,072 features, as in CIFAR-10 with its 50,000 training images."""
    cost = whitening_cost(3072, 50_000)
    assert (cost.whitening_apply, cost.standardisation_apply) == (9_437_184, 3_072)
    assert cost.whitening_fit == 50_000 * 3072**2 + 11 * 3072**3 // 2
    assert cost.standardisation_fit == 50_000 * 3072
    assert "whitening 9,437,184 multiply-adds an example, standardisation 3,072 (3,072 times fewer)" in str(
        cost
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_whitening(mixed(9, 2), method="zca2"), "method = 'zca2' does not fit"),  # type: ignore[arg-type]
        (lambda: fit_whitening(mixed(9, 2), epsilon=-1.0), "epsilon = -1.0 does not fit"),
        (lambda: fit_whitening(torch.ones(9, 2), epsilon=1e-5), "varies in 0 of 2 directions"),
        (lambda: fit_whitening(torch.ones(2, 3, 4)), r"x = \(2, 3, 4\) does not fit: it is \(N, F\)"),
        (lambda: standardise(torch.ones(3)), r"x = \(3,\) does not fit"),
        (lambda: standardise(torch.ones(0, 3)), "there is nothing to measure"),
        (lambda: standardise(mixed(9, 2), reference=mixed(9, 3)), r"the statistics are of features \(3,\)"),
        (lambda: whitening_cost(0, 5), "features = 0 does not fit"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        call()
