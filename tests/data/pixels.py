"""Images, geometries and fitted preprocessing for the tests of what comes after decoding."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray

from convworks.data.preprocess import Geometry, Preprocess

QUICK = settings(deadline=None, database=None, max_examples=40)
CPU: dict[str, Any] = {"dtype": torch.float32, "memory_format": torch.channels_last, "device": "cpu"}


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def square(size: int, *, channels: Any = 3, stored: int | None = None, fit: Any = "crop") -> Geometry:
    stored = stored or size
    return Geometry(size, size, channels, fit, stored, stored)


def fit(images: NDArray[np.uint8], rows: Any, geometry: Geometry, normalize: Any) -> Preprocess:
    return Preprocess.fit(torch.from_numpy(images), np.asarray(rows), geometry=geometry, normalize=normalize)


TASKS = "/proc/self/task"
counts_threads = pytest.mark.skipif(not os.path.isdir(TASKS), reason="counts the threads of the process")


def threads_started(work: Callable[[], object]) -> int:
    """How many threads `work` leaves behind when it runs in a thread of its own.

    torch starts a pool of threads in every thread that runs a large operator. In a loader thread they would
    take the cores from the training.
    """

    def measured() -> int:
        before = len(os.listdir(TASKS))
        work()
        return len(os.listdir(TASKS)) - before

    with ThreadPoolExecutor(1) as pool:
        return max(0, pool.submit(measured).result())  # threads of earlier tests may end meanwhile
