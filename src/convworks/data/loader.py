"""Batches in the order of an epoch, made ahead of time by threads.

The order is a permutation that follows from (seed, epoch), and each batch follows from its number: an epoch
can start at any batch, and the number of threads cannot change a bit of it.

Threads rather than processes: a batch is a few tenths of a millisecond of numpy, less than it costs to send
one to another process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from convworks.data.augment import Augment, augment
from convworks.data.preprocess import Preprocess
from convworks.errors import ConvworksError
from convworks.randomness import permutation

AHEAD = 2  # batches for each thread that wait for the consumer


@dataclass(frozen=True, slots=True)
class Mixed:
    """Two labels for each image of a mixed batch: y counts with `share`, `other` with 1 - share; (B,) each."""

    other: torch.Tensor  # int64
    share: torch.Tensor  # float32, in [0, 1]


@dataclass(frozen=True, slots=True)
class Batch:
    """x (B, C, H, W), y (B,) int64, rows (B,): which images of the data set these are."""

    x: torch.Tensor
    y: torch.Tensor
    rows: NDArray[np.int64]
    mixed: Mixed | None = None  # with mixup or CutMix


class Loader:
    """Batches of `rows` of uint8 images (N, Hs, Ws, C), which may be mapped from a file.

    With `shuffle`, each epoch has its own order, and a remainder of one sample joins the batch before it:
    batch normalisation cannot train on one. Without, the order is that of `rows`.

    Raises ConvworksError U172 for a batch size or a number of threads that makes no sense, and U171 for an
    augmentation that does not fit the image size.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor | NDArray[np.int64],
        rows: NDArray[np.int64],
        preprocess: Preprocess,
        *,
        batch: int,
        seed: int,
        augment: Augment | None,
        shuffle: bool,
        threads: int,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        device: torch.device | str,
    ) -> None:
        geometry = preprocess.geometry
        if tuple(images.shape[1:]) != geometry.stored_shape or images.dtype != torch.uint8:
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}, not of the size of {geometry}"
            )
        if batch < 1:
            raise ConvworksError("U172", f"a batch of {batch} images is empty", try_="--set batch=32")
        if threads < 0:
            raise ConvworksError(
                "U172", f"{threads} loader threads is less than none", try_="--set threads=1"
            )
        if augment is not None:
            augment.require_fits(height=geometry.height, width=geometry.width)
        self.images, self.labels, self.rows = images.numpy(), np.asarray(labels), np.asarray(rows)
        self.preprocess, self.augment = preprocess, augment
        self.batch, self.seed, self.shuffle, self.threads = batch, seed, shuffle, threads
        self.dtype, self.memory_format, self.device = dtype, memory_format, device
        self._edges = _edges(len(self.rows), batch, join_last=shuffle)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self._edges) - 1

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch from number `start` on. Closing the generator ends its threads."""
        if not 0 <= start <= self.steps:
            raise ValueError(f"an epoch of {self.steps} batches has no batch number {start}")
        rows = self.rows
        if self.shuffle:
            rows = rows[permutation(self.seed, "order", epoch, len(rows))]
        edges = self._edges[start:]
        groups = [rows[i:j] for i, j in pairwise(edges)]
        make = partial(self._make, epoch)
        return _ahead(make, groups, self.threads) if self.threads else _directly(make, groups)

    def _make(self, epoch: int, rows: NDArray[np.int64]) -> Batch:
        # No torch operator here may be large enough to use torch's own threads: every loader thread would
        # start a pool of them, beside the one that trains.
        images = torch.from_numpy(np.take(self.images, rows, axis=0))
        if self.augment is not None:
            geometry = self.preprocess.geometry
            images = augment(
                images,
                self.augment,
                seed=self.seed,
                epoch=epoch,
                indices=rows,
                height=geometry.height,
                width=geometry.width,
                fill=geometry.fill,
            )
        x = self.preprocess.to_input(
            images, dtype=self.dtype, memory_format=self.memory_format, device=self.device
        )
        y = torch.from_numpy(np.take(self.labels, rows)).to(self.device)
        return Batch(x=x, y=y, rows=rows)


def _edges(count: int, batch: int, *, join_last: bool) -> list[int]:
    """Where each batch begins in the order of an epoch, and the end."""
    begins = list(range(0, count, batch))
    if join_last and len(begins) > 1 and count % batch == 1:
        begins.pop()
    return [*begins, count]


Make = Callable[[NDArray[np.int64]], Batch]


def _directly(make: Make, groups: Sequence[NDArray[np.int64]]) -> Generator[Batch, None, None]:
    for rows in groups:
        yield make(rows)


def _ahead(make: Make, groups: Sequence[NDArray[np.int64]], threads: int) -> Generator[Batch, None, None]:
    """The same batches in the same order; a failure in a thread is raised where its batch would come."""
    executor = ThreadPoolExecutor(threads, thread_name_prefix="convworks-loader")
    waiting: deque[Future[Batch]] = deque()
    try:
        for rows in groups:
            waiting.append(executor.submit(make, rows))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
