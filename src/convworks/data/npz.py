"""Images and labels in one .npz, under the names that Keras and MedMNIST give them. Never unpickled."""

from __future__ import annotations

import io
import math
import shlex
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from convworks.data.archive import Zip
from convworks.data.arrays import ArraySource, Part
from convworks.data.container import ARRAY_LIMIT
from convworks.data.sources import Ignored, Source, Split, shown
from convworks.errors import ConvworksError

# (images, labels) -> split; the plain names mean that there is no split
_PAIRS: dict[tuple[str, str], Split | None] = {
    ("x", "y"): None,
    ("images", "labels"): None,
    ("x_train", "y_train"): "train",
    ("x_val", "y_val"): "val",
    ("x_valid", "y_valid"): "val",
    ("x_test", "y_test"): "test",
    ("train_images", "train_labels"): "train",
    ("val_images", "val_labels"): "val",
    ("test_images", "test_labels"): "test",
}
_CHUNK = 4096  # images converted at a time


def open_npz(path: Path, *, location: str, name: str) -> Source:
    """Arrays called x and y, images and labels, x_train and y_train, ... ; class_names names the labels.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) of unsigned bytes, or floats from 0 to 1.
    Raises ConvworksError D108-D110 (the file as a zip) and D112.
    """
    arrays = _load(path)
    lowered = {key.lower(): key for key in arrays}
    class_names = _names(path, arrays[lowered["class_names"]]) if "class_names" in lowered else []
    parts: list[Part] = []
    used = {"class_names"}
    for (images, labels), split in _PAIRS.items():
        if images not in lowered and labels not in lowered:
            continue
        if images not in lowered or labels not in lowered:
            lacking = images if images not in lowered else labels
            raise _wrong(path, f"there is no array '{lacking}' (it has {', '.join(arrays)})")
        if any(part.split == split or split is None for part in parts):
            raise _wrong(path, f"the arrays {', '.join(arrays)} can be read in more than one way")
        used |= {images, labels}
        pixels = _images(path, lowered[images], arrays[lowered[images]])
        texts = _labels(path, lowered[labels], arrays[lowered[labels]], class_names)
        if len(pixels) != len(texts):
            raise _wrong(path, f"'{images}' has {len(pixels):,} images, '{labels}' {len(texts):,} labels")
        parts.append(Part(split or "images", split, pixels, texts))
    if not parts:
        raise _wrong(
            path, f"no arrays x and y, or images and labels, or x_train and y_train: {', '.join(arrays)}"
        )
    height, width, channels = parts[0].images.shape[1:]
    counts = ", ".join(f"{part.split} {len(part.labels):,}" for part in parts if part.split)
    return ArraySource(
        parts,
        location=location,
        name=name,
        kind="npz",
        layout=f"arrays, {height}x{width} {'grey' if channels == 1 else 'colour'}, {counts or 'no split'}",
        class_names=class_names,
        ignored=[Ignored(key, "an array of another name") for key in arrays if key.lower() not in used],
    )


def _wrong(path: Path, what: str, *, try_: str = "") -> ConvworksError:
    default = f"import numpy; print({{k: (v.dtype, v.shape) for k, v in numpy.load({str(path)!r}).items()}})"
    return ConvworksError(
        "D112",
        f"cannot use '{shown(path.name)}': {what}",
        where=shown(str(path)),
        why="images are (N, H, W) or (N, H, W, C) of uint8, or floats from 0 to 1, with one label for each",
        try_=try_ or f"python -c {shlex.quote(default)}",
    )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """Every .npy member. The archive is read as any other zip, so its limits and checksums hold here too."""
    arrays = {}
    archive = Zip(path)
    try:
        for member in archive.find().files:
            if member.endswith(".npy"):
                content = archive.read(member, limit=ARRAY_LIMIT)
                arrays[member.removesuffix(".npy")] = _parse(path, member, content)
    finally:
        archive.close()
    return arrays


def _parse(path: Path, member: str, content: bytes) -> NDArray[Any]:
    """One array in the .npy format, version 1 or 2; arrays of objects are pickled, so they are refused."""
    file = io.BytesIO(content)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        version = npy.read_magic(file)
        if version not in read_header:
            raise ValueError(f"version {version} of the format")
        shape, by_columns, dtype = read_header[version](file)
        if dtype.hasobject:
            raise ValueError("an array of Python objects is pickled, and opening one can run any code")
        if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
            raise ValueError(f"its header says {dtype} of shape {shape}, its bytes do not")
        flat = np.frombuffer(content, dtype, offset=file.tell())
        return flat.reshape(shape, order="F" if by_columns else "C")
    except (
        ValueError,
        TypeError,
        SyntaxError,
        OverflowError,
        RecursionError,
        tokenize.TokenError,
    ) as problem:
        what = f"'{shown(member)}' cannot be read: {shown(str(problem))}"
        raise _wrong(path, what, try_="convworks train digits") from problem


def _names(path: Path, array: NDArray[Any]) -> list[str]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise _wrong(path, f"'class_names' is {array.dtype} of shape {array.shape}, not a list of texts")
    names: list[str] = array.tolist()
    if len(set(names)) < len(names):
        raise _wrong(path, "'class_names' has a name twice")
    return names


def _images(path: Path, key: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """(N, H, W, C) of uint8."""
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4:
        last, first = array.shape[3] in (1, 3), array.shape[1] in (1, 3)
        if last and first:
            raise _wrong(path, f"the shape {array.shape} of '{key}' does not tell channels from rows")
        if first:
            array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise _wrong(path, f"'{key}' has the shape {array.shape}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise _wrong(path, f"'{key}' is {array.dtype}, not uint8")
    pixels = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _CHUNK):
        chunk = array[start : start + _CHUNK].astype(np.float64)
        if not (chunk.min() >= 0 and chunk.max() <= 1):  # also true of NaN
            raise _wrong(path, f"'{key}' has numbers from {chunk.min():.4g} to {chunk.max():.4g}, not 0 to 1")
        pixels[start : start + _CHUNK] = np.rint(chunk * 255)
    return pixels


def _labels(path: Path, key: str, array: NDArray[Any], class_names: Sequence[str]) -> list[str]:
    """N label names, from whole numbers or texts of shape (N,) or (N, 1)."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise _wrong(
            path, f"'{key}' is {array.dtype} of shape {array.shape}, not one whole number or text each"
        )
    if array.dtype.kind == "U":
        texts: list[str] = array.tolist()
        if "" in texts:
            raise _wrong(path, f"'{key}' has an empty label at {texts.index('')}")
        return texts
    if not class_names:
        return [str(number) for number in array.tolist()]
    if len(array) and not 0 <= array.min() <= array.max() < len(class_names):
        span = f"{array.min()} to {array.max()}"
        raise _wrong(path, f"'{key}' has labels from {span}, and there are {len(class_names)} class names")
    return [class_names[i] for i in array.tolist()]
