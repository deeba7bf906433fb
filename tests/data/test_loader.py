"""The loader: order, resume at any batch, the same bits with any number of threads, failures, closing."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from convworks.data.augment import Augment, augment
from convworks.data.loader import AHEAD, Batch, Loader
from convworks.data.preprocess import Preprocess
from convworks.errors import ConvworksError
from convworks.randomness import permutation

from .pixels import CPU, QUICK, counts_threads, fit, noise, square, threads_started

COUNT = 23
IMAGES = noise(COUNT, 9, 9, 3)
LABELS = np.arange(COUNT, dtype=np.int64) % 5
PREPARED: Preprocess = fit(IMAGES, range(COUNT), square(8, stored=9), "per-channel")
POLICY = Augment(shift=2, flip=True, rotate=10.0)
THREADS = (0, 1, 2, 4)


def loader(**changes: Any) -> Loader:
    values: dict[str, Any] = {
        "images": torch.from_numpy(IMAGES),
        "labels": torch.from_numpy(LABELS),
        "rows": np.arange(COUNT),
        "preprocess": PREPARED,
        "batch": 4,
        "seed": 7,
        "augment": POLICY,
        "shuffle": True,
        "threads": 0,
        **CPU,
        **changes,
    }
    return Loader(**values)


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("convworks-loader")]


def assert_same(got: list[Batch], expected: list[Batch]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        torch.testing.assert_close(one.x, other.x, rtol=0, atol=0)
        torch.testing.assert_close(one.y, other.y, rtol=0, atol=0)


@pytest.fixture(autouse=True)
def no_threads_stay() -> Iterator[None]:
    yield
    assert loader_threads() == []


# What is in the batches


@pytest.mark.parametrize("epoch", [0, 5])
def test_an_epoch_is_the_permutation_of_the_rows(epoch: int) -> None:
    rows = np.array([20, 3, 8, 11, 2, 19, 7])
    batches = list(loader(rows=rows, batch=3).epoch(epoch))
    order = permutation(7, "order", epoch, 7)
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), rows[order])
    for batch in batches:
        np.testing.assert_array_equal(batch.y.numpy(), LABELS[batch.rows])
        assert batch.y.dtype == torch.int64
        assert batch.x.shape == (len(batch.rows), 3, 8, 8)


def test_training_batches_are_augmented_by_row_and_then_preprocessed() -> None:
    for batch in loader().epoch(3):
        changed = augment(
            torch.from_numpy(IMAGES[batch.rows]),
            POLICY,
            seed=7,
            epoch=3,
            indices=batch.rows,
            height=8,
            width=8,
            fill=0,
        )
        torch.testing.assert_close(batch.x, PREPARED.to_input(changed, **CPU), rtol=0, atol=0)


def test_without_augmentation_a_network_sees_the_centre_crop() -> None:
    rows = np.array([5, 4, 22])
    (batch,) = loader(rows=rows, augment=None, shuffle=False).epoch(0)
    expected = PREPARED.to_input(torch.from_numpy(IMAGES[rows]), **CPU)
    torch.testing.assert_close(batch.x, expected, rtol=0, atol=0)


def test_the_fill_of_the_geometry_is_used() -> None:
    bright = np.full((50, 8, 8, 1), 255, dtype=np.uint8)
    geometry = square(8, channels=1)
    for fill in (0, 255):
        prepared = fit(bright, range(50), type(geometry)(8, 8, 1, "crop", 8, 8, fill=fill), "none")
        x = next(loader(images=torch.from_numpy(bright), preprocess=prepared, batch=23).epoch(0)).x
        assert float(x.min()) == fill / 255


def test_epochs_differ_and_repeat() -> None:
    first, again = list(loader().epoch(1)), list(loader().epoch(1))
    assert_same(first, again)
    other = list(loader().epoch(2))
    assert (first[0].rows != other[0].rows).any()
    assert (first[0].rows != next(loader(seed=8).epoch(1)).rows).any()


def test_a_sample_looks_the_same_whatever_the_batch_size() -> None:
    def by_row(batch: int) -> NDArray[np.float32]:
        found = np.empty((COUNT, 3, 8, 8), dtype=np.float32)
        for part in loader(batch=batch).epoch(2):
            found[part.rows] = part.x.numpy()
        return found

    expected = by_row(4)
    for batch in (1, 7, 23, 100):
        np.testing.assert_array_equal(by_row(batch), expected)


# Sizes of the batches


@pytest.mark.parametrize(
    ("count", "batch", "shuffle", "sizes"),
    [
        (8, 4, True, [4, 4]),
        (9, 4, True, [4, 5]),
        (9, 4, False, [4, 4, 1]),
        (10, 4, True, [4, 4, 2]),
        (5, 4, True, [5]),
        (3, 4, True, [3]),
        (4, 100, False, [4]),
        (1, 4, True, [1]),
        (3, 1, True, [1, 1, 1]),
        (2, 1, False, [1, 1]),
        (0, 4, True, []),
        (0, 4, False, []),
    ],
)
@pytest.mark.parametrize("threads", [0, 2])
def test_batch_sizes(count: int, batch: int, shuffle: bool, sizes: list[int], threads: int) -> None:
    """In training a remainder of one joins the batch before it; evaluation leaves none out and joins none."""
    found = loader(rows=np.arange(count), batch=batch, shuffle=shuffle, threads=threads)
    assert [len(part.rows) for part in found.epoch(0)] == sizes
    assert found.steps == len(sizes)


def test_evaluation_keeps_the_order_of_the_rows() -> None:
    rows = np.array([9, 1, 1, 22, 0])
    parts = list(loader(rows=rows, batch=2, shuffle=False, augment=None, threads=2).epoch(4))
    np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), rows)


# Resume and threads


@QUICK
@given(
    count=st.integers(0, COUNT),
    batch=st.integers(1, 8),
    shuffle=st.booleans(),
    threads=st.sampled_from(THREADS),
    place=st.floats(0, 1),
    policy=st.sampled_from([None, Augment(shift=1), POLICY]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_an_epoch_can_start_at_any_batch_with_any_number_of_threads(
    count: int, batch: int, shuffle: bool, threads: int, place: float, policy: Any, dtype: torch.dtype
) -> None:
    values: dict[str, Any] = {"batch": batch, "shuffle": shuffle, "augment": policy, "dtype": dtype}
    values["rows"] = np.arange(count)[::-1].copy()
    whole = list(loader(**values).epoch(6))
    resumed = loader(threads=threads, **values)
    start = round(place * resumed.steps)
    assert_same(list(resumed.epoch(6, start=start)), whole[start:])


@pytest.mark.parametrize("start", [-1, 7])
def test_a_start_outside_of_the_epoch(start: int) -> None:
    with pytest.raises(ValueError, match=f"an epoch of 6 batches has no batch number {start}"):
        loader().epoch(0, start=start)
    assert list(loader().epoch(0, start=6)) == []


@pytest.mark.parametrize("threads", THREADS)
def test_the_threads_of_torch_do_not_matter_and_stay(threads: int) -> None:
    images = torch.from_numpy(noise(64, 64, 64, 3))
    prepared = fit(images.numpy(), range(64), square(64), "per-feature")
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            values: dict[str, Any] = {"images": images, "labels": np.zeros(64, dtype=np.int64)}
            values |= {"rows": np.arange(64), "preprocess": prepared, "batch": 32, "threads": threads}
            found.append(list(loader(**values).epoch(0)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert_same(found[1], found[0])


@counts_threads
def test_loader_threads_start_no_threads_of_their_own() -> None:
    images = torch.from_numpy(noise(128, 64, 64, 3))
    prepared = fit(images.numpy(), range(128), square(64), "per-feature")
    values: dict[str, Any] = {"images": images, "labels": np.zeros(128, dtype=np.int64)}
    values |= {"rows": np.arange(128), "preprocess": prepared, "batch": 64, "dtype": torch.bfloat16}
    assert threads_started(lambda: list(loader(**values).epoch(0))) == 0


# Failures, closing, memory


class BrokenError(Exception):
    pass


def broken_at(number: int, found: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    real, rows = found._make, [batch.rows.tolist() for batch in found.epoch(0)][number]

    def make(epoch: int, wanted: NDArray[np.int64]) -> Batch:
        if wanted.tolist() == rows:
            raise BrokenError("the third batch")
        return real(epoch, wanted)

    monkeypatch.setattr(found, "_make", make)


@pytest.mark.parametrize("threads", THREADS)
def test_a_failure_comes_where_its_batch_would(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loader(threads=threads)
    expected = list(found.epoch(0))
    broken_at(2, found, monkeypatch)
    batches = found.epoch(0)
    assert_same([next(batches), next(batches)], expected[:2])
    with pytest.raises(BrokenError, match="the third batch"):
        next(batches)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_closing_ends_the_threads_at_once(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches in work are finished, those that wait are not begun."""
    found = loader(batch=1, threads=threads)
    first = next(loader(batch=1).epoch(0)).rows.tolist()
    real, go_on, begun = found._make, threading.Event(), []

    def make(epoch: int, rows: NDArray[np.int64]) -> Batch:
        begun.append(rows)
        if rows.tolist() != first:
            go_on.wait(timeout=10)
        return real(epoch, rows)

    monkeypatch.setattr(found, "_make", make)
    batches = found.epoch(0)
    next(batches)
    assert len(loader_threads()) == threads
    timer = threading.Timer(0.05, go_on.set)
    timer.start()
    batches.close()
    timer.join()
    assert loader_threads() == []
    assert len(begun) <= 1 + threads


def test_an_epoch_that_is_left_ends_its_threads() -> None:
    for number, _batch in enumerate(loader(threads=2).epoch(0)):
        if number == 1:
            break
    assert loader_threads() == []
    loader(threads=2).epoch(0)  # never begun
    assert loader_threads() == []


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_batches_than_agreed_are_made_ahead(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loader(batch=1, threads=threads)
    made: list[int] = []
    real = found._make

    def counted(epoch: int, rows: NDArray[np.int64]) -> Batch:
        made.append(1)
        return real(epoch, rows)

    monkeypatch.setattr(found, "_make", counted)
    for number, _batch in enumerate(found.epoch(0), start=1):
        time.sleep(0.005)
        assert len(made) <= number + AHEAD * threads
    assert len(made) == COUNT


# Images in a file


def test_images_mapped_from_a_read_only_file(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(IMAGES.tobytes())
    mapped = np.memmap(path, dtype=np.uint8, mode="r", shape=IMAGES.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has no read-only tensors
        images = torch.from_numpy(mapped)
    for policy in (None, POLICY):
        for threads in (0, 2):
            got = list(loader(images=images, augment=policy, threads=threads).epoch(1))
            assert_same(got, list(loader(augment=policy).epoch(1)))
    refitted = Preprocess.fit(images, np.arange(COUNT), geometry=PREPARED.geometry, normalize="per-channel")
    np.testing.assert_array_equal(refitted.mean, PREPARED.mean)
    assert path.read_bytes() == IMAGES.tobytes()


def test_changing_a_batch_does_not_change_the_images() -> None:
    images = torch.from_numpy(IMAGES.copy())
    for policy in (None, POLICY):
        for batch in loader(images=images, augment=policy, shuffle=False).epoch(0):
            batch.x.zero_()
            batch.y.zero_()
    np.testing.assert_array_equal(images.numpy(), IMAGES)
    np.testing.assert_array_equal(LABELS, np.arange(COUNT) % 5)


# Arguments


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ({"batch": 0}, "U172", "a batch of 0 images is empty"),
        ({"threads": -1}, "U172", "-1 loader threads"),
        ({"augment": Augment(shift=8)}, "U171", "a shift of 8 pixels is too large"),
    ],
)
def test_values_that_cannot_be_used(values: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(ConvworksError, match=message) as caught:
        loader(**values)
    assert caught.value.code == code
    assert caught.value.try_


def test_images_of_another_size_or_type_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the size of"):
        loader(images=torch.zeros(COUNT, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"images are torch\.float32"):
        loader(images=torch.zeros(COUNT, 9, 9, 3))


def test_a_row_that_is_not_there() -> None:
    with pytest.raises(IndexError):
        list(loader(rows=np.array([0, COUNT]), threads=1).epoch(0))
