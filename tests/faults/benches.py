"""What the kill proof trains: small networks, images, settings, and the files that must be the same.

Trainings that begin at random have momentum, weight averaging, every augmentation, dropout, batch
normalisation, gradient accumulation, bf16, every regulariser, and warm restarts with snapshots. Trainings
that begin with another network's layers have a frozen backbone with stored features, stages that thaw one
after the other at rates of their own, 8-bit rounding, and a whitened first layer that never learns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from convworks import models
from convworks.flows.prepare import DataRequest
from convworks.flows.train import ResumeRequest, TrainRequest, resume, train
from convworks.layers import Residual
from convworks.models.registry import register
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import resolve

SOURCE = "source"  # the run whose layers the others begin with
RECORDS = ("int8.json", "init.json")  # of a run that has them

SETTINGS: dict[str, Any] = {
    "model": "everything_net",
    "epochs": 3,
    "batch": 16,
    "accumulate": 2,
    "size": 16,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "clip_norm": 5.0,
    "precision": "bf16",
    "memory_format": "channels_last",
    "threads": 1,
    "workers": 1,
    "device": "cpu",
    "checkpoint_every": 4,
    "optimizer.lr": 0.05,
    "augment.shift": 2,
    "augment.flip": True,
    "augment.rotate": 10.0,
    "augment.scale_jitter": (16, 24),
    "augment.lighting": 0.5,
    "augment.brightness": 0.2,
    "augment.contrast": 0.2,
    "augment.saturation": 0.2,
    "augment.hue": 0.1,
    "augment.elastic": 10.0,
    "augment.randaugment": 2,
    "augment.cutout": 4,
    "augment.mixup": 0.4,
    "augment.cutmix": 1.0,
    "schedule.warmup": 0.1,
    "schedule.name": "warm-restarts",  # a snapshot after every epoch
    "schedule.cycle": 1,
    "regularize.l1": 1e-4,
    "regularize.proximal": True,
    "regularize.l2_plain": 1e-4,
    "regularize.max_norm": 2.0,
    "regularize.sparsity": 0.01,
    "regularize.sparsity_layers": ("gate",),
    "regularize.noise": 0.1,
    "regularize.dropout": 0.2,
    "regularize.stochastic_depth": 0.5,
}
# Crops by area exclude a scale jitter: every other point has them.
BY_AREA = {**SETTINGS, "augment.scale_jitter": None, "augment.area": (0.3, 1.0), "augment.mixup": 0.0}

_FEW: dict[str, Any] = {
    **{key: SETTINGS[key] for key in ("batch", "size", "threads", "workers", "device", "checkpoint_every")},
    "model": "everything_net",
    "epochs": 4,
    "memory_format": "contiguous",
    "optimizer.lr": 0.05,
}
FROZEN: dict[str, Any] = {
    **_FEW,
    "precision": "bf16",
    "ema": 0.9,
    "transfer.freeze": "backbone",
    "optimizer.layer_decay": 0.5,
    "optimizer.group_rate": {"fc.bias": 2.0, "conv2": 0.1},
    "optimizer.group_decay": {"fc.weight": 0.01, "conv1": 0.1},
    "regularize.dropout": 0.3,
    "label_smoothing": 0.1,
}
THAWING: dict[str, Any] = {
    **_FEW,
    "precision": "bf16",
    "memory_format": "channels_last",
    "ema": 0.9,
    "accumulate": 2,
    "transfer.unfreeze": 1,
    "optimizer.name": "nesterov",
    "optimizer.layer_decay": 0.7,
    "optimizer.group_rate": {"conv2.weight": 3.0},
    "augment.flip": True,
    "augment.mixup": 0.4,
    "regularize.max_norm": 2.0,
    "regularize.stochastic_depth": 0.5,
    "schedule.name": "plateau",
    "schedule.patience": 0,
}
ROUNDED: dict[str, Any] = {
    **_FEW,
    "precision": "fp32",
    "transfer.quantize": "int8",
    "transfer.unfreeze": 2,
    "transfer.freeze_after": {"conv2.bias": 2},
    "optimizer.name": "adamw",
    "optimizer.lr": 0.005,
    "optimizer.layer_decay": 0.8,
    "augment.shift": 1,
    "ema": 0.9,
}
WHITENED: dict[str, Any] = {
    **_FEW,
    "model": "fixed_net",
    "precision": "fp32",
    "initialize": "whitened",
    "transfer.unfreeze": 1,
    "optimizer.name": "adam",
    "optimizer.lr": 0.005,
    "optimizer.layer_decay": 0.8,
    "augment.flip": True,
    "augment.flip_alternates": True,
    "augment.shift": 2,
    "augment.border": "mirror",
    "schedule.name": "triangle",
    "lookahead.every": 3,
    "lookahead.growth": 2.0,
    "early_stopping": 3,
}


class EverythingNet(nn.Module):
    """A small network with all that could go wrong in a resume: batch norm, two kinds of dropout, pooling.

    Without its residual unit it is another network, of which most layers have the same names and shapes. With
    `fixed` its first layer never learns, as whitening filters do not."""

    def __init__(
        self, num_classes: int, in_channels: int, *, residual: bool = True, fixed: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.drop1 = nn.Dropout2d(0.1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.act1, self.act2, self.gate = nn.ReLU(), nn.ReLU(), nn.Sigmoid()
        self.unit = Residual(nn.Conv2d(16, 16, 3, padding=1), nn.Identity()) if residual else nn.Identity()
        self.drop2 = nn.Dropout(0.3)
        self.fc = nn.Linear(16, num_classes)
        self.conv1.requires_grad_(not fixed)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.drop1(self.act1(self.norm1(self.conv1(x)))), 2)
        x = nn.functional.max_pool2d(self.act2(self.norm2(self.conv2(x))), 2)
        return self.fc(self.drop2(self.gate(self.unit(x)).mean((2, 3))))  # type: ignore[no-any-return]


def everything_net(
    *, num_classes: int = 3, in_channels: int = 3, input_size: tuple[int, int] = (16, 16)
) -> nn.Module:
    return EverythingNet(num_classes, in_channels)


def lesser_net(
    *, num_classes: int = 3, in_channels: int = 3, input_size: tuple[int, int] = (16, 16)
) -> nn.Module:
    return EverythingNet(num_classes, in_channels, residual=False)


def fixed_net(
    *, num_classes: int = 3, in_channels: int = 3, input_size: tuple[int, int] = (16, 16)
) -> nn.Module:
    return EverythingNet(num_classes, in_channels, fixed=True)


for _build in (everything_net, lesser_net, fixed_net):
    if _build.__name__ not in models.names():
        register(_build, source="this proof", summary="batch norm, dropout and pooling, for kills")


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings, whether the run begins with layers of the source, and its own moments to be killed at."""

    settings: dict[str, Any]
    begins: bool = False
    moments: tuple[str, ...] = ()


NEW = (Variant(SETTINGS), Variant(BY_AREA))
TRANSFER = (
    Variant(THAWING, begins=True, moments=("thaw",)),
    Variant(WHITENED, moments=("thaw", "whiten")),
    Variant(FROZEN, begins=True, moments=("features",)),
    Variant(ROUNDED, begins=True, moments=("thaw", "scales")),
)


def make_images(folder: Path, *, per_class: int = 64) -> None:
    """Three classes of noisy 16-pixel PNG files."""
    generator = np.random.default_rng(0)
    for k, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            pixels[4:12, 4:12, k] += 60
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


class Bench:
    """A data folder, a place for runs, and the bytes that an undisturbed run ends with."""

    def __init__(self, work: Path, variant: Variant = NEW[0]) -> None:
        self.work, self.variant = work, variant
        self.data, self.cache = work / "images", work / "cache"
        if not self.data.exists():
            make_images(self.data)

    def request(self, name: str, **changes: Any) -> TrainRequest:
        begin = {"init": str(self.work / "runs" / SOURCE)} if self.variant.begins else {}
        resolved = resolve(
            base=Recipe(), base_name="kill", flags={**self.variant.settings, **begin, **changes}
        )
        data = DataRequest(location=str(self.data), cache=self.cache)
        return TrainRequest(data=data, resolved=resolved, out=self.work / "runs", name=name)

    def start(self, name: str, **changes: Any) -> None:
        """Train, or continue where the same request was stopped. Exits the (forked) process."""
        for _ in train(self.request(name, **changes)):
            pass

    def start_source(self) -> None:
        """Train the network whose layers the others begin with."""
        flags = {**_FEW, "precision": "fp32", "model": "lesser_net", "epochs": 2}
        resolved = resolve(base=Recipe(), base_name="kill", flags=flags)
        data = DataRequest(location=str(self.data), cache=self.cache)
        for _ in train(TrainRequest(data=data, resolved=resolved, out=self.work / "runs", name=SOURCE)):
            pass

    def resume(self, name: str) -> None:
        for _ in resume(ResumeRequest(run=self.work / "runs" / name, cache=self.cache)):
            pass

    def hashes(self, name: str) -> dict[str, str]:
        """sha256 of weights, optimizer, average, state, metrics, predictions, model, snapshots, records."""
        run = self.work / "runs" / name
        last = max((run / "checkpoints").glob("step-*"))
        wanted = [*sorted(last.glob("*.safetensors")), last / "state.json", run / "metrics.jsonl"]
        wanted += [run / "evaluation" / "val.safetensors"]
        wanted += [run / "evaluation" / "val.json", run / "model" / "weights.safetensors"]
        wanted += sorted((run / "snapshots").glob("*/weights.safetensors"))
        wanted += [run / each for each in RECORDS if (run / each).is_file()]
        return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in wanted}
