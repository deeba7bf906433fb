"""What the verdict says of speed: the stored numbers, or how to get some; damaged ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convworks.errors import ConvworksError
from convworks.report.latency import Latency, milliseconds, read_latency, speed
from convworks.report.page import write_report
from convworks.report.read import read_run
from convworks.runs import Run
from tests.report.helpers import fake_run

MEASURED = Latency(
    image_seconds=0.00321,
    image_repeats=31,
    batch=32,
    batch_seconds=0.04,
    batch_repeats=9,
    device="cpu",
    processor="A & B <b>",
    threads=2,
    precision="bf16",
    shape=(3, 96, 128),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_run(tmp_path)


def store(run: Path, **changes: Any) -> None:
    (run / "latency.json").write_text(json.dumps({**MEASURED.to_dict(), **changes}))


def test_the_numbers_stand_in_the_verdict(run: Path) -> None:
    store(run)
    found = speed(read_run(run))
    assert found is not None
    assert found.rows == (("One image takes", "3.21 ms"), ("In batches of 32", "800 images/s"))
    assert found.words == (
        "Times are medians of 31 and 9 passes of the network alone, on cpu (A & B <b>), 2 threads, bf16, "
        "input 96x128x3; the reading of files comes on top."
    )
    text = write_report(run).read_text()
    assert "<dt>One image takes</dt><dd>3.21 ms</dd>" in text
    assert "<dt>In batches of 32</dt><dd>800 images/s</dd>" in text
    assert "cpu (A &amp; B &lt;b&gt;), 2 threads" in text


def test_without_a_batch_and_on_a_device(run: Path) -> None:
    store(run, image_seconds=1.5, image_repeats=1, batch=1, batch_repeats=1, device="cuda", processor="")
    found = speed(read_run(run))
    assert found is not None
    assert found.rows == (("One image takes", "1.50 s"),)
    assert found.words.startswith("Times are medians of 1 pass of the network alone, on cuda, bf16, input")


def test_never_measured_says_what_measures(run: Path) -> None:
    (run / "geometry.json").write_text(json.dumps({"height": 96, "width": 128, "channels": 3}))
    found = speed(read_run(run))
    assert found is not None
    assert found.rows == ()
    assert found.command == "convworks cost resnet18 --input 96x128x3 --classes 10"
    assert "Latency was not measured when this run ended." in write_report(run).read_text()
    (run / "model" / "weights.safetensors").unlink()
    (run / "model").rmdir()
    assert speed(read_run(run)) is None


DAMAGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a time of 0": lambda tree: {**tree, "image_seconds": 0.0},
    "no time": lambda tree: {**tree, "batch_seconds": None},
    "not a number": lambda tree: {**tree, "batch_seconds": float("nan")},
    "without end": lambda tree: {**tree, "image_seconds": float("inf")},
    "half a batch": lambda tree: {**tree, "batch": 2.5},
    "no pass": lambda tree: {**tree, "image_repeats": 0},
    "a flat input": lambda tree: {**tree, "shape": [3, 96]},
    "no input": lambda tree: {**tree, "shape": None},
    "a name that is none": lambda tree: {**tree, "processor": 7},
    "a part is gone": lambda tree: {k: v for k, v in tree.items() if k != "threads"},
    "another kind": lambda tree: [tree],
}


@pytest.mark.parametrize("what", list(DAMAGED))
def test_damaged_numbers_are_refused(run: Path, what: str) -> None:
    (run / "latency.json").write_text(json.dumps(DAMAGED[what](MEASURED.to_dict())))
    with pytest.raises(ConvworksError) as caught:
        read_latency(Run(run))
    assert caught.value.code in {"A495", "A401"}
    assert "latency.json" in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.000015, "0.015 ms"),
        (0.00042, "0.42 ms"),
        (0.0123, "12.3 ms"),
        (0.9994, "999.4 ms"),
        (1.236, "1.24 s"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert milliseconds(seconds) == words
