"""A source in memory, and small pictures to put into it."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convworks.data.decode import UnreadableImage
from convworks.data.preprocess import Geometry
from convworks.data.sources import Entry, Listing, Source, natural_key

GEOMETRY = Geometry(8, 8, 3, "crop", 8, 8)


def picture(seed: int, *, height: int = 8, width: int = 8, channels: int = 3) -> NDArray[np.uint8]:
    """(H, W, C) of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


class FakeSource(Source):
    """Files by path; labels are the first folder, or the second below train/, val/ and test/.

    `reads` counts what was read. A file whose content is None has vanished.
    """

    def __init__(
        self,
        files: Mapping[str, bytes | None],
        *,
        location: str = "photos",
        array: NDArray[np.uint8] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        entries = [self._entry(path, labels or {}) for path in files]
        classes = tuple(sorted({e.label for e in entries if e.label is not None}, key=natural_key))
        listing = Listing(layout="one folder per class", entries=tuple(entries), classes=classes)
        super().__init__(listing, location=location, name="photos", kind="folder", array=array)
        self.files, self.reads = dict(files), Counter[str]()
        self._lock = threading.Lock()

    @staticmethod
    def _entry(path: str, labels: Mapping[str, str]) -> Entry:
        first, *rest = path.split("/")
        if first in ("train", "val", "test"):
            return Entry(path, labels.get(path, rest[0]), first)  # type: ignore[arg-type]
        return Entry(path, labels.get(path, first), None)

    def read(self, index: int) -> bytes:
        path = self.entries[index].path
        with self._lock:
            self.reads[path] += 1
        if self.array is not None:
            return self.array[index].tobytes()
        content = self.files[path]
        if content is None:
            raise UnreadableImage("no such file", name=path)
        return content


def photos(
    counts: Mapping[str, int], *, prefix: Sequence[str] = ("",), height: int = 8, width: int = 8
) -> dict[str, bytes | None]:
    """`counts` different PNG pictures for each class, below each prefix such as "train/"."""
    files: dict[str, bytes | None] = {}
    for place in prefix:
        for label, count in counts.items():
            for number in range(count):
                pixels = picture(len(files), height=height, width=width)
                files[f"{place}{label}/{number:03d}.png"] = png(pixels)
    return files
