"""The counter-based generator against its published vectors, a scalar version of it, and statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convworks import randomness

QUICK = settings(deadline=None, database=None, max_examples=40)
WORD = st.integers(0, 2**32 - 1)


def scalar_philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 one number at a time, as Figure 2 and Section 3.3 of the paper say it."""
    left, right, mask = 0xD2511F53, 0xCD9E8D57, 0xFFFFFFFF
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(left * c0, 2**32)
        high1, low1 = divmod(right * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


# Random123, tests/kat_vectors: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN, ids=["zeros", "ones", "pi"])
def test_the_published_vectors_are_reproduced(counter: str, key: str, result: str) -> None:
    k0, k1 = numbers(key)
    got = randomness.philox4x32(np.array(numbers(counter), dtype=np.uint64), (k0, k1))
    np.testing.assert_array_equal(got, numbers(result))
    np.testing.assert_array_equal(scalar_philox(tuple(numbers(counter)), (k0, k1)), numbers(result))


@QUICK
@given(st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=9), st.tuples(WORD, WORD))
def test_many_counters_at_once_equal_the_scalar_version(
    counters: list[tuple[int, ...]], key: tuple[int, int]
) -> None:
    got = randomness.philox4x32(np.array(counters, dtype=np.uint64), key)
    np.testing.assert_array_equal(got, [scalar_philox(counter, key) for counter in counters])


@QUICK
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_words_are_blocks_of_the_counter(index: int, epoch: int, count: int) -> None:
    key = randomness.derive_key(5, "here")
    blocks = [scalar_philox((index % 2**32, index >> 32, epoch, block), key) for block in range(3)]
    got = randomness.words(5, "here", epoch, np.array([index], dtype=np.int64), count)
    np.testing.assert_array_equal(got[0], np.ravel(blocks)[:count])


@QUICK
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.integers(0, 100), st.integers(1, 7))
def test_draws_do_not_depend_on_the_batch(indices: list[int], epoch: int, count: int) -> None:
    together = randomness.uniform(1, "augment", epoch, np.array(indices, dtype=np.int64), count)
    alone = [
        randomness.uniform(1, "augment", epoch, np.array([i], dtype=np.int64), count)[0] for i in indices
    ]
    np.testing.assert_array_equal(together, alone)
    fewer = randomness.uniform(1, "augment", epoch, np.array(indices, dtype=np.int64), 1)
    np.testing.assert_array_equal(fewer, together[:, :1])


def test_seed_purpose_epoch_and_index_all_matter() -> None:
    def draw(seed: int = 1, purpose: str = "augment", epoch: int = 2, index: int = 3) -> float:
        return float(randomness.uniform(seed, purpose, epoch, np.array([index]), 1)[0, 0])

    found = [draw(), draw(seed=2), draw(purpose="order"), draw(epoch=3), draw(index=4), draw(seed=-1)]
    assert len(set(found)) == len(found)
    assert draw() == found[0]


def test_uniform_numbers_are_uniform_and_independent() -> None:
    draws = randomness.uniform(7, "augment", 0, np.arange(50_000), 4)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    other_epoch = randomness.uniform(7, "augment", 1, np.arange(50_000), 1)
    correlation = np.corrcoef(np.hstack([draws, other_epoch]), rowvar=False) - np.eye(5)
    assert np.abs(correlation).max() < 0.02  # 4.5 standard deviations of 1 / sqrt(50,000)
    serial = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(serial) < 0.02


def test_no_numbers_and_no_indices_are_fine() -> None:
    assert randomness.uniform(0, "x", 0, np.array([], dtype=np.int64), 3).shape == (0, 3)
    assert randomness.uniform(0, "x", 0, np.arange(3), 0).shape == (3, 0)
    assert randomness.permutation(0, "order", 0, 0).shape == (0,)


@QUICK
@given(st.integers(0, 2**63), st.integers(0, 1000), st.integers(0, 300))
def test_a_permutation_is_a_permutation(seed: int, epoch: int, n: int) -> None:
    order = randomness.permutation(seed, "order", epoch, n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, randomness.permutation(seed, "order", epoch, n))


def test_permutations_put_every_sample_everywhere() -> None:
    # 4 samples, 24 orders, 4,800 epochs: each order about 200 times.
    orders = [tuple(randomness.permutation(3, "order", epoch, 4)) for epoch in range(4800)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_numbers_of_this_version_stay() -> None:
    """A stored run is resumed by them: a change of these values breaks every run that exists."""
    # sha256 of "convworks/order/0" begins c0f67ffb 43b3d2c7; of "convworks/dropout/0/7", 5a3ff6f54f203bd4.
    assert randomness.derive_key(0, "order") == (0xFB7FF6C0, 0xC7D2B343)
    assert randomness.derive_seed(0, "dropout", 7) == 0xD43B204FF5F63F5A >> 1
    np.testing.assert_array_equal(randomness.permutation(0, "order", 1, 8), [0, 3, 5, 1, 6, 2, 4, 7])
    draws = randomness.uniform(0, "augment", 1, np.array([5]), 2)
    np.testing.assert_array_equal(draws, [[0.7036905442364514, 0.4334952626377344]])


def test_derived_seeds_are_valid_for_torch_and_distinct() -> None:
    seeds = [randomness.derive_seed(0, purpose, step) for purpose in ("a", "b") for step in range(500)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
