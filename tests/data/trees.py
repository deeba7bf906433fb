"""Small folders and archives for the tests of sources."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convworks.data.sources import Source, open_source
from convworks.errors import ConvworksError


def picture(seed: int = 0, *, size: tuple[int, int] = (6, 5), form: str = "PNG") -> bytes:
    """The bytes of a small random image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


PNG = picture()


def plant(root: Path, paths: Iterable[str], *, content: bytes = PNG) -> Path:
    """Make files below a folder; a path that ends in a slash becomes an empty folder."""
    root.mkdir(parents=True, exist_ok=True)
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    return root


def zipped(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: dict[str, bytes], *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


FILES = {f"{c}/{i}.png": picture(i) for c in ("cat", "dog") for i in (1, 2, 10)}


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says."""
    if path.suffix == ".zip":
        return zipped(path, files)
    packing = {".tar": "w", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w:gz")
    return tarred(path, files, mode=packing)


def opened(location: Path | str, **options: object) -> Source:
    """open_source with a cache that must not be needed."""
    cache = Path("no-cache-is-needed-here")
    return open_source(location, **{"cache": cache, **options})  # type: ignore[arg-type]


def failure(location: Path | str, code: str, **options: object) -> ConvworksError:
    """The error that opening raises; it must have this code and one command to try."""
    with pytest.raises(ConvworksError) as caught:
        opened(location, **options)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.try_
    assert "\n" not in caught.value.what
    return caught.value


def rows(source: Source) -> list[tuple[str, str | None, str | None]]:
    return [(entry.path, entry.label, entry.split) for entry in source.entries]


def left_out(source: Source) -> dict[str, str]:
    return {item.path: item.reason for item in source.ignored}
