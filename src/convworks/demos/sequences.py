"""A convnet without images: windows of a sensor's readings."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convworks.demos.experiment import Examples, accuracy, fit
from convworks.demos.result import Result
from convworks.layers import Conv1d, stage
from convworks.randomness import uniform

CLASSES = ("rise", "fall", "peak", "dip", "vibration")
LENGTH = 96  # readings of a window
EVENT = 24  # readings of the event in it


def sensor_series(count: int, *, seed: int, purpose: str) -> Examples:
    """(count, 2, 96) readings of two channels and (count,) classes in turn; the event is at a random place.

    A slow drift, noise, and in the first channel one event of 24 readings: a rise, a fall, a peak, a dip or a
    vibration, of random size. The second channel is half of the first with noise of its own.
    """
    labels = np.arange(count) % len(CLASSES)
    draws = uniform(seed, f"demos/series/{purpose}", 0, np.arange(count), 4 + 4 * LENGTH)
    time = np.arange(LENGTH)
    start = np.floor(4 + draws[:, :1] * (LENGTH - EVENT - 8))
    phase = (time - start) / EVENT  # 0 to 1 during the event
    inside = (phase >= 0) & (phase < 1)
    size = 1.5 + draws[:, 1:2]
    shapes = np.stack(
        [
            np.clip(phase, 0, 1),
            -np.clip(phase, 0, 1),
            np.where(inside, np.sin(np.pi * phase), 0.0),
            np.where(inside, -np.sin(np.pi * phase), 0.0),
            np.where(inside, np.sin(2 * np.pi * 5 * phase), 0.0),
        ]
    )  # (classes, count, 96)
    drift = (draws[:, 2:3] - 0.5) + (draws[:, 3:4] - 0.5) * time / LENGTH
    noise = _noise(draws[:, 4:])  # (count, 2, 96)
    first = drift + size * shapes[labels, np.arange(count)]
    x = np.stack([first, 0.5 * first], axis=1) + 0.15 * noise
    return Examples(torch.from_numpy(x).float(), torch.from_numpy(labels))


def _noise(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two uniform numbers for each reading, added and scaled to variance 1: (count, 4 L) -> (count, 2, L)."""
    pairs = draws.reshape(len(draws), 2, LENGTH, 2)
    total: NDArray[np.float64] = (pairs.sum(axis=-1) - 1) * np.sqrt(6.0)
    return total


def series(*, seed: int, quick: bool) -> Result:
    """A network of three one-dimensional convolutions on 1,000 windows, and a dense one beside it."""
    train = sensor_series(600 if quick else 1000, seed=seed, purpose="train")
    test = sensor_series(500, seed=seed, purpose="test")
    convolutional = stage(
        conv1=Conv1d(2, 16, 7, padding="same", activation="relu"),
        pool1=nn.MaxPool1d(2),
        conv2=Conv1d(16, 32, 5, padding="same", activation="relu"),
        pool2=nn.MaxPool1d(2),
        conv3=Conv1d(32, 32, 5, padding="same", activation="relu"),
        pool3=nn.AdaptiveMaxPool1d(4),
        flatten=nn.Flatten(),
        fc=nn.Linear(32 * 4, len(CLASSES)),
    )
    dense = stage(
        flatten=nn.Flatten(), fc1=nn.Linear(2 * LENGTH, 64), relu=nn.ReLU(), fc2=nn.Linear(64, len(CLASSES))
    )
    rows: list[tuple[str, int, float, int | None]] = []
    for name, network in (("convolutions", convolutional), ("dense layers", dense)):
        trained = fit(network, train, test, steps=160 if quick else 400, lr=0.02, seed=seed, goal=0.99)
        parameters = sum(p.numel() for p in network.parameters())
        rows.append((name, parameters, accuracy(network, test), trained.reached))
    return Result(
        columns=("network", "parameters", "accuracy", "steps to 99 %"),
        rows=tuple(rows),
        lecture="convolution works on any grid: text, sensor series, video",
        found=f"{100 * rows[0][2]:.1f} % of {len(test.y)} windows right with convolutions, "
        f"{100 * rows[1][2]:.1f} % with dense layers",
    )
