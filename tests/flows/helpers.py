"""Small data and short trainings, shared by the tests of the flows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convworks.flows.events import Event, Will
from convworks.flows.prepare import DataRequest
from convworks.flows.train import ResumeRequest, TrainRequest, resume, train
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import resolve

QUICK: dict[str, Any] = {
    "model": "tutorial_cnn",
    "size": 28,
    "epochs": 2,
    "batch": 16,
    "precision": "fp32",
    "memory_format": "contiguous",
    "threads": 1,
    "workers": 0,
    "device": "cpu",
    "optimizer.lr": 0.02,
    "augment.shift": 1,
    "ema": 0.9,
    "checkpoint_every": 3,
}


def write_images(
    folder: Path, *, classes: tuple[str, ...] = ("blue", "green", "red"), each: int = 20
) -> Path:
    """PNG files of 12x12 noise with a coloured square: one folder for each class."""
    generator = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            pixels = generator.integers(0, 120, (12, 12, 3), dtype=np.uint8)
            pixels[3:9, 3:9, 2 - k % 3] += 100
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def request(
    work: Path,
    data: Path | str,
    *,
    name: str | None = "run",
    fresh: bool = False,
    rescue: Path | None = None,
    **changes: Any,
) -> TrainRequest:
    resolved = resolve(base=Recipe(), base_name="quick", flags={**QUICK, **changes})
    return TrainRequest(
        data=DataRequest(location=str(data), cache=work / "cache"),
        resolved=resolved,
        out=work / "runs",
        name=name,
        fresh=fresh,
        rescue=rescue,
        command=("convworks", "train", str(data)),
    )


def run_all(events: Iterator[Event]) -> list[Event]:
    return list(events)


def train_all(work: Path, data: Path | str, **changes: Any) -> list[Event]:
    return run_all(train(request(work, data, **changes)))


class StopAfter:
    """Asks to stop at the n-th question, counted from the moment when it is armed."""

    def __init__(self, asked: int, *, armed: bool) -> None:
        self.left, self.armed = asked, armed

    def __call__(self) -> bool:
        self.left -= self.armed
        return self.left <= 0


def train_until(
    work: Path, data: Path | str, asked: int, *, scanning: bool = False, **changes: Any
) -> list[Event]:
    """Train and be stopped at the n-th question: of the training, or of the reading of the data before it."""
    stop = StopAfter(asked, armed=scanning)
    events = []
    for event in train(request(work, data, **changes), should_stop=stop):
        events.append(event)
        stop.armed = stop.armed or isinstance(event, Will)
    return events


def resume_all(work: Path, name: str = "run", **options: Any) -> list[Event]:
    return run_all(resume(ResumeRequest(run=work / "runs" / name, cache=work / "cache", **options)))


def fingerprint(work: Path, name: str = "run") -> dict[str, str]:
    """sha256 of all that a resumed run must have in common with an uninterrupted one."""
    run = work / "runs" / name
    last = max(p for p in (run / "checkpoints").glob("step-*") if p.suffix != ".broken")
    files = [*sorted(last.iterdir()), run / "metrics.jsonl", *sorted((run / "evaluation").iterdir())]
    files += [run / "model" / "weights.safetensors", run / "model" / "preprocess.safetensors"]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
