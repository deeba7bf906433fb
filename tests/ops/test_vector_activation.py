"""The rows of softmax and maxout: their values and backward passes against numpy and differences."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch

from convworks.ops.vector_activation import VECTOR_ACTIVATIONS

ORACLES = {
    "softmax": lambda x: scipy.special.softmax(x, axis=1),
    "maxout": lambda x: x.reshape(len(x), -1, 2).max(axis=2),
}
EACH = pytest.mark.parametrize("name", list(VECTOR_ACTIVATIONS))


@EACH
def test_values_and_backward(name: str) -> None:
    row, oracle = VECTOR_ACTIVATIONS[name], ORACLES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 6))
    y = oracle(x)
    np.testing.assert_allclose(row.forward(torch.from_numpy(x)).numpy(), y, rtol=1e-12)
    gradient = rng.normal(size=y.shape)
    numeric = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-6
        numeric[place] = ((oracle(x + step) - oracle(x - step)) * gradient).sum() / 2e-6
    found = row.backward(torch.from_numpy(x), torch.from_numpy(gradient)).numpy()
    np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-9)
    found.flat[np.abs(found).argmax()] *= 1.01
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-9)


@EACH
def test_rows_say_what_they_are(name: str) -> None:
    row = VECTOR_ACTIVATIONS[name]
    low, high = (float(part) for part in row.range.strip("()[]").split(","))
    x = torch.linspace(-300, 300, 24, dtype=torch.float64).reshape(4, 6)
    y = row.forward(x)
    assert low <= y.min().item() <= y.max().item() <= high
    assert row.name == name
    assert not row.zero_centred
    assert not torch.allclose(row.forward(-x), -y)
