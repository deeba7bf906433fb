"""A run folder as training leaves it behind, with generated images and numbers that look like a training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.special import softmax

from convworks.data.manifest import OK, Manifest, Sample
from convworks.data.sources import Ignored
from convworks.evaluation.metrics import measure
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe
from convworks.recipes.resolve import to_dict

FLOWERS = (
    "bluebell",
    "crocus",
    "daffodil",
    "daisy",
    "dandelion",
    "iris",
    "pansy",
    "rose",
    "sunflower",
    "tulip",
)
SIZES = (64, 60, 52, 80, 70, 44, 36, 58, 50, 18)  # images of each class in training
STEPS = 12  # of an epoch


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def fake_manifest(classes: Sequence[str] = FLOWERS, *, sizes: Sequence[int] = SIZES) -> Manifest:
    """Training images of the given sizes and a quarter as many for validation, some odd ones among them."""
    samples = []
    for name, size in zip(classes, sizes, strict=True):
        for i in range(size + max(1, size // 4)):
            path, split = f"{name}/IMG_{i:04d}.jpg", "train" if i < size else "val"
            notes = ("exif-rotated",) if i % 7 == 0 else ("cmyk",) if i % 41 == 40 else ()
            samples.append(
                Sample(path, name, split, digest(path), OK, digest(path)[:32], 240, 320 - i % 3, 3, notes)
            )
    for name, reason in [
        ("IMG_9001.jpg", "cut off"),
        ("page.jpg", "an HTML page, not an image"),
        ("b.png", "empty file"),
    ]:
        samples.append(Sample(f"{classes[0]}/{name}", classes[0], "", "", reason, "", 0, 0, 0))
    return Manifest(
        name="flowers",
        location="flowers/",
        kind="folder",
        layout="one folder per class, no split folders",
        classes=tuple(classes),
        samples=tuple(samples),
        ignored=(
            Ignored(".ipynb_checkpoints/", "a folder of a tool"),
            Ignored("Thumbs.db", "a file of the system"),
        ),
        warnings=("tulip/IMG_0003.jpg and rose/IMG_0011.jpg hold the same pixels under two labels",),
        seed=0,
        split_rule="80 % for training and 20 % for validation, stratified, seed 0",
    )


def fake_answers(manifest: Manifest, *, split: str = "val", seed: int = 0) -> dict[str, NDArray[Any]]:
    """Probabilities that are mostly right, worse for the last class, which looks like the third before it."""
    random = np.random.default_rng(seed)
    rows = np.array(
        [i for i, each in enumerate(manifest.samples) if each.split == split and each.verdict == OK]
    )
    labels = np.array([manifest.classes.index(str(manifest.samples[i].label)) for i in rows])
    k = len(manifest.classes)
    scores = random.normal(size=(len(rows), k)) * 1.3 + 3.6 * np.eye(k)[labels]
    scores[labels == k - 1, max(0, k - 3)] += 2.8
    return {
        "probabilities": softmax(scores, axis=1).astype(np.float32),
        "labels": labels.astype(np.int64),
        "rows": rows.astype(np.int64),
    }


def log_lines(*, epochs: int, accuracy: float) -> list[dict[str, Any]]:
    random, lines, best = np.random.default_rng(1), [], 0.0
    for epoch in range(epochs):
        for step in range(epoch * STEPS + 1, (epoch + 1) * STEPS + 1):
            done = step / (epochs * STEPS)
            lines.append(
                {
                    "kind": "step",
                    "step": step,
                    "epoch": epoch,
                    "loss": float(2.2 * np.exp(-3.2 * done) + 0.15 + 0.12 * random.random()),
                    "lr": float(0.05 * (1 + np.cos(np.pi * done)) / 2),
                    "gradient_norm": float(1.5 * np.exp(-done) + 0.5 * random.random()),
                }
            )
        done = (epoch + 1) / epochs
        reached = float(accuracy * (1 - 0.75 * np.exp(-4 * done)) + 0.01 * random.normal())
        lines.append(
            {
                "kind": "epoch",
                "epoch": epoch + 1,
                "step": (epoch + 1) * STEPS,
                "train_loss": float(2.2 * np.exp(-3.2 * done) + 0.2),
                "train_accuracy": float(0.99 * (1 - 0.85 * np.exp(-4.5 * done))),
                "val_loss": float(1.7 * np.exp(-3 * done) + 0.55 + 0.35 * max(0.0, done - 0.6)),
                "val_accuracy": reached,
                "val_balanced_accuracy": reached - 0.03,
                "lr": lines[-1]["lr"],
                "best": reached > best,
            }
        )
        best = max(best, reached)
    return lines


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


def write_evaluation(run: Path, manifest: Manifest, *, split: str, seed: int = 0, **changes: Any) -> None:
    answers = fake_answers(manifest, split=split, seed=seed)
    metrics = measure(answers["probabilities"], answers["labels"], manifest.classes)
    record = {**metrics.to_dict(), "split": split, "weights": "average", "epoch": 18, **changes}
    (run / "evaluation").mkdir(exist_ok=True)
    (run / "evaluation" / f"{split}.json").write_text(json.dumps(record))
    save_file(answers, run / "evaluation" / f"{split}.safetensors")


def write_recipe(run: Path, **changes: Any) -> None:
    recipe = Recipe(
        model="resnet18",
        epochs=20,
        batch=32,
        ema=0.999,
        optimizer=OptimizerSpec(lr=0.05),
        augment=AugmentSpec(flip=True),
    )
    record = {
        "recipe": to_dict(recipe),
        "provenance": {
            "model": "flag",
            "epochs": "flag",
            "augment.flip": "recipe photos",
            "ema": "config my.toml",
        },
        "command": [
            "convworks",
            "train",
            "flowers/",
            "--model",
            "resnet18",
            "--epochs",
            "20",
            "--name",
            "my run",
        ],
        "environment": {
            "python": "3.11.9",
            "torch": "2.13.0",
            "platform": "Linux x86_64",
            "cpu": {"threads": 2},
        },
        "data": "flowers/",
    }
    (run / "recipe.json").write_text(json.dumps({**record, **changes}))


def fake_run(
    folder: Path, *, manifest: Manifest | None = None, epochs: int = 20, name: str = "flowers-resnet18-01"
) -> Path:
    """A complete run folder; tests take away or damage parts of it."""
    manifest = manifest or fake_manifest()
    run = folder / name
    run.mkdir(parents=True)
    write_recipe(run)
    manifest.save(run / "manifest.jsonl")
    plan = {
        "precision": "bf16",
        "memory_format": "channels_last",
        "device": "cpu",
        "threads": 2,
        "workers": 1,
        "images_per_second": 74.2,
        "measured": {
            "fp32 contiguous 2 threads": 15.1,
            "fp32 channels_last 2 threads": 22.4,
            "bf16 channels_last 2 threads": 74.2,
        },
        "reasons": [
            "bf16 trains 3.31x as fast as fp32 here; 2 of 2 processors",
            "memory allocator: keeps its pages",
        ],
    }
    (run / "plan.json").write_text(json.dumps(plan))
    write_lines(run / "metrics.jsonl", log_lines(epochs=epochs, accuracy=0.83))
    at = 1_800_000_000.0
    timing: list[dict[str, Any]] = [{"at": at, "event": "start"}]
    for epoch in range(epochs):
        step = (epoch + 1) * STEPS
        timing.append(
            {"at": at + 10, "event": "epoch", "epoch": epoch + 1, "step": step, "wall_seconds": 10.0}
        )
        at += 10
        if epoch == 6:
            timing.append({"at": at + 4, "event": "stop", "epoch": 8, "step": step + 3})
            timing.append({"at": at + 3600, "event": "resume", "epoch": 8, "step": step + 3})
            at += 3600
    timing.append({"at": at + 60, "event": "finish", "wall_seconds": at + 60 - 1_800_000_000})
    write_lines(run / "timing.jsonl", timing)
    write_evaluation(run, manifest, split="val")
    (run / "model").mkdir()
    (run / "model" / "weights.safetensors").write_bytes(b"weights" * 1000)
    return run


def painter(*, height: int = 120, width: int = 160) -> Callable[[str], NDArray[np.uint8] | None]:
    """A thumbnail function: for every path the same picture, a bright disc on a gradient."""

    def paint(path: str) -> NDArray[np.uint8]:
        random = np.random.default_rng(int(digest(path)[:8], 16))
        y, x = np.mgrid[0:height, 0:width]
        colour, ground = random.integers(60, 256, size=3), random.integers(0, 160, size=3)
        cy, cx, r = (
            height * random.uniform(0.3, 0.7),
            width * random.uniform(0.3, 0.7),
            height * random.uniform(0.15, 0.4),
        )
        picture = ground * (0.4 + 0.6 * y / height)[..., None] + np.zeros((height, width, 3))
        picture[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = colour
        return (picture + random.normal(0, 6, size=picture.shape)).clip(0, 255).astype(np.uint8)

    return paint
