"""The two built-in sets: digits against scikit-learn itself, shapes against what makes them a task."""

from __future__ import annotations

import hashlib
import importlib.util

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from convworks.data import builtin
from convworks.data.builtin import SHAPES, draw_shapes, open_builtin
from convworks.errors import ConvworksError
from tests.data.trees import opened, rows


def test_digits_are_those_of_scikit_learn() -> None:
    source = opened("digits")
    reference = load_digits()
    assert (source.name, source.kind, source.location) == ("digits", "digits", "digits")
    assert source.classes == tuple("0123456789")
    assert source.array is not None
    assert source.array.shape == (1797, 8, 8, 1)
    np.testing.assert_allclose(source.array[..., 0], reference.images / 16 * 255, atol=0.5)
    assert [e.label for e in source.entries] == [str(t) for t in reference.target]
    assert rows(source)[1796] == ("images/1796", "8", None)


def test_digits_without_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_builtin("digits").array
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    np.testing.assert_array_equal(open_builtin("digits").array, expected)


def test_an_unknown_name() -> None:
    with pytest.raises(ConvworksError, match="did you mean 'shapes'"):
        open_builtin("shape")


def test_shapes() -> None:
    source = opened("Shapes")
    assert (source.name, source.kind, source.classes) == ("shapes", "shapes", SHAPES)
    assert source.array is not None
    assert source.array.shape == (2000, 32, 32, 3)
    assert [sum(e.label == shape for e in source.entries) for shape in SHAPES] == [400] * 5
    assert rows(source)[401] == ("cross/001", "cross", None)
    assert source.warnings == ()


def test_shapes_are_the_same_to_the_bit() -> None:
    digest = hashlib.sha256(np.concatenate([draw_shapes(s, np.arange(400)) for s in SHAPES]).tobytes())
    assert digest.hexdigest()[:16] == "d5f4c6ef7d8f01b2"


def test_a_picture_does_not_depend_on_the_others() -> None:
    every = draw_shapes("ring", np.arange(60))
    np.testing.assert_array_equal(draw_shapes("ring", np.array([57, 3])), every[[57, 3]])
    assert len({picture.tobytes() for picture in every}) == 60


def test_the_shapes_have_the_same_area() -> None:
    unit = np.random.default_rng(0).random((100, 5))
    for shape in SHAPES:
        radius = 8 + 6 * unit[:, 0]
        area = builtin._coverage(shape, unit).sum(axis=(1, 2)) / 16
        np.testing.assert_allclose(area, 1.3 * radius**2, rtol=0.04)


def test_the_mean_colour_does_not_tell_the_shape() -> None:
    source = open_builtin("shapes")
    assert source.array is not None
    labels = np.repeat(np.arange(5), 400)
    moments = np.concatenate([source.array.mean((1, 2)), source.array.std((1, 2))], axis=1) / 255
    order = np.random.default_rng(0).permutation(2000)
    train, test = order[:1500], order[1500:]
    model = LogisticRegression(max_iter=1000).fit(moments[train], labels[train])
    assert model.score(moments[test], labels[test]) < 0.3  # chance is 0.2
