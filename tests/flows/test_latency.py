"""Latency: medians of the passes that were made, bounded in time, kept beside what a resumed run shares."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convworks.flows import latency
from convworks.flows.latency import measure, note_latency
from convworks.layers.convolution import Conv2d
from convworks.report.latency import read_latency
from convworks.runs import Run
from convworks.training.loop import Numerics

SHAPE = (3, 8, 8)
EXACT = Numerics()


class Clock:
    """A pass takes a fixed time for each image; the first one of all takes longer."""

    def __init__(self, seconds: float, *, first: float = 0.0) -> None:
        self.each, self.extra = seconds, first
        self.seen: list[tuple[int, float]] = []  # (images, seconds)

    def __call__(self, network: nn.Module, x: torch.Tensor, numerics: Numerics) -> float:
        jitter = 1 + 0.1 * (len(self.seen) % 3)
        taken = self.each * len(x) * jitter + (self.extra if not self.seen else 0.0)
        self.seen.append((len(x), taken))
        return taken

    @property
    def whole(self) -> float:
        return sum(seconds for _, seconds in self.seen)


def clocked(monkeypatch: pytest.MonkeyPatch, seconds: float, *, first: float = 0.0, most: int = 64) -> Any:
    clock = Clock(seconds, first=first)
    monkeypatch.setattr(latency, "_seconds", clock)
    return clock, measure(nn.Identity(), SHAPE, EXACT, most=most)


def test_medians_of_the_passes_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, found = clocked(monkeypatch, 0.004, first=0.5)
    singles = [seconds for images, seconds in clock.seen if images == 1][1:]
    batches = [seconds for images, seconds in clock.seen if images == 32][1:]
    assert len(singles) >= latency.FEWEST
    assert found.image_seconds == statistics.median(singles)
    assert found.batch_seconds == statistics.median(batches)
    assert (found.image_repeats, found.batch_repeats) == (len(singles), len(batches))
    assert (found.batch, found.shape, found.device) == (32, SHAPE, "cpu")
    assert found.threads == torch.get_num_threads()
    assert found.images_per_second == pytest.approx(32 / statistics.median(batches))


@pytest.mark.parametrize(
    ("seconds", "batch", "bound"),
    [(1e-5, 32, 0.5), (1e-4, 32, 0.5), (0.002, 32, 0.9), (0.05, 4, 2.0), (0.4, 1, 2.0), (0.9, 1, 2.0)],
)
def test_the_time_is_bounded(
    monkeypatch: pytest.MonkeyPatch, seconds: float, batch: int, bound: float
) -> None:
    clock, found = clocked(monkeypatch, seconds)
    assert clock.whole <= bound
    assert found.batch == batch


def test_a_giant_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, found = clocked(monkeypatch, 7.0)
    assert clock.seen == [(1, 7.0)]
    assert (found.image_seconds, found.image_repeats, found.batch) == (7.0, 1, 1)


def test_no_batch_is_larger_than_that_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clocked(monkeypatch, 1e-4, most=6)[1].batch == 4
    assert clocked(monkeypatch, 1e-4, most=1)[1].batch == 1


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).eval()


@pytest.mark.parametrize("numerics", [EXACT, Numerics("bf16", "channels_last")])
def test_a_real_network_is_measured_and_left_as_it_was(numerics: Numerics) -> None:
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    begun = time.perf_counter()
    found = measure(network, SHAPE, numerics, most=32)
    assert time.perf_counter() - begun < 2
    assert 0 < found.image_seconds < 1
    assert found.precision == numerics.precision
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state), "a draw of the session was used up"


def test_it_is_kept_and_read_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    note_latency(run, small(), SHAPE, EXACT, most=32)
    tree = json.loads(run.latency_file.read_text())
    found = read_latency(run)
    assert found is not None
    assert found.to_dict() == {**tree, "shape": tuple(tree["shape"])}


def test_a_network_that_tries_algorithms_is_left_alone(tmp_path: Path) -> None:
    network = nn.Sequential(Conv2d(3, 4, 3, algorithm="auto"), nn.Flatten()).eval()
    note_latency(Run(tmp_path), network, SHAPE, EXACT, most=32)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_loses_the_record_alone(tmp_path: Path) -> None:
    note_latency(Run(tmp_path / "gone"), small(), SHAPE, EXACT, most=32)
    assert not (tmp_path / "gone").exists()
