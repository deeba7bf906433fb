"""One pass over a source: every file is read once, hashed, decoded, fitted and stored.

Work is cut into chunks of consecutive images. Threads take chunks, and the results are put together in order,
so that the number of threads changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convworks.data.cache import Cached, PixelCache, Record
from convworks.data.decode import UnreadableImage, decode
from convworks.data.manifest import OK
from convworks.data.preprocess import Geometry, centre_crop
from convworks.data.sources import Source, shown
from convworks.data.store import ScanInterrupted, Writer, open_writer
from convworks.errors import ConvworksError

CHUNK_IMAGES = 256  # a chunk is one task: large enough that the pool costs nothing
CHUNK_BYTES = 8 * 2**20  # of fitted images
MANY_CHUNKS = 8  # for each thread: then it pays to find out whether several are faster than one


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over a source found."""

    records: list[Record]  # one for each index that was asked for, in that order
    images: NDArray[np.uint8]  # (N, Hs, Ws, C) of the readable ones, in the same order
    mapped: bool  # the images lie in a file, not in memory
    notices: tuple[str, ...]  # about this machine, not about the data


@dataclass(frozen=True, slots=True)
class _Chunk:
    records: list[Record]
    images: NDArray[np.uint8]  # (n, Hs, Ws, C) of the readable ones
    as_cached: bool  # every record and every image is that of the cache entry


def scan(
    source: Source,
    *,
    indices: Sequence[int],
    geometry: Geometry,
    cache: Path | None,
    threads: int = 2,
    strict: bool = False,
    should_stop: Callable[[], bool] | None = None,
    ram_limit: int | None = None,
) -> Scan:
    """Read the images of `indices` once: hash, decode, fit, store.

    Files with known bytes come from the cache folder without decoding. An unreadable image is a record with
    its reason. Raises D140 (unreadable and `strict`), R510 (disk), R511 (memory) and ScanInterrupted.
    """
    paths = [source.entries[index].path for index in indices]
    notices = []
    if cache is not None and _lies_inside(cache, source.location):
        notices.append(f"nothing is cached: {cache} lies inside the data, which is never written to")
        cache = None
    entries = None if cache is None else PixelCache(cache, paths=paths, geometry=geometry)
    cached = entries.find() if entries is not None and source.encoded else None
    reader = _Reader(source, indices=indices, geometry=geometry, cached=cached, should_stop=should_stop)
    assembly = _Assembly(source, count=len(paths), geometry=geometry, entries=entries, cached=cached)
    size = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // int(np.prod(geometry.stored_shape))))
    if source.array is not None and _is_placed(source.array.shape[1:], geometry):
        threads = 1  # what is left is hashing of small pieces, which holds the interpreter lock
    spans = [range(start, min(start + size, len(paths))) for start in range(0, len(paths), size)]
    try:
        with contextlib.closing(_in_order(reader.chunk, spans, threads=threads)) as chunks:
            for chunk in chunks:
                if strict:
                    _stop_at_first(chunk.records, paths[len(assembly.records) :])
                assembly.add(chunk, ram_limit=ram_limit)
            images = assembly.finish()
    finally:
        reader.halted = True
        assembly.close()
    return Scan(
        records=assembly.records,
        images=images,
        mapped=assembly.mapped,
        notices=(*notices, *assembly.notices),
    )


def _in_order(
    work: Callable[[range], _Chunk], spans: Sequence[range], *, threads: int
) -> Generator[_Chunk, None, None]:
    """Results in the order of `spans`, worked on by `threads` threads a few chunks ahead, or by one.

    Small files take several threads longer than one: at each file they take the interpreter's lock from each
    other. So where there are many chunks, the first is timed alone and the next few together.
    """
    if threads <= 1:
        yield from map(work, spans)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="convworks-scan")
    try:
        if len(spans) >= MANY_CHUNKS * threads:
            start = time.perf_counter()
            first = work(spans[0])
            alone = (time.perf_counter() - start) / len(spans[0])
            yield first
            trial, spans = spans[1 : 1 + 2 * threads], spans[1 + 2 * threads :]
            start = time.perf_counter()
            together = list(pool.map(work, trial))
            if alone < (time.perf_counter() - start) / sum(map(len, trial)):
                threads = 1
            yield from together
        yield from map(work, spans) if threads == 1 else _ahead(pool, work, spans, most=2 * threads)
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[range], _Chunk], spans: Sequence[range], *, most: int
) -> Generator[_Chunk, None, None]:
    """Results in the order of `spans`; the pool is at most `most` chunks ahead."""
    waiting: deque[Future[_Chunk]] = deque()
    for span in spans:
        waiting.append(pool.submit(work, span))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _stop_at_first(records: Sequence[Record], paths: Sequence[str]) -> None:
    for record, path in zip(records, paths, strict=False):  # paths go on to the end of the source
        if record.verdict != OK:
            raise ConvworksError(
                "D140",
                f"cannot read '{shown(path)}': {record.verdict}",
                where=shown(path),
                why="--strict stops at the first unreadable image; without it the image is left out",
                try_="repair or remove the file, or leave out --strict",
            )


def _lies_inside(folder: Path, location: str) -> bool:
    root = Path(location)
    return root.is_dir() and folder.resolve().is_relative_to(root.resolve())


def picture_hash(shape: tuple[int, ...]) -> hashlib.blake2b:
    """A hash that has taken in the (H, W, C) of a picture, so that equal bytes of other shapes differ."""
    return hashlib.blake2b("x".join(map(str, shape)).encode(), digest_size=16)


class _Reader:
    """Turns a span of positions into records and fitted images; called from several threads."""

    def __init__(
        self,
        source: Source,
        *,
        indices: Sequence[int],
        geometry: Geometry,
        cached: Cached | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.halted = False
        self.chunk = self._chunk_of_files if source.array is None else self._chunk_of_array
        self._source, self._indices, self._geometry = source, indices, geometry
        self._cached, self._should_stop = cached, should_stop
        if cached is not None:  # position -> row of its image in the cache entry
            readable = [record.verdict == OK for record in cached.records]
            self._rows = np.concatenate([[0], np.cumsum(readable)])

    def _poll(self) -> None:
        if self.halted or (self._should_stop is not None and self._should_stop()):
            raise ScanInterrupted

    def _chunk_of_files(self, span: range) -> _Chunk:
        records, images, as_cached = [], [], self._cached is not None
        for position in span:
            self._poll()
            record, image = self._read(position)
            records.append(record)
            if image is not None:
                images.append(image)
            as_cached = as_cached and record is self._known(position)
        if self._cached is not None and as_cached:
            block = self._cached.images[self._rows[span.start] : self._rows[span.stop]]
        else:
            block = np.empty((len(images), *self._geometry.stored_shape), dtype=np.uint8)
            for row, image in enumerate(images):
                block[row] = image
        return _Chunk(records=records, images=block, as_cached=as_cached)

    def _known(self, position: int) -> Record | None:
        return None if self._cached is None else self._cached.records[position]

    def _read(self, position: int) -> tuple[Record, NDArray[np.uint8] | None]:
        """Record and fitted image of one file; those of the cache entry where the bytes agree."""
        index, known = self._indices[position], self._known(position)
        try:
            content = self._source.read(index)
        except (ConvworksError, OSError) as problem:
            record = _unreadable("", problem)
            return known if known == record and known is not None else record, None
        sha256 = hashlib.sha256(content).hexdigest()
        if known is not None and self._cached is not None and known.sha256 == sha256:
            row = self._rows[position]
            return known, self._cached.images[row] if known.verdict == OK else None
        try:
            decoded = decode(content, name=self._source.entries[index].path)
        except UnreadableImage as problem:
            return _unreadable(sha256, problem), None
        pixels = decoded.pixels
        picture = picture_hash(pixels.shape)
        picture.update(np.ascontiguousarray(pixels).data)
        H, W, C = pixels.shape
        record = Record(sha256, OK, picture.hexdigest(), H, W, C, decoded.notes)
        same = pixels.shape == self._geometry.stored_shape
        return record, pixels if same else self._geometry.fitted(pixels)

    def _chunk_of_array(self, span: range) -> _Chunk:
        self._poll()
        assert self._source.array is not None
        taken = np.asarray(self._indices[span.start : span.stop])
        array = np.ascontiguousarray(self._source.array[taken])  # (n, h, w, c)
        n, h, w, c = array.shape
        size, content, empty = h * w * c, array.reshape(-1).data, picture_hash((h, w, c))
        images = [content[i * size : (i + 1) * size] for i in range(n)]

        def hash_picture(image: memoryview) -> str:
            picture = empty.copy()
            picture.update(image)
            return picture.hexdigest()

        files = [hashlib.sha256(image).hexdigest() for image in images]
        rest = (repeat(h), repeat(w), repeat(c), repeat(()))
        columns = zip(files, repeat(OK), map(hash_picture, images), *rest, strict=False)
        records = list(map(Record._make, columns))  # a sixth faster than one by one
        return _Chunk(records=records, images=fitted_batch(array, self._geometry), as_cached=False)


def _is_placed(shape: tuple[int, ...], geometry: Geometry) -> bool:
    """Whether an image (h, w, c) is stored as it is, at most with a border and with its grey repeated."""
    h, w, c = shape
    H, W, C = geometry.stored_shape
    return c <= C and ((h, w) == (H, W) or (geometry.fit == "pad" and h <= H and w <= W))


def fitted_batch(array: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """`geometry.fitted` of (N, h, w, c); in one step where images are only placed on a canvas."""
    if _is_placed(array.shape[1:], geometry):
        canvas = np.full((len(array), *geometry.stored_shape), geometry.fill, dtype=np.uint8)
        centre_crop(canvas, array.shape[1], array.shape[2])[...] = array  # grey becomes colour by repetition
        return canvas
    return np.stack([geometry.fitted(pixels) for pixels in array])


def _unreadable(sha256: str, problem: Exception) -> Record:
    """Raises `problem` again where it is not about one file: only D110-D139 are."""
    if isinstance(problem, OSError):
        reason = (problem.strerror or str(problem)).lower()
    elif isinstance(problem, ConvworksError) and "D110" <= problem.code <= "D139":
        reason = getattr(problem, "reason", problem.what)
    else:
        raise problem
    return Record(sha256, str(reason), "", 0, 0, 0, ())


class _Assembly:
    """Puts chunks together. If all is as cached, nothing is copied: the entry itself is the result."""

    def __init__(
        self,
        source: Source,
        *,
        count: int,
        geometry: Geometry,
        entries: PixelCache | None,
        cached: Cached | None,
    ) -> None:
        self.records: list[Record] = []
        self._keep = source.encoded  # arrays are ready as they are: they are not worth a cache entry
        self._count, self._shape = count, geometry.stored_shape
        self._entries, self._cached = entries, cached
        self._writer: Writer | None = None
        self._images = 0

    @property
    def notices(self) -> list[str]:
        return [] if self._writer is None else self._writer.notices

    @property
    def mapped(self) -> bool:
        return self._cached is not None if self._writer is None else not self._writer.in_memory

    def add(self, chunk: _Chunk, *, ram_limit: int | None) -> None:
        if self._writer is None and not chunk.as_cached:
            self._writer = open_writer(
                capacity=self._count,
                shape=self._shape,
                cache=self._entries,
                keep=self._keep,
                ram_limit=ram_limit,
            )
            if self._cached is not None and self._images:
                self._writer.append(self._cached.images[: self._images])
        if self._writer is not None:
            self._writer.append(chunk.images)
        self.records += chunk.records
        self._images += len(chunk.images)

    def finish(self) -> NDArray[np.uint8]:
        if self._writer is not None:
            return self._writer.finish(self.records if self._keep else None)
        if self._cached is not None:
            return self._cached.images
        return np.empty((0, *self._shape), dtype=np.uint8)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
