"""The one average: exact against fractions, and the same whatever the order of its sources."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.evaluation import averaging
from convworks.evaluation.averaging import average


def probabilities(seed: int, *, sources: int, n: int = 7, k: int = 5) -> dict[str, NDArray[np.float32]]:
    drawn = np.random.default_rng(seed).gamma(0.2, size=(sources, n, k)).astype(np.float32) + 1e-12
    return {f"m{i}": (each / each.sum(1, keepdims=True)).astype(np.float32) for i, each in enumerate(drawn)}


def exact(sources: dict[str, NDArray[np.float32]], weights: dict[str, float] | None) -> NDArray[np.float64]:
    """The weighted mean in fractions, rounded once."""
    shares = {name: Fraction((weights or {}).get(name, 1.0)) for name in sources}
    total = sum(shares.values())
    shape = next(iter(sources.values())).shape
    result = np.empty(shape)
    for place in np.ndindex(*shape):
        value = sum(shares[name] * Fraction(float(each[place])) for name, each in sources.items())
        result[place] = float(value / total)
    return result


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans())
def test_the_mean_is_that_of_fractions_but_for_the_last_bit(seed: int, count: int, weighted: bool) -> None:
    sources = probabilities(seed, sources=count)
    drawn = np.random.default_rng(seed + 1).random(count) + 0.01
    weights = dict(zip(sources, map(float, drawn), strict=True)) if weighted else None
    # three roundings with weights: of the sum, of the weights' sum, of their quotient
    most = 2 if weighted else 1
    np.testing.assert_array_max_ulp(average(sources, weights), exact(sources, weights), maxulp=most)


def test_the_order_of_the_sources_changes_no_bit() -> None:
    sources = probabilities(0, sources=12, n=40, k=11)
    weights = {name: 1 / (3 + i) for i, name in enumerate(sources)}
    expected, uniform = average(sources, weights), average(sources)
    draw = np.random.default_rng(0)
    for _ in range(20):
        names = [str(name) for name in draw.permutation(list(sources))]
        shuffled = {name: sources[name] for name in names}
        np.testing.assert_array_equal(average(shuffled, weights), expected)
        np.testing.assert_array_equal(average(shuffled), uniform)
        as_lists = average(list(shuffled.values()), [weights[name] for name in names])
        np.testing.assert_array_equal(as_lists, expected)
    naive = [
        sum(sources[str(n)].astype(float) / 12 for n in draw.permutation(list(sources))) for _ in range(9)
    ]
    assert any((each != naive[0]).any() for each in naive), "the sources must be able to show a difference"


def test_many_sources_of_float64_are_still_summed_exactly_and_in_any_order() -> None:
    # 1,008 answers: seven models on 144 crops. A plain sum is off by several units in the last place.
    draw = np.random.default_rng(5)
    sources = list(draw.random((1008, 60)) * 10.0 ** draw.integers(-9, 1, (1008, 60)))
    expected = np.array([float(sum(map(Fraction, column)) / 1008) for column in np.array(sources).T])
    found = average(sources)
    np.testing.assert_array_max_ulp(found, expected, maxulp=1)
    plain = sum(sources) / 1008
    assert np.abs((plain - expected) / np.spacing(expected)).max() > 2, "these must be hard to add"
    weights = list(draw.random(1008))
    weighted = average(sources, weights)
    for _ in range(10):
        order = draw.permutation(1008)
        shuffled = [sources[i] for i in order]
        np.testing.assert_array_equal(average(shuffled), found)
        np.testing.assert_array_equal(average(shuffled, [weights[i] for i in order]), weighted)


def test_the_order_cannot_matter_even_where_a_compensated_sum_would_round() -> None:
    terms = [1e17, 1e34, -1e34, -1e17, 1.0, 1e-3]
    found = {float(average([[each] for each in order])[0]) for order in permutations(terms)}
    assert len(found) == 1


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = probabilities(3, sources=4, n=30, k=3)
    expected = average(sources)
    monkeypatch.setattr(averaging, "_BLOCK", 7)
    np.testing.assert_array_equal(average(sources), expected)


def test_rows_of_probabilities_stay_probabilities() -> None:
    found = average(probabilities(1, sources=7), {f"m{i}": float(i) for i in range(7)})
    assert found.dtype == np.float64
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    only = average(probabilities(1, sources=3), {"m0": 0.0, "m1": 5.0, "m2": 0.0})
    np.testing.assert_array_equal(only, probabilities(1, sources=3)["m1"].astype(float))


def test_views_and_members_are_averaged_alike() -> None:
    # Members x crops: the mean over members of the mean over views is the mean over all of them.
    members = [probabilities(seed, sources=10) for seed in range(7)]
    by_member = average([average(each) for each in members])
    at_once = average([view for each in members for view in each.values()])
    np.testing.assert_allclose(by_member, at_once, rtol=1e-15)


def test_what_does_not_fit_is_said() -> None:
    a, b = np.ones((2, 3)), np.ones((2, 4))
    with pytest.raises(ConvworksError, match="U251.*nothing to average"):
        average([])
    with pytest.raises(ConvworksError, match=r"U251.*source b has the shape \(2, 4\), and a has \(2, 3\)"):
        average({"a": a, "b": b})
    with pytest.raises(ConvworksError, match="U251.*1 weights for 2 sources"):
        average([a, a], [1.0])
    with pytest.raises(ConvworksError, match="U251.*the weights are for c; the sources are a"):
        average({"a": a}, {"c": 1.0})
    for weights in ([0.0, 0.0], [1.0, -1e-9], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(ConvworksError, match="U251.*0 or more"):
            average([a, a], weights)
