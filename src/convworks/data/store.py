"""The pixel store: fitted images in memory or in a file, as the machine allows.

A failing disk never fails a run that has the memory to go on without it: it costs a notice.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convworks import randomness
from convworks.data.cache import Draft, PixelCache, Record
from convworks.data.decode import decode
from convworks.data.sources import Source
from convworks.errors import ConvworksError

MOST_MEMORY = 4 * 2**30  # bytes
PROBE_BYTES = 64 * 2**20  # of files; some sixteen photographs of twelve megapixels


class ScanInterrupted(Exception):  # noqa: N818  # not an error: the user asked for it
    """`should_stop` said yes. Nothing half-made is left that a later run would trust."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What some images of a source look like; sizes are (height, width)."""

    channels: Literal[1, 3]
    size: tuple[int, int] | None  # where all have one size
    median_size: tuple[int, int]


def probe(source: Source, *, count: int = 256) -> Probe:
    """Decode up to `count` images, drawn at random but always the same ones; 64 MiB of files are enough.

    Raises D144 where none of them can be read.
    """
    if source.array is not None:
        h, w, c = source.array.shape[1:]
        return Probe(channels=1 if c == 1 else 3, size=(h, w), median_size=(h, w))
    shapes: list[tuple[int, ...]] = []
    read = 0
    for index in randomness.permutation(0, "probe", 0, len(source.entries))[:count]:
        with contextlib.suppress(ConvworksError, OSError):
            content = source.read(int(index))
            read += len(content)
            shapes.append(decode(content).pixels.shape)
        if read > PROBE_BYTES:
            break
    if not shapes:
        raise ConvworksError(
            "D144",
            f"no image of {source.location} can be read",
            where=f"{len(source.entries)} files were found, {source.layout}",
            try_=f"convworks check {shlex.quote(source.location)}",
        )
    heights, widths, channels = zip(*shapes, strict=True)
    return Probe(
        channels=3 if 3 in channels else 1,
        size=(heights[0], widths[0]) if len({*zip(heights, widths, strict=True)}) == 1 else None,
        median_size=(int(np.median(heights)), int(np.median(widths))),
    )


def available_memory() -> int:
    """Bytes that a process may still take: the machine's, or the container's where that is less."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        idle = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))  # file pages
        found.append(max(0, limit - used + idle))
    if not found:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return min(found)


def memory_limit(ram_limit: int | None) -> int:
    """Bytes of images to hold in memory: as given, or a quarter of what is free, at most 4 GiB."""
    return min(available_memory() // 4, MOST_MEMORY) if ram_limit is None else ram_limit


class Writer:
    """Takes fitted images in order and keeps them in memory, in a draft on disk, or in both."""

    def __init__(
        self,
        *,
        capacity: int,
        shape: tuple[int, int, int],
        draft: Draft | None,
        in_memory: bool,
        notice: str = "",
    ) -> None:
        self.notices = [notice] if notice else []
        self.in_memory = in_memory
        self._draft, self._count = draft, 0
        self._needed = capacity * int(np.prod(shape))
        self._images = np.empty((capacity, *shape), dtype=np.uint8) if in_memory else None

    def append(self, block: NDArray[np.uint8]) -> None:
        """Add (n, H, W, C). Raises R521 where the disk is the only place and it fails."""
        if self._images is not None:
            self._images[self._count : self._count + len(block)] = block
        self._count += len(block)
        if self._draft is not None:
            try:
                self._draft.append(block)
            except OSError as problem:
                self._lose_draft(self._draft, problem)

    def finish(self, records: Sequence[Record] | None) -> NDArray[np.uint8]:
        """(N, H, W, C) of all that was appended; it becomes a cache entry where `records` are given."""
        if self._draft is not None:
            try:
                if self._images is None:
                    self._images = self._draft.map()
                if records is not None:
                    self._draft.publish(records)
            except OSError as problem:
                self._lose_draft(self._draft, problem)
        self.close()
        assert self._images is not None
        return self._images[: self._count]

    def close(self) -> None:
        """Remove a draft that was not published."""
        if self._draft is not None:
            self._draft.close()
            self._draft = None

    def _lose_draft(self, draft: Draft, problem: OSError) -> None:
        self.close()
        if self._images is None:
            raise disk_failed(problem, draft.home, self._needed) from problem
        self.notices.append(_not_cached(problem, draft.home))


def open_writer(
    *, capacity: int, shape: tuple[int, int, int], cache: PixelCache | None, keep: bool, ram_limit: int | None
) -> Writer:
    """Decide where up to `capacity` images go: memory within the limit, else a file in the cache folder.

    `keep` asks for a cache entry in any case. Without a usable cache folder memory is taken beyond the limit,
    with a notice. Raises R521 (disk) and R522 (memory) where neither has room.
    """
    needed = capacity * int(np.prod(shape))
    in_memory = needed <= memory_limit(ram_limit)
    draft, notice = None, ""
    if cache is not None and (keep or not in_memory):
        try:
            draft = cache.start(needed=needed)
        except OSError as problem:
            if not in_memory and not _fits(needed):
                raise disk_failed(problem, cache.folder, needed) from problem
            notice = _not_cached(problem, cache.folder)
            in_memory = True
    elif not in_memory:
        if not _fits(needed):
            raise no_room(needed)
        notice = f"the images take {_size(needed)} of memory, since there is no cache folder"
        in_memory = True
    try:
        return Writer(capacity=capacity, shape=shape, draft=draft, in_memory=in_memory, notice=notice)
    except MemoryError as problem:
        if draft is not None:
            draft.close()
        raise no_room(needed) from problem


def _not_cached(problem: OSError, folder: Path) -> str:
    return f"the images are not cached in {folder}: {problem.strerror or problem}"


def disk_failed(problem: OSError, folder: Path, needed: int) -> ConvworksError:
    free = "unknown"
    with contextlib.suppress(OSError):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = _size(shutil.disk_usage(existing).free)
    return ConvworksError(
        "R521",
        f"cannot store the images in {folder}: {problem.strerror or problem}",
        where=f"{_size(needed)} are needed there, {free} are free",
        why="the images fitted to the network's input do not fit into memory, so they lie in a file",
        try_="--cache FOLDER on a disk with room, or a smaller --size",
    )


def no_room(needed: int) -> ConvworksError:
    return ConvworksError(
        "R522",
        f"the images need {_size(needed)} of memory and there is no cache folder to hold them",
        where=f"{_size(available_memory())} of memory are free",
        try_="--cache FOLDER on a disk with room, or a smaller --size",
    )


def _fits(needed: int) -> bool:
    return needed <= available_memory() * 3 // 4


def _size(count: int) -> str:
    return f"{count / 10**9:,.1f} GB" if count >= 10**8 else f"{count / 10**6:,.1f} MB"
