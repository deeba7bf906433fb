"""Groups of short trainings, shared by the tests of several models."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from convworks.flows.events import Event
from convworks.flows.repeat import Repeated, RepeatRequest, repeat
from tests.flows.helpers import request

Value = TypeVar("Value")


def outcome(events: Generator[Event, None, Value]) -> tuple[list[Event], Value]:
    """All events, and what the generator returns."""
    found = []
    while True:
        try:
            found.append(next(events))
        except StopIteration as end:
            return found, end.value


def train_group(work: Path, data: Path, kind: Any, count: int = 3, **changes: Any) -> Repeated:
    base = request(work, data, name=changes.pop("name", f"{kind}"), **changes)
    _, found = outcome(repeat(RepeatRequest(base=base, kind=kind, count=count)))
    assert found is not None
    return found


def noisy(folder: Path, *, each: int = 40, test: int = 0, seed: int = 0) -> Path:
    """PNG files of 12x12 noise with a faint coloured square: hard enough that models err differently."""
    generator = np.random.default_rng(seed)
    for split, number in (("train", each), ("test", test)) if test else (("", each),):
        for k, name in enumerate(("blue", "green", "red")):
            place = folder / split / name if split else folder / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                pixels = generator.integers(0, 180, (12, 12, 3), dtype=np.uint8)
                pixels[3:9, 3:9, 2 - k] += 60
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder
