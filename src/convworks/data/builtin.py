"""Two data sets that need no file of the user and no network: `digits` (real) and `shapes` (generated).

digits: 1,797 scanned handwritten digits of 8x8 pixels, a copy of the UCI test set that scikit-learn carries
(Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998).
shapes: five classes of 400 images of 32x32 in colour, drawn here. Neither has a split.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convworks.data.arrays import ArraySource, Part
from convworks.data.sources import BUILTIN, Source
from convworks.errors import unknown_name
from convworks.randomness import words

SHAPES = ("circle", "cross", "ring", "square", "triangle")
SHAPES_PER_CLASS = 400
SIDE = 32  # pixels
_SAMPLES = 4  # each pixel is the mean of 4x4 samples
_AT_ONCE = 50  # pictures: their samples then stay in cache
_SEED = 1


def open_builtin(name: str) -> Source:
    """The built-in data set of that name. Raises ConvworksError U101 for an unknown one."""
    if name == "digits":
        images, numbers = _digits()
        parts = [Part("images", None, images, numbers.astype(str).tolist())]
        layout = "built in: 8x8 grey scans, no split"
        return ArraySource(parts, location=name, name=name, kind=name, layout=layout)
    if name == "shapes":
        parts = [
            Part(shape, None, draw_shapes(shape, np.arange(SHAPES_PER_CLASS)), [shape] * SHAPES_PER_CLASS)
            for shape in SHAPES
        ]
        layout = "built in: 32x32 generated pictures in colour, no split"
        return ArraySource(parts, location=name, name=name, kind=name, layout=layout)
    raise unknown_name("built-in data set", name, BUILTIN, try_="convworks train {near}")


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (1797, 8, 8, 1), their 0 to 16 scaled to 0 to 255, and the digits (1797,)."""
    spec = importlib.util.find_spec("sklearn")
    folder = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else ""
    file = Path(folder, "datasets", "data", "digits.csv.gz")
    if file.is_file():  # the import of sklearn.datasets takes a second, its file a hundredth of that
        text = gzip.decompress(file.read_bytes())
        table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float64)
        values, numbers = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        values, numbers = load_digits(return_X_y=True)
    images = np.rint(values.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return images, numbers.astype(np.int64)


def draw_shapes(shape: str, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(B, 32, 32, 3): pictures number `indices` of one shape.

    Place, size, rotation, both colours, a gradient and noise are drawn from counters, so a picture does not
    depend on the others. Only + - * / and whole numbers are used: the bits are the same on every machine.
    """
    draw = words(_SEED, f"shapes/{shape}", 0, indices, 16).astype(np.int64)  # (B, 16) of 32 bits
    unit = draw / 2.0**32
    cover = _coverage(shape, unit[:, :5])[..., None]  # (B, 32, 32, 1) samples of 16 inside the shape

    background = 40 + draw[:, 5:8] % 176  # (B, 3)
    shift = 50 + draw[:, 8:11] % 60  # each channel of the shape differs by 50 to 109, up or down
    sign = np.where(draw[:, 11:14] >= 2**31, 1, -1)
    sign = np.where(background + sign * shift > 255, -1, np.where(background + sign * shift < 0, 1, sign))
    colour = (background + sign * shift)[:, None, None, :]

    steps = np.arange(SIDE) - SIDE // 2  # the background runs from darker to lighter across the picture
    slope = (draw[:, 14:16] % 5 - 2)[:, None, None, :]
    ramp = (slope[..., :1] * steps[:, None, None] + slope[..., 1:] * steps[None, :, None]) // 4
    noise = words(_SEED, f"shapes/{shape}/noise", 0, indices, SIDE * SIDE).astype(np.int64)
    noise = noise.reshape(-1, SIDE, SIDE)[..., None] >> np.array(
        [0, 10, 20]
    )  # ten bits of the word for each channel
    noise = (noise & 1023) * 41 // 1024 - 20  # -20 to 20

    plain = background[:, None, None, :] + ramp
    total = _SAMPLES**2
    picture = (plain * (total - cover) + colour * cover) // total + noise
    pixels: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return pixels


def _coverage(shape: str, unit: NDArray[np.float64]) -> NDArray[np.int64]:
    """(B, 32, 32): how many of the 16 samples of a pixel lie inside; `unit` (B, 5) gives the pose."""
    if len(unit) > _AT_ONCE:
        return np.concatenate(
            [_coverage(shape, unit[i : i + _AT_ONCE]) for i in range(0, len(unit), _AT_ONCE)]
        )
    radius = 8 + 6 * unit[:, 0]  # pixels, of the circle around the shape
    room = SIDE - 2 * radius
    centre = radius[:, None] + unit[:, 1:3] * room[:, None]  # (B, 2): x, y; the shape lies inside the picture
    # a rotation by 2 atan(t), with t in [-1, 1): from -90 to 90 degrees without a sine
    t = 2 * unit[:, 3] - 1
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    flip = np.where(unit[:, 4] < 0.5, 1.0, -1.0)  # and half of them turned by 180 degrees

    points = (np.arange(SIDE * _SAMPLES) + 0.5) / _SAMPLES
    x = (points[None, None, :] - centre[:, 0, None, None]) / radius[:, None, None]  # (B, 1, 128)
    y = (points[None, :, None] - centre[:, 1, None, None]) / radius[:, None, None]  # (B, 128, 1)
    c, s = (flip * cosine)[:, None, None], (flip * sine)[:, None, None]
    inside = _inside(shape, c * x + s * y, c * y - s * x)  # (B, 128, 128)
    blocks = inside.reshape(-1, SIDE, _SAMPLES, SIDE, _SAMPLES)
    counts: NDArray[np.int64] = blocks.sum(axis=(2, 4), dtype=np.int64)
    return counts


def _inside(shape: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points lie in the shape of area 1.3, inside the unit circle: size does not tell the class."""
    if shape == "circle":
        return u * u + v * v <= 0.4138
    if shape == "ring":
        distance = u * u + v * v
        return (distance <= 0.8) & (distance >= 0.3862)
    if shape == "square":
        return (np.abs(u) <= 0.57) & (np.abs(v) <= 0.57)
    if shape == "cross":
        near, far = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
        return (near <= 0.2) & (far <= 0.9125)
    assert shape == "triangle"
    right, left = 0.5 * v + 0.8660254037844386 * u, 0.5 * v - 0.8660254037844386 * u  # sin 60 degrees
    return (v >= -0.5) & (right <= 0.5) & (left <= 0.5)
