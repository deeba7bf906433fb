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
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from convworks.data.augment import Augment, Lighting, augment
from convworks.data.augment_mix import Mix, blend, draw_mix, paste_rectangles
from convworks.data.preprocess import SERIAL, Preprocess, blocks
from convworks.errors import ConvworksError
from convworks.randomness import permutation

AHEAD = 2  # batches for each thread that wait for the consumer


@dataclass(frozen=True, slots=True)
class Mixed:
    """Two labels for each image of a batch: y counts with `share`, `other` with 1 - share; (B,) each."""

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

    With mixup or CutMix the other image is any of `rows`, drawn for each sample and changed as it is itself
    changed in that epoch: what a sample becomes does not depend on its batch. The principal components of
    `augment.lighting` are measured here, on `rows`.

    Raises ConvworksError U172 for a batch size or a number of threads that makes no sense, and U171, U200,
    U202 or U203 for an augmentation that does not fit the images.
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
            augment.require_fits(
                height=geometry.height,
                width=geometry.width,
                stored=(geometry.stored_height, geometry.stored_width),
                channels=geometry.channels,
            )
        self.lighting = (
            Lighting.fit(images, np.asarray(rows)) if augment is not None and augment.lighting > 0 else None
        )
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
        images, mix = self._changed(epoch, rows), self.mix(epoch, rows)
        if mix is None:
            x = self._input(images, self.dtype, self.device)
        else:
            x = self._mixed(images, self._changed(epoch, mix.partner), mix)
        y = torch.from_numpy(np.take(self.labels, rows)).to(self.device)
        if mix is None:
            return Batch(x=x, y=y, rows=rows)
        other = torch.from_numpy(np.take(self.labels, mix.partner)).to(self.device)
        mixed = Mixed(other, torch.from_numpy(mix.share).to(self.device))
        return Batch(x=x, y=y, rows=rows, mixed=mixed)

    def batch_of(self, epoch: int, rows: NDArray[np.int64]) -> Batch:
        """These rows as they are in that epoch, whatever batches they are in there."""
        return self._make(epoch, np.asarray(rows, dtype=np.int64))

    def mix(self, epoch: int, rows: NDArray[np.int64]) -> Mix | None:
        """What these rows are mixed with in that epoch; None without mixup and CutMix."""
        policy, geometry = self.augment, self.preprocess.geometry
        if policy is None or not policy.mixes:
            return None
        return draw_mix(
            mixup=policy.mixup,
            cutmix=policy.cutmix,
            seed=self.seed,
            epoch=epoch,
            indices=rows,
            rows=self.rows,
            height=geometry.height,
            width=geometry.width,
        )

    def _changed(self, epoch: int, rows: NDArray[np.int64]) -> torch.Tensor:
        """uint8 (B, H, W, C) after all changes that need no other image."""
        images = torch.from_numpy(np.take(self.images, rows, axis=0))
        if self.augment is None:
            return images
        geometry = self.preprocess.geometry
        return augment(
            images,
            self.augment,
            seed=self.seed,
            epoch=epoch,
            indices=rows,
            height=geometry.height,
            width=geometry.width,
            fill=geometry.fill,
            lighting=self.lighting,
            blank=self._blank,
        )

    @cached_property
    def _blank(self) -> NDArray[np.uint8]:
        """(C,) the colour that the normalisation takes to zero, or nearly: DeVries' cutout."""
        mean = self.preprocess.mean.astype(np.float64).mean(axis=(1, 2))
        blank: NDArray[np.uint8] = np.clip(np.rint(255.0 * mean), 0, 255).astype(np.uint8)
        return blank

    def _input(self, images: torch.Tensor, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
        return self.preprocess.to_input(images, dtype=dtype, memory_format=self.memory_format, device=device)

    def _mixed(self, images: torch.Tensor, others: torch.Tensor, mix: Mix) -> torch.Tensor:
        """CutMix in the bytes, mixup in float32 after the normalisation."""
        if not mix.blended.all():
            paste_rectangles(images.numpy(), others.numpy(), mix.rectangles)
        x = self._input(images, torch.float32, "cpu")
        some = np.flatnonzero(mix.blended)
        if len(some):
            other = self._input(torch.from_numpy(others.numpy()[some]), torch.float32, "cpu").numpy()
            own = x.numpy()
            if len(some) == len(own):
                blend(own, other, mix.share)
            else:
                part = own[some]
                blend(part, other, mix.share[some])
                own[some] = part
        return _converted(x, self.dtype).to(self.device)


def _converted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same numbers in another type and the same layout, made in the calling thread."""
    if x.dtype == dtype:
        return x
    result = torch.empty_like(x, dtype=dtype)  # keeps the strides
    order = sorted(range(x.ndim), key=x.stride().__getitem__, reverse=True)
    source, target = x.permute(order).reshape(-1), result.permute(order).view(-1)
    for part in blocks(len(source), SERIAL):
        target[part].copy_(source[part])
    return result


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
