"""A folder with photographs, and a command run in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convworks.cli import main

CLASSES = ("daisy", "rose")


@dataclass(frozen=True)
class Ran:
    """What a command left on the screen."""

    status: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Ran:
    """`convworks WORDS` in this process, in the current folder."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return Ran(status, out, err)


def draw(path: Path, *, seed: int = 0, side: int = 12) -> None:
    """A small grey image whose brighter half tells its class."""
    pixels = np.random.default_rng(seed).integers(0, 60, (side, side), dtype=np.uint8)
    half = slice(0, side // 2) if path.parent.name == CLASSES[0] else slice(side // 2, side)
    pixels[half] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photos(folder: Path, *, each: int = 12) -> Path:
    """A folder with one folder of images for each class."""
    for number, name in enumerate(CLASSES):
        for index in range(each):
            draw(folder / name / f"{index}.png", seed=100 * number + index)
    return folder
