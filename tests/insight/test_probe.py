"""Logistic regression against scikit-learn's and a plain gradient; features of stages against plain means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression as Oracle
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.insight.probe import (
    PENALTIES,
    choose_penalty,
    fit_logistic,
    pooled,
    probe_stage,
    require_enough,
    stage_features,
    tapped,
)
from convworks.layers import stage


def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x[:600]).float(), torch.from_numpy(y[:600])


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_the_minimum_is_scikit_learns(penalty: float) -> None:
    x, y = digits()
    found = fit_logistic(x, y, classes=10, penalty=penalty)
    scaled = StandardScaler().fit_transform(x.double().numpy())
    oracle = Oracle(C=1 / (penalty * len(y)), tol=1e-10, max_iter=5000).fit(scaled, y.numpy())
    np.testing.assert_allclose(found.weight.numpy(), oracle.coef_, atol=2e-5)
    expected = oracle.predict_proba(scaled)
    np.testing.assert_allclose(found.logits(x).softmax(1).numpy(), expected, atol=2e-5)


def test_the_slope_of_the_objective_is_zero_there() -> None:
    """The gradient in plain float64 arithmetic: 1/n (p - onehot)^T x + lambda W."""
    x, y = digits()
    found = fit_logistic(x, y, classes=10, penalty=0.1)
    standard = (x.double() - found.mean) / found.deviation
    error = found.logits(x).softmax(1) - nn.functional.one_hot(y, 10)
    slope = error.T @ standard / len(y) + 0.1 * found.weight
    assert float(slope.abs().max()) < 1e-6
    assert float(error.mean(0).abs().max()) < 1e-6
    planted = slope + 0.01 * found.weight  # a wrong lambda would be seen
    assert float(planted.abs().max()) > 1e-4


def test_features_that_do_not_vary_and_few_images_are_no_problem() -> None:
    x = torch.cat([torch.ones(6, 3) * 7, torch.randn(6, 1)], dim=1)
    found = fit_logistic(x, torch.tensor([0, 1, 0, 1, 2, 2]), classes=4, penalty=1e-4)
    assert bool(found.weight.isfinite().all())
    assert float(found.weight[:, :3].abs().max()) < 1e-6


def test_lambda_is_the_strongest_of_the_best() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (200,), generator=generator)
    easy = y[:, None] * 10.0 + torch.randn(200, 1, generator=generator)
    assert choose_penalty(easy, y, classes=2, seed=0) == PENALTIES[0]
    assert choose_penalty(easy, y, classes=2, seed=0) == choose_penalty(easy, y, classes=2, seed=0)


def test_a_row_says_how_good_the_features_are() -> None:
    x, y = digits()
    row = probe_stage("pixels", "all 64", (x[:400], y[:400]), (x[400:], y[400:]), classes=10)
    assert row == probe_stage("pixels", "all 64", (x[:400], y[:400]), (x[400:], y[400:]), classes=10)
    assert 0.8 < row.accuracy <= 1
    assert row.interval[0] < row.accuracy < row.interval[1]
    assert (row.layer, row.features, row.train_accuracy > row.accuracy) == ("pixels", 64, True)
    noise = torch.randn(600, 64, generator=torch.Generator().manual_seed(0))
    nothing = probe_stage("noise", "all 64", (noise[:400], y[:400]), (noise[400:], y[400:]), classes=10)
    assert nothing.accuracy < 0.2


def test_large_maps_become_means_on_a_grid() -> None:
    x = torch.randn(2, 64, 56, 56)
    values, kind = pooled(x)
    assert (values.shape, kind) == ((2, 1024), "means of 64x56x56 on 4x4")
    expected = x[1, 3, 14:28, 42:56].double().mean()
    assert float(values[1, 3 * 16 + 1 * 4 + 3]) == pytest.approx(float(expected), abs=1e-6)
    assert pooled(torch.randn(2, 2048, 7, 7))[1] == "means of 2048x7x7 on 1x1"
    assert pooled(torch.randn(2, 16, 8, 8))[1] == "all 16x8x8"
    assert pooled(torch.randn(2, 4096))[1] == "all 4096"
    assert pooled(torch.randn(2, 300, 40))[0].shape == (2, 900)
    values, kind = pooled(x, most=1)
    torch.testing.assert_close(values, x.mean((2, 3)))


def test_the_stages_before_the_last_are_looked_at() -> None:
    network = stage(
        conv1=stage(conv=nn.Conv2d(1, 4, 3), relu=nn.ReLU(inplace=True)),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        drop=nn.Dropout(),
        fc=nn.Linear(36, 3),
        last=nn.Identity(),
    ).eval()
    assert tapped(network) == ("conv1", "pool", "flatten")
    x = torch.randn(2, 1, 8, 8)
    features, kinds, outputs = stage_features(network, x)
    assert list(features) == ["input", "conv1", "pool", "flatten"]
    assert kinds["pool"] == "all 4x3x3"
    torch.testing.assert_close(outputs, network(x))
    torch.testing.assert_close(features["flatten"], features["pool"])
    with torch.device("meta"):
        made = models.create("googlenet", num_classes=3)
    assert not any(name.startswith(("auxiliary_", "dropout", "linear")) for name in tapped(made))


@pytest.mark.parametrize(("labels", "val"), [([0, 0, 0, 0, 0, 0], [1]), ([0, 1, 0], [1]), ([0, 1] * 5, [])])
def test_too_few_images(labels: list[int], val: list[int]) -> None:
    with pytest.raises(ConvworksError, match="too few for a linear classifier") as caught:
        require_enough(np.array(labels), val)
    assert caught.value.code == "U234"
