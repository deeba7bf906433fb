"""What a frozen backbone computes, once for each image: computed in batches, kept in the cache folder.

An entry is a folder `cache/features/KEY/` that is whole or absent. KEY is a hash of everything that decides
a bit of it: images, geometry, preprocessing, weights of the backbone, arithmetic, batch. A damaged entry is
computed again; where the folder refuses, the features stay in memory, if they fit."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convworks.data.cache import CAP
from convworks.data.dataset import Dataset
from convworks.data.loader import Batch, Loader
from convworks.data.loader import _edges as batch_edges
from convworks.data.preprocess import Preprocess
from convworks.data.store import disk_failed, memory_limit
from convworks.durable import TEMPORARY, fsync_file, fsync_folder, read_json, rename, sha256_file, to_json
from convworks.durable import write_bytes as write_durably
from convworks.errors import ConvworksError
from convworks.flows.events import Note, Progress
from convworks.flows.prepare import evaluation_loader
from convworks.machine import processor_name
from convworks.randomness import permutation
from convworks.training.loop import Numerics
from convworks.training.transfer import head_inputs, head_names, require_in_a_row

FORMAT = 1
VALUES, HEADER = "features.f32", "header.json"
_PROGRESS_SECONDS = 0.25


class FeaturesInterruptedError(Exception):
    """`should_stop` said yes while features were computed. Nothing half-made is left."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Values (N, ...) float32 of the given rows of a data set, in their order."""

    values: NDArray[np.float32]
    rows: NDArray[np.int64]
    stored: Path | None  # None: in memory only

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows of the data set are in `values`."""
        places = np.full(int(self.rows.max(initial=-1)) + 1, -1, dtype=np.int64)
        places[self.rows] = np.arange(len(self.rows))
        return places[rows]


def backbone_features(
    network: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    rows: NDArray[np.int64],
    *,
    numerics: Numerics,
    batch: int,
    workers: int,
    cache: Path | None,
    should_stop: Callable[[], bool],
) -> Generator[Note | Progress, None, Features]:
    """What the head of a network would see of these images: batch norm in evaluation mode, nothing random.

    Raises U230 and U231 (no backbone that can be cut off), R521 (no room), FeaturesInterruptedError.
    """
    network.eval()
    key = feature_key(network, dataset, preprocess, rows, numerics=numerics, batch=batch)
    folder = cache / "features" / key if cache is not None else None
    if folder is not None and (values := _read(folder, len(rows))) is not None:
        yield Note(f"features of {len(rows):,} images from an earlier run, in {folder}")
        return Features(values, rows, folder)
    start = time.perf_counter()
    loader = evaluation_loader(
        dataset.images, dataset.labels, rows, preprocess, batch=batch, numerics=numerics, workers=workers
    )
    writer: _Writer | None = None
    shown, done = start, 0
    try:
        for x in _inputs(loader):
            with torch.inference_mode(), numerics.autocast():
                features, outputs = head_inputs(network, x)
                if writer is None:
                    require_in_a_row(network, features.clone(), outputs)
            if writer is None:
                writer = _Writer(folder, (len(rows), *features.shape[1:]))
            writer.append(features.float().cpu().numpy())
            done += len(x)
            if should_stop():
                raise FeaturesInterruptedError
            now = time.perf_counter()
            if now - shown > _PROGRESS_SECONDS:
                shown = now
                yield _progress(done, len(rows), now - start)
        assert writer is not None
        values, stored = writer.finish()
    finally:
        if writer is not None:
            writer.close()
    if folder is not None and not stored:
        yield Note(f"the features are not kept in {folder.parent}: {writer.problem}", level="warning")
    shape = "x".join(map(str, values.shape[1:]))
    yield Note(
        f"features of {len(rows):,} images ({shape} numbers each, {values.nbytes / 1e6:,.1f} MB) "
        f"computed once, in {time.perf_counter() - start:.1f} s" + (f", kept in {folder}" if stored else "")
    )
    return Features(values, rows, folder if stored else None)


def _inputs(loader: Loader) -> Iterator[Tensor]:
    with contextlib.closing(loader.epoch(0)) as batches:
        for batch in batches:
            yield batch.x


def _progress(done: int, total: int, seconds: float) -> Progress:
    rate = done / max(seconds, 1e-9)
    left = (total - done) / max(rate, 1e-9)
    return Progress(1, 1, done, total, 0.0, 0.0, images_per_second=rate, seconds_left=left, phase="scan")


def feature_key(
    network: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    rows: NDArray[np.int64],
    *,
    numerics: Numerics,
    batch: int,
) -> str:
    """Hash of what decides the features to the bit."""
    digest = hashlib.sha256()
    head = head_names(network)
    facts: list[Any] = [FORMAT, dataset.manifest.sha256, asdict(preprocess.geometry), asdict(numerics), batch]
    facts += [torch.get_num_threads(), torch.__version__, processor_name(), str(network), list(head)]
    digest.update(repr(facts).encode())
    for array in (preprocess.mean, preprocess.std, dataset.rows[rows]):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name, tensor in network.state_dict().items():
        if name.partition(".")[0] not in head:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


class _Writer:
    """Takes features in order: into memory where they fit, and into a draft of the cache entry."""

    def __init__(self, folder: Path | None, shape: tuple[int, ...]) -> None:
        self.folder, self.shape, self.problem = folder, shape, ""
        self.needed = 4 * int(np.prod(shape))
        self.memory = np.empty(shape, dtype=np.float32) if self.needed <= memory_limit(None) else None
        self._count, self._draft, self._file = 0, None, None
        if folder is None:
            if self.memory is None:
                raise disk_failed(OSError("there is no cache folder"), Path("."), self.needed)
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _clean(folder.parent)
            self._draft = folder.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
            self._draft.mkdir()
            self._file = (self._draft / VALUES).open("wb")
        except OSError as problem:
            self._lose(problem)

    def append(self, block: NDArray[np.float32]) -> None:
        """Add (n, ...). Raises R521 where the disk is the only place and it fails."""
        if self.memory is not None:
            self.memory[self._count : self._count + len(block)] = block
        self._count += len(block)
        if self._file is not None:
            try:
                self._file.write(np.ascontiguousarray(block).data)
            except OSError as problem:
                self._lose(problem)

    def finish(self) -> tuple[NDArray[np.float32], bool]:
        """(values, whether they are kept in the cache)."""
        if self._file is not None and self._draft is not None and self.folder is not None:
            try:
                self._file.close()
                fsync_file(self._draft / VALUES)
                header = {"format": FORMAT, "shape": self.shape, "sha256": sha256_file(self._draft / VALUES)}
                write_durably(self._draft / HEADER, to_json(header))
                fsync_folder(self._draft)
                if not self.folder.exists():  # else another run computed the same
                    rename(self._draft, self.folder)
                    fsync_folder(self.folder.parent)
                found = self.memory if self.memory is not None else _mapped(self.folder, self.shape)
                return found, True
            except OSError as problem:
                self._lose(problem)
        assert self.memory is not None
        return self.memory, False

    def _lose(self, problem: OSError) -> None:
        self.close()
        if self.memory is None:
            assert self.folder is not None
            raise disk_failed(problem, self.folder.parent, self.needed) from problem
        self.problem = problem.strerror or str(problem)

    def close(self) -> None:
        """Remove a draft that was not named."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        if self._draft is not None:
            shutil.rmtree(self._draft, ignore_errors=True)
            self._draft = None


def _read(folder: Path, count: int) -> NDArray[np.float32] | None:
    """The values of an entry, or None; a damaged entry is removed."""
    if not folder.is_dir():
        return None
    try:
        header = read_json(folder / HEADER)
        shape = tuple(int(n) for n in header["shape"])
        sound = header["format"] == FORMAT and shape[0] == count
        if not sound or sha256_file(folder / VALUES) != header["sha256"]:
            raise ValueError("it is damaged")
        values = _mapped(folder, shape)
        with contextlib.suppress(OSError):
            (folder / HEADER).touch()
        return np.array(values) if values.nbytes <= memory_limit(None) else values
    except (OSError, ValueError, TypeError, LookupError, ConvworksError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _mapped(folder: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A private mapping: pages come from the file."""
    return np.asarray(np.memmap(folder / VALUES, dtype=np.float32, mode="c", shape=shape))


def _clean(folder: Path) -> None:
    """Remove old entries over the cap, and drafts that are a day old."""

    def used(path: Path) -> float:
        try:
            return (path / HEADER).stat().st_mtime
        except OSError:
            return path.stat().st_mtime

    total = 0
    for entry in sorted(folder.iterdir(), key=used, reverse=True):
        draft = entry.name.startswith(TEMPORARY)
        total += 0 if draft else sum(file.stat().st_size for file in entry.iterdir())
        if (draft and time.time() - used(entry) > 86_400) or (not draft and total > CAP):
            shutil.rmtree(entry, ignore_errors=True)


class FeatureLoader:
    """Batches of stored features (B, ...) float32 in the order in which `Loader` would give their images."""

    def __init__(
        self,
        features: Features,
        labels: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        batch: int,
        seed: int,
        shuffle: bool,
        device: str,
    ) -> None:
        self.values, self.places = features.values, features.of(rows)
        self.labels, self.rows = labels, rows
        self.seed, self.shuffle, self.device = seed, shuffle, device
        self._edges = batch_edges(len(rows), batch, join_last=shuffle)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self._edges) - 1

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch from number `start` on."""
        count = len(self.rows)
        order = permutation(self.seed, "order", epoch, count) if self.shuffle else np.arange(count)
        for begin, end in pairwise(self._edges[start:]):
            chosen = order[begin:end]
            rows = self.rows[chosen]
            x = torch.from_numpy(np.take(self.values, self.places[chosen], axis=0))
            y = torch.from_numpy(np.take(self.labels, rows))
            yield Batch(x=x.to(self.device), y=y.to(self.device), rows=rows)
