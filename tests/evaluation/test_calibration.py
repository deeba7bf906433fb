"""Temperature scaling against scipy, on data of which the right temperature is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from convworks.errors import ConvworksError
from convworks.evaluation.calibration import (
    FEWEST,
    HIGHEST,
    LOWEST,
    calibrated,
    calibration_from_dict,
    fit_calibration,
    fit_temperature,
    scaled,
)
from convworks.evaluation.metrics import log_loss
from convworks.evaluation.reliability import expected_calibration_error


def drawn(n: int, *, k: int = 5, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(z), and a model that says softmax(temperature * z): too sure above 1."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, k)) * 2
    labels = (softmax(z, axis=1).cumsum(axis=1) < random.uniform(size=(n, 1))).sum(axis=1).clip(max=k - 1)
    return softmax(temperature * z, axis=1).astype(np.float32), labels


@pytest.mark.parametrize("true", [0.4, 1.0, 1.7, 4.0])
def test_the_fit_is_scipys_minimum(true: float) -> None:
    p, labels = drawn(800, temperature=true)
    logs = np.log(np.maximum(p.astype(np.float64), np.finfo(np.float32).tiny))

    def loss(b: float) -> float:
        return -float(log_softmax(b * logs, axis=1)[np.arange(len(labels)), labels].mean())

    expected = minimize_scalar(
        loss, bounds=(1 / HIGHEST, 1 / LOWEST), method="bounded", options={"xatol": 1e-10}
    )
    assert 1 / fit_temperature(p, labels) == pytest.approx(expected.x, rel=1e-5)
    assert fit_temperature(p, labels) == pytest.approx(true, rel=0.2)


@pytest.mark.parametrize("true", [0.4, 2.5, 4.0])
def test_ece_and_loss_fall_on_held_out_images(true: float) -> None:
    p, labels = drawn(4_000, temperature=true)
    found = fit_temperature(p[:2_000], labels[:2_000])
    before, after = p[2_000:], scaled(p[2_000:], found)
    assert expected_calibration_error(after, labels[2_000:]) < 0.5 * expected_calibration_error(
        before, labels[2_000:]
    )
    assert log_loss(after, labels[2_000:]) < log_loss(before, labels[2_000:])


def test_scaled_is_the_softmax_of_divided_logits() -> None:
    z = np.random.default_rng(0).normal(size=(50, 4)) * 3
    np.testing.assert_allclose(scaled(softmax(z, axis=1), 2.5), softmax(z / 2.5, axis=1), rtol=1e-9)


@given(st.floats(LOWEST, HIGHEST), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_answer_changes(temperature: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    p = softmax(random.normal(size=(60, 4)) * random.choice([0.001, 1, 30]), axis=1).astype(np.float32)
    found = calibrated(p, temperature)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.argmax(axis=1), p.argmax(axis=1))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_an_answer_that_rounding_would_change_is_kept() -> None:
    close = np.float32(0.5)
    p = np.array([[close, np.nextafter(close, np.float32(1))]], dtype=np.float32)
    assert scaled(p, HIGHEST).astype(np.float32).argmax() == 0  # a tie, which the first class would win
    assert calibrated(p, HIGHEST).argmax() == 1


def test_zeros_are_no_trouble() -> None:
    p = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]] * 30, dtype=np.float32)
    labels = np.array([0, 1, 1] * 30)
    assert np.isfinite(scaled(p, 3.0)).all()
    found = fit_calibration(p, labels, split="val")
    assert found is None or np.isfinite(found.loss_after)
    assert calibrated(np.empty((0, 3), dtype=np.float32), 2.0).shape == (0, 3)


def test_a_set_that_cannot_say_it_gives_none() -> None:
    p, labels = drawn(FEWEST - 1)
    assert fit_calibration(p, labels, split="val") is None
    p, _ = drawn(200)
    assert fit_temperature(p, p.argmax(axis=1)) == LOWEST  # all right: the surer the better
    assert fit_calibration(p, p.argmax(axis=1), split="val") is None
    assert fit_temperature(p, p.argmin(axis=1)) == HIGHEST
    assert fit_calibration(p, p.argmin(axis=1), split="val") is None


def test_the_record_travels() -> None:
    p, labels = drawn(500, temperature=3.0)
    found = fit_calibration(p, labels, split="val")
    assert found is not None
    assert found.loss_after < found.loss_before
    assert calibration_from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert calibration_from_dict(None) is None


@pytest.mark.parametrize("tree", [3, {"temperature": 1.0}, {"temperature": "hot"}])
def test_a_damaged_record(tree: object) -> None:
    with pytest.raises(ConvworksError, match="calibration is damaged") as problem:
        calibration_from_dict(tree)
    assert problem.value.code == "A475"


def test_a_temperature_out_of_bounds_is_damage() -> None:
    p, labels = drawn(500)
    found = fit_calibration(p, labels, split="val")
    assert found is not None
    with pytest.raises(ConvworksError, match="a temperature of 0"):
        calibration_from_dict(found.to_dict() | {"temperature": 0.0})
    with pytest.raises(ValueError, match="above 0"):
        scaled(p, -1)


def test_a_planted_mistake_is_seen() -> None:
    """Were the temperature its own inverse, the held-out error would rise."""
    p, labels = drawn(4_000, temperature=2.5)
    found = fit_temperature(p[:2_000], labels[:2_000])
    wrong = scaled(p[2_000:], 1 / found)
    assert expected_calibration_error(wrong, labels[2_000:]) > expected_calibration_error(
        p[2_000:], labels[2_000:]
    )
