"""From the pixels of one decoded image to the numbers a network sees.

Two values, both frozen and both stored with the model, so that training, evaluation, prediction, export and
serving share them:

- `Geometry`: how an image of any size becomes the stored size, and which part of that the network sees;
- `Preprocess`: the geometry and the normalisation x = (u8 / 255 - mean) / std, fitted on training images.

Torch is imported inside the functions that need it: a bundle can be read and checked without it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from convworks.durable import read_json, to_json, write_atomic
from convworks.errors import ConvworksError, unknown_name

if TYPE_CHECKING:
    import torch

Fit = Literal["crop", "squash", "pad"]
Normalize = Literal["per-channel", "mean-image", "per-feature", "none"]
Constants = tuple[NDArray[np.float32], NDArray[np.float32]]

FORMAT = 1
LONGEST_SIDE = 8192  # pixels; a larger network input is a mistake, or a file made to exhaust memory
PANORAMA = 4  # an image this many times longer than the crop is cut before it is resized
BLOCK = 2**16  # values; a block of this size stays in the cache for its passes
SERIAL = 2**15 - 1  # values; torch runs an element-wise operator of this size in the calling thread
SUM_ROWS = 256  # 256 * 255**2 < 2**24: sums of so many squared bytes are exact in float32
SUM_VALUES = 2**22


@dataclass(frozen=True, slots=True)
class Geometry:
    """The size of the network input, the size of the stored image, and how to get there.

    `fit` is the policy for an image that is not of the stored size:

    - "crop": the image is resized until it just covers the stored size, then its centre is cut out. For a
      square store this is "shorter side to S, centre crop" (AlexNet, Section 2): 640x480 gives 341x256, then
      256x256. The longer side is rounded down. A side of more than four times the crop is first cut to that.
    - "squash": resized to the stored size; the aspect ratio changes.
    - "pad": shrunk if it is larger, never enlarged, then centred on a canvas of grey level `fill`; an odd
      remainder goes to the bottom and to the right.

    The network sees the centre of the stored image at evaluation, and a random part of it in training
    (see augment.py). Raises ConvworksError U175 for a value that makes no sense.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    fit: Fit
    stored_height: int
    stored_width: int
    fill: int = 0

    def __post_init__(self) -> None:
        sides: Container[int] = range(1, LONGEST_SIDE + 1)
        for name in ("height", "width", "stored_height", "stored_width"):
            _require(name, getattr(self, name), sides, f"a whole number from 1 to {LONGEST_SIDE}")
        for name in ("height", "width"):
            side, stored = getattr(self, name), getattr(self, f"stored_{name}")
            _require(f"stored_{name}", stored, range(side, LONGEST_SIDE + 1), f"at least the {name}, {side}")
        _require("channels", self.channels, (1, 3), "1 (grey) or 3 (colour)")
        _require("fill", self.fill, range(256), "a grey level from 0 to 255")
        if self.fit not in get_args(Fit):
            raise unknown_name("fit", str(self.fit), get_args(Fit))

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """(Hs, Ws, C)"""
        return (self.stored_height, self.stored_width, self.channels)

    def fitted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 1 or 3) of any size -> (Hs, Ws, C), contiguous.

        The pixels of an image that has the stored size and channels already are not even copied. Colour
        becomes grey by the luma of ITU-R BT.601, grey becomes colour by repetition. Safe to call from
        several threads.
        """
        channels = pixels.shape[2]
        if 0 in pixels.shape or channels not in (1, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"an image must be uint8 (H, W, 1 or 3), got {pixels.dtype} {pixels.shape}")
        if channels == 3 and self.channels == 1:
            pixels = luma(pixels)
        if self.fit == "squash":
            pixels = resized(pixels, self.stored_height, self.stored_width)
        else:
            pixels = self._covered(pixels) if self.fit == "crop" else self._padded(pixels)
        if channels == 1 and self.channels == 3:
            pixels = np.repeat(pixels, 3, axis=2)
        return np.ascontiguousarray(pixels)

    def _covered(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        H, W = self.stored_height, self.stored_width
        # An image of 1x10,000 would be 256x2,560,000 on the way to 256x256.
        h, w = pixels.shape[:2]
        pixels = centre_crop(pixels, min(h, -(-PANORAMA * H * w // W)), min(w, -(-PANORAMA * W * h // H)))
        h, w = pixels.shape[:2]
        size = (H, w * H // h) if w * H >= h * W else (h * W // w, W)
        return centre_crop(resized(pixels, *size), H, W)

    def _padded(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        H, W = self.stored_height, self.stored_width
        h, w = pixels.shape[:2]
        if h > H or w > W:  # the smaller of the factors H / h and W / w, to the nearest pixel
            h, w = (H, (2 * w * H + h) // (2 * h)) if w * H <= h * W else ((2 * h * W + w) // (2 * w), W)
            pixels = resized(pixels, max(1, h), max(1, w))
        h, w = pixels.shape[:2]
        if (h, w) == (H, W):
            return pixels
        canvas = np.full((H, W, pixels.shape[2]), self.fill, dtype=np.uint8)
        centre_crop(canvas, h, w)[...] = pixels
        return canvas


def _require(name: str, value: object, allowed: Container[int], wanted: str) -> None:
    if type(value) is not int or value not in allowed:
        what = f"the image geometry cannot be used: {name} is {value!r}"
        raise ConvworksError("U175", what, why=f"it must be {wanted}")


def centre_crop(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A view of the middle of (..., H, W, C); of an odd remainder the larger half is cut below and right."""
    top, left = (pixels.shape[-3] - height) // 2, (pixels.shape[-2] - width) // 2
    return pixels[..., top : top + height, left : left + width, :]


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) -> (H, W, 1): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded as Pillow's "L" is."""
    from PIL import Image

    return np.array(Image.fromarray(pixels).convert("L"))[..., None]


def resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, C) -> (height, width, C), bilinear; antialiased where it gets smaller."""
    if pixels.shape[:2] == (height, width):
        return pixels
    import torch
    from torch.nn import functional as F

    pixels = np.require(pixels, requirements=["C", "W"])  # torch warns of an array that is read-only
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # (1, C, H, W), channels_last
    result = F.interpolate(image, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(result[0].permute(1, 2, 0).numpy())


@dataclass(frozen=True, eq=False)
class Preprocess:
    """Bytes to network input: x = (u8 / 255 - mean) / std, at the size of the network input.

    `mean` and `std` are float32, both (C, 1, 1) or both (C, H, W), in units of u8 / 255:

    - "per-channel": mean and standard deviation of each channel (VGG subtracts the mean only);
    - "mean-image": the mean image is subtracted and std is 1 (AlexNet, Section 2);
    - "per-feature": every value (c, y, x) is standardised; where it never varies, std is 1;
    - "none": x = u8 / 255.

    Raises ConvworksError A432 where the arrays do not fit the geometry or hold values that cannot be used.
    """

    geometry: Geometry
    normalize: Normalize
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __post_init__(self) -> None:
        g = self.geometry
        if self.normalize not in get_args(Normalize):
            raise unknown_name("normalisation", str(self.normalize), get_args(Normalize))
        whole = self.normalize in ("mean-image", "per-feature")
        shape = (g.channels, g.height, g.width) if whole else (g.channels, 1, 1)
        for name, array, low, high in (("mean", self.mean, -1e6, 1e6), ("std", self.std, 1e-12, 1e6)):
            if array.dtype != np.float32 or array.shape != shape:
                problem = f"is {array.dtype} {array.shape}, not float32 {shape}"
            elif not ((array >= low) & (array <= high)).all():  # false for NaN
                problem = f"has values that are not between {low:g} and {high:g}"
            else:
                continue
            raise ConvworksError("A432", f"the {name} of the {self.normalize} normalisation {problem}")

    @classmethod
    def fit(
        cls, images: torch.Tensor, rows: NDArray[np.int64], *, geometry: Geometry, normalize: Normalize
    ) -> Self:
        """Measure mean and std over `rows` (the training rows) of uint8 (N, Hs, Ws, C).

        Only the centre crop that evaluation sees is measured. Sums are exact integers, so the result depends
        neither on the order of the rows nor on the chunks. std is that of the population (divided by n);
        where it is zero it becomes 1. Raises ConvworksError D158 where there is no row.
        """
        channels, size = geometry.channels, (geometry.height, geometry.width)
        if normalize == "none":
            zero = np.zeros((channels, 1, 1), dtype=np.float32)
            return cls(geometry=geometry, normalize=normalize, mean=zero, std=zero + 1)
        if len(rows) == 0:
            raise ConvworksError(
                "D158",
                "there is no training image to measure the mean and the standard deviation of",
                why="the normalisation is fitted on the training split only",
                try_="convworks check DATA",
            )
        total, squares = _sums(images.numpy(), rows, *size)  # (H, W, C) each, Python integers
        count = len(rows)
        if normalize == "per-channel":
            total, squares = total.sum(axis=(0, 1), keepdims=True), squares.sum(axis=(0, 1), keepdims=True)
            count *= size[0] * size[1]
        mean = (total / (255 * count)).astype(np.float64)
        variance = (squares * count - total * total).astype(np.float64)  # of count * u8, exact until here
        std = np.where(variance > 0, np.sqrt(variance) / (255 * count), 1.0)
        if normalize == "mean-image":
            std = np.ones_like(mean)
        mean, std = (np.ascontiguousarray(a.transpose(2, 0, 1), dtype=np.float32) for a in (mean, std))
        return cls(geometry=geometry, normalize=normalize, mean=mean, std=std)

    @cached_property
    def _constants(self) -> dict[bool, Constants]:
        """255 * mean and 1 / (255 * std), flattened as (H, W, C) for True and as (C, H, W) for False."""
        shape = (self.geometry.channels, self.geometry.height, self.geometry.width)
        offset = (255.0 * self.mean.astype(np.float64)).astype(np.float32)
        gain = (1.0 / (255.0 * self.std.astype(np.float64))).astype(np.float32)
        offset, gain = np.broadcast_to(offset, shape), np.broadcast_to(gain, shape)
        interleaved = (offset.transpose(1, 2, 0).ravel(), gain.transpose(1, 2, 0).ravel())
        return {True: interleaved, False: (offset.ravel(), gain.ravel())}

    def to_input(
        self,
        batch: torch.Tensor,
        *,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        device: torch.device | str,
    ) -> torch.Tensor:
        """uint8 (B, Hs, Ws, C) or (B, H, W, C) on the CPU -> (B, C, H, W) of `dtype`.

        A stored size that is larger than the network input is cut to its centre. The arithmetic is one
        float32 subtraction and one float32 multiplication for each value, in the calling thread: the bits of
        a sample depend on nothing but its bytes.
        """
        import torch

        g = self.geometry
        height, width, channels = batch.shape[1:]
        stored = (height, width) == (g.stored_height, g.stored_width)
        if channels != g.channels or not (stored or (height, width) == (g.height, g.width)):
            raise ValueError(f"a batch of {tuple(batch.shape)} does not have the size of {g}")
        if memory_format not in (torch.channels_last, torch.contiguous_format):
            raise ValueError(f"memory_format must be channels_last or contiguous_format, got {memory_format}")
        interleaved = memory_format == torch.channels_last
        pixels = centre_crop(batch.numpy(), g.height, g.width)
        pixels = pixels if interleaved else pixels.transpose(0, 3, 1, 2)
        x = _standardised(pixels, self._constants[interleaved], dtype).view(pixels.shape)
        x = x.permute(0, 3, 1, 2) if interleaved else x
        return x.to(device)

    def to_dict(self) -> dict[str, Any]:
        """The part that is JSON; `mean` and `std` go into a file of their own."""
        return {"format": FORMAT, "geometry": asdict(self.geometry), "normalize": self.normalize}

    def save(self, folder: Path) -> None:
        """Write preprocess.json and preprocess.safetensors into an existing folder."""
        from safetensors.numpy import save

        write_atomic(folder / "preprocess.safetensors", save({"mean": self.mean, "std": self.std}))
        write_atomic(folder / "preprocess.json", to_json(self.to_dict()))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises ConvworksError A401 (not JSON), A430 (JSON of another content), A431 (not safetensors) or A432
        (arrays that do not fit).
        """
        geometry, normalize = _read_description(folder / "preprocess.json")
        arrays = _read_arrays(folder / "preprocess.safetensors", geometry)
        return cls(geometry=geometry, normalize=normalize, mean=arrays["mean"], std=arrays["std"])


def _sums(
    images: NDArray[np.uint8], rows: NDArray[np.int64], height: int, width: int
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Sum and sum of squares over rows of each value of the centre crop: (H, W, C) of Python integers."""
    shape = (height, width, images.shape[3])
    total, squares = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    step = max(1, min(SUM_ROWS, SUM_VALUES // (height * width * images.shape[3])))
    for start in range(0, len(rows), step):
        chunk = centre_crop(np.take(images, rows[start : start + step], axis=0), height, width)
        values = chunk.astype(np.float32)
        total += values.sum(axis=0).astype(np.int64)
        squares += np.square(values, out=values).sum(axis=0).astype(np.int64)
    return total.astype(object), squares.astype(object)


def blocks(count: int, size: int) -> Iterator[slice]:
    """range(count) in slices of `size`; the last may be shorter."""
    return (slice(i, i + size) for i in range(0, count, size))


def _standardised(pixels: NDArray[np.uint8], constants: Constants, dtype: torch.dtype) -> torch.Tensor:
    """(B, ...) bytes -> (B, D) numbers; no thread but the calling one takes part."""
    import torch

    offset, gain = constants
    x = np.empty((len(pixels), offset.size), dtype=np.float32)
    shaped = x.reshape(pixels.shape)
    for rows in blocks(len(x), max(1, BLOCK // offset.size)):
        shaped[rows] = pixels[rows]
        x[rows] -= offset
        x[rows] *= gain
    exact = torch.from_numpy(x)
    if dtype == torch.float32:
        return exact
    result = torch.empty(exact.shape, dtype=dtype)
    source, target = exact.view(-1), result.view(-1)
    for part in blocks(x.size, SERIAL):
        target[part].copy_(source[part])
    return result


def _read_description(path: Path) -> tuple[Geometry, Normalize]:
    content = read_json(path, cap=2**16)
    names = {field.name for field in fields(Geometry)}
    try:
        if not isinstance(content, Mapping) or set(content) != {"format", "geometry", "normalize"}:
            raise ValueError("the keys must be format, geometry and normalize")
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r} is not known, only {FORMAT}")
        if not isinstance(content["geometry"], Mapping) or set(content["geometry"]) != names:
            raise ValueError(f"geometry must have the keys {', '.join(sorted(names))}")
        if content["normalize"] not in get_args(Normalize):
            raise ValueError(f"normalize is {content['normalize']!r}")
        return Geometry(**content["geometry"]), content["normalize"]
    except (ValueError, ConvworksError) as problem:
        what = problem.what if isinstance(problem, ConvworksError) else str(problem)
        raise ConvworksError("A430", f"{path.name} is not usable: {what}", where=str(path)) from problem


def _read_arrays(path: Path, geometry: Geometry) -> dict[str, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    cap = 2 * 4 * geometry.channels * geometry.height * geometry.width + 2**16
    try:
        size = path.stat().st_size
        if size > cap:
            raise ValueError(f"it has {size:,} bytes, more than the limit of {cap:,}")
        arrays: dict[str, NDArray[np.float32]] = load(path.read_bytes())
        if set(arrays) != {"mean", "std"}:
            raise ValueError(f"it holds {', '.join(sorted(arrays)) or 'nothing'}, not mean and std")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as problem:
        raise ConvworksError("A431", f"cannot read {path.name}: {problem}", where=str(path)) from problem
    return arrays
