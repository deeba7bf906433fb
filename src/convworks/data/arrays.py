"""Data sets that are arrays of one image size: IDX (MNIST), CIFAR binary files, and .npz.

Every size is checked against the header before it is believed. Sources:
IDX: http://yann.lecun.com/exdb/mnist; CIFAR: https://www.cs.toronto.edu/~kriz/cifar.html, "binary version".
"""

from __future__ import annotations

import gzip
import io
import math
import posixpath
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convworks.data.container import ARRAY_LIMIT, Container
from convworks.data.layout import Found, check_classes, missing_in_splits
from convworks.data.sources import Entry, Ignored, Listing, Source, Split, natural_key, shown
from convworks.errors import ConvworksError

_IDX_NAME = re.compile(r"(?P<stem>.*?)(?P<what>images|labels)[-.]idx(?P<rank>\d)[-.]ubyte(?P<gz>\.gz)?", re.I)
_CIFAR_BATCH = re.compile(r"(data_batch_(?P<number>\d+)|(?P<name>train|test|test_batch))\.bin")


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one split: (N, H, W, C) with N labels."""

    name: str  # begins the paths of its entries: 'train/00007'
    split: Split | None
    images: NDArray[np.uint8]
    labels: Sequence[str]


class ArraySource(Source):
    """Images that lie in memory as one (N, H, W, C) array, read-only."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        location: str,
        name: str,
        kind: str,
        layout: str,
        ignored: Sequence[Ignored] = (),
        warnings: Sequence[str] = (),
        class_names: Sequence[str] = (),
    ) -> None:
        sizes = {part.images.shape[1:] for part in parts}
        if len(sizes) > 1:
            different = ", ".join("x".join(map(str, size)) for size in sorted(sizes))
            raise broken(location, f"its parts have images of different sizes: {different}")
        entries = []
        for part in parts:
            width = len(str(max(len(part.labels) - 1, 0)))
            entries += [
                Entry(f"{part.name}/{i:0{width}d}", label, part.split) for i, label in enumerate(part.labels)
            ]
        classes, about_names = check_classes(
            {*class_names, *(entry.label or "" for entry in entries)}, location=location, folders=False
        )
        array = parts[0].images if len(parts) == 1 else np.concatenate([part.images for part in parts])
        array.flags.writeable = False
        listing = Listing(
            layout=layout,
            entries=tuple(entries),
            classes=classes,
            ignored=tuple(ignored),
            warnings=(*warnings, *about_names, *missing_in_splits(entries)),
        )
        super().__init__(listing, location=location, name=name, kind=kind, array=array)

    def read(self, index: int) -> bytes:
        return self.pixels(index).tobytes()
