"""The images that were answered wrongly, worst first, and small copies of them for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convworks.data.manifest import Manifest
from convworks.evaluation.metrics import predict
from convworks.report.read import Evaluation

if TYPE_CHECKING:
    from PIL import Image

Thumbnail = Callable[[str], NDArray[np.uint8] | None]

SIDE = 176  # pixels of the longer side at the most
LOSSLESS = 96  # a picture this small is kept as it is
QUALITY = 85


@dataclass(frozen=True, slots=True)
class Picture:
    """A small copy, encoded anew from pixels: no metadata of the file can be in it."""

    uri: str
    width: int
    height: int
    pixelated: bool  # so small that it is shown enlarged


@dataclass(frozen=True, slots=True)
class Mistake:
    path: str  # as in the manifest
    true: int
    answer: int
    probability: float  # of the answer
    true_probability: float
    anchor: str  # id of the first mistake of its cell, else ""
    picture: Picture | None = None
    heats: tuple[Picture | None, ...] = ()  # for the answer and the true class; None: nothing speaks for it


@dataclass(frozen=True, slots=True, eq=False)
class Augmented:
    """A training image as the network saw it in one epoch."""

    path: str
    title: str  # its label, or the two that are mixed
    changes: tuple[str, ...]  # what was drawn for it
    pixels: NDArray[np.uint8]  # (H, W, 1 or 3)


def mistakes(
    evaluation: Evaluation,
    manifest: Manifest | None,
    *,
    most: int,
    pictures: int,
    thumbnail: Thumbnail | None,
) -> list[Mistake]:
    """At most `most` wrong answers, the least probable true class first; the first `pictures` with pictures.

    Empty where the answers were not kept. Equally bad ones come in the order of the data.
    """
    probabilities, labels, rows = evaluation.probabilities, evaluation.labels, evaluation.rows
    if probabilities is None or labels is None or rows is None:
        return []
    answers = predict(probabilities)
    wrong = np.flatnonzero(answers != labels)
    order = wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")][:most]
    found: list[Mistake] = []
    cells: set[tuple[int, int]] = set()
    for place, index in enumerate(order):
        true, answer, row = int(labels[index]), int(answers[index]), int(rows[index])
        path = manifest.samples[row].path if manifest else f"image {row}"
        wanted = thumbnail is not None and manifest is not None and place < pictures
        found.append(
            Mistake(
                path=path,
                true=true,
                answer=answer,
                probability=float(probabilities[index, answer]),
                true_probability=float(probabilities[index, true]),
                anchor="" if (true, answer) in cells else f"cell-{true}-{answer}",
                picture=small_copy(thumbnail(path)) if wanted and thumbnail else None,
            )
        )
        cells.add((true, answer))
    return found


def small_copy(pixels: NDArray[np.uint8] | None) -> Picture | None:
    """(H, W, 1 or 3) pixels as a data URI: PNG for small pictures, JPEG of at most SIDE pixels for others.

    Raises ValueError for another shape or type.
    """
    from PIL import Image

    if pixels is None:
        return None
    if pixels.ndim != 3 or pixels.shape[2] not in {1, 3} or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"a thumbnail is uint8 (H, W, 1 or 3), not {pixels.dtype} {pixels.shape}")
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    small = max(image.size) <= LOSSLESS
    if not small:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return encoded(image, lossless=small)


def encoded(image: Image.Image, *, lossless: bool, quality: int = QUALITY) -> Picture:
    """An image as a data URI: PNG, shown with its pixels to be seen, or JPEG."""
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    kind = "png" if lossless else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, image.width, image.height, pixelated=lossless)
