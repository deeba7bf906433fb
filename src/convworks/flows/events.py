"""What a flow says while it works, as values. The command line prints them; a program may ignore them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Found:
    """The data, as understood."""

    name: str
    location: str
    layout: str
    images: int  # in all splits, without those left out
    classes: tuple[str, ...]
    splits: Mapping[str, int]  # "train" -> number of images
    split_rule: str
    counts: Mapping[str, int]  # class -> images in all splits
    left_out: tuple[tuple[str, str], ...]  # (path, reason)
    ignored: int
    warnings: tuple[str, ...]
    manifest: str  # sha256
    seconds: float


@dataclass(frozen=True, slots=True)
class Will:
    """What is about to be done, before it is done."""

    run: Path
    model: str
    parameters: int
    input: tuple[int, int, int]  # channels, height, width
    epochs: int
    batch: int
    steps_per_epoch: int
    device: str
    plan: tuple[str, ...]  # the planner's choice and its reasons, a line each
    seconds_per_epoch: float
    settings: Mapping[str, tuple[Any, str]]  # dotted key -> (value, source), without the defaults
    compliance: str = ""  # whether these are the paper's values, or in which they differ
    resumed_at: tuple[int, int] | None = None  # (epoch, step in the epoch), both counted from 1
    exact: str = ""  # what the resume promises: "exact", or "approximate: ..." with the reason


@dataclass(frozen=True, slots=True)
class Progress:
    """Inside an epoch, a few times a second at the most."""

    epoch: int  # from 1
    epochs: int
    step: int  # in the epoch, from 1
    steps: int
    loss: float  # mean of the epoch so far
    accuracy: float
    images_per_second: float
    seconds_left: float  # in the run
    phase: str = "train"  # "scan", "train", "evaluate"


@dataclass(frozen=True, slots=True)
class EpochDone:
    epoch: int
    epochs: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    val_balanced_accuracy: float | None
    lr: float
    best: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know; `level` is 'note' or 'warning', `code` that of an error behind it."""

    text: str
    level: str = "note"
    code: str = ""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run was asked to stop, saved itself, and can be resumed."""

    run: Path
    epoch: int
    step: int
    steps: int
    seconds: float  # that saving took


@dataclass(frozen=True, slots=True)
class Finished:
    run: Path
    split: str
    epoch: int  # whose weights were kept
    sentences: tuple[str, ...]  # the verdict
    metrics: Mapping[str, Any]
    report: Path | None
    model: Path
    seconds: float
    images_per_second: float
    notes: tuple[str, ...] = field(default=())


Event = Found | Will | Progress | EpochDone | Note | Stopped | Finished
