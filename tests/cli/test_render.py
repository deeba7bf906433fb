"""The lines of a training: what they say, how many there are, what programs get."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from convworks.cli.console import Console
from convworks.cli.render import Renderer, epoch_line, progress_line
from convworks.flows.events import EpochDone, Finished, Found, Note, Progress, Stopped, Will

FOUND = Found(
    name="photos",
    location="photos/",
    layout="one folder per class",
    images=1195,
    classes=("daisy", "rose"),
    splits={"train": 956, "val": 239},
    split_rule="80/20, seed 0, stratified",
    counts={"daisy": 600, "rose": 595},
    left_out=tuple((f"rose/{n}.jpg", "cut off") for n in range(40)),
    ignored=5,
    warnings=tuple(f"warning number {n}" for n in range(40)),
    manifest="8f3c1a77",
    seconds=2.0,
)
WILL = Will(
    run=Path("runs/photos-resnet18-01"),
    model="resnet18",
    parameters=11_181_642,
    input=(3, 128, 128),
    epochs=30,
    batch=32,
    steps_per_epoch=30,
    device="cpu",
    plan=tuple(f"plan line {n}" for n in range(12)),
    seconds_per_epoch=48.0,
    settings={f"setting.number{n}": (n, "flag") for n in range(40)},
)
EPOCH = EpochDone(
    epoch=2,
    epochs=30,
    train_loss=1.2041,
    train_accuracy=0.538,
    val_loss=1.118,
    val_accuracy=0.563,
    val_balanced_accuracy=0.497,
    lr=0.0995,
    best=True,
    seconds=47.4,
)
FINISHED = Finished(
    run=Path("runs/photos-resnet18-01"),
    split="val",
    epoch=27,
    sentences=tuple(f"sentence {n}" for n in range(20)),
    metrics={
        "n": 239,
        "top1": 0.8284,
        "top1_ci": [0.776, 0.871],
        "top5": None,
        "balanced_accuracy": 0.784,
        "loss": 0.521,
    },
    report=Path("runs/photos-resnet18-01/report.html"),
    model=Path("runs/photos-resnet18-01/model"),
    seconds=1500.0,
    images_per_second=19.0,
    notes=("a note",),
)
PROGRESS = Progress(
    epoch=3,
    epochs=30,
    step=15,
    steps=30,
    loss=1.071,
    accuracy=0.57,
    images_per_second=900.0,
    seconds_left=1260.0,
)


def shown(*events: Any, **options: Any) -> tuple[str, str, Renderer]:
    out, err = io.StringIO(), io.StringIO()
    renderer = Renderer(Console(out=out, err=err, **options))
    for event in events:
        renderer.show(event)
    return out.getvalue(), err.getvalue(), renderer


def test_what_was_found_and_will_be_done_comes_first() -> None:
    _, err, _ = shown(FOUND, WILL)
    lines = err.splitlines()
    assert lines[0] == "I found    1,195 images, 2 classes (manifest 8f3c1a, 40 left out) in photos/"
    assert lines[1] == "           train 956, val 239; 80/20, seed 0, stratified"
    assert "left out  rose/0.jpg: cut off" in err
    assert "warning: warning number 0" in lines
    assert "I will     train resnet18 (11.2 M parameters) for 30 epochs, 128 px colour, batch" in err
    assert "settings   flag: setting.number0 0, setting.number1 1," in err
    assert "about 48 s an epoch, 24 min in all" in err
    assert "run        runs/photos-resnet18-01" in lines


def test_a_run_into_a_file_is_its_epochs_plus_thirty_lines_at_the_most() -> None:
    out, err, _ = shown(FOUND, WILL, *[EPOCH, PROGRESS] * 30, FINISHED)
    assert len((out + err).splitlines()) <= 30 + 30
    assert all(len(line) <= 100 for line in (out + err).splitlines())
    assert not any(c < " " for c in (out + err).replace("\n", ""))


def test_many_warnings_of_one_run_do_not_flood_a_file() -> None:
    _, err, _ = shown(*[Note(f"disk {n}", level="warning") for n in range(50)])
    assert len(err.splitlines()) <= 3


def test_verbose_shows_everything() -> None:
    _, err, _ = shown(FOUND, WILL, verbose=True)
    for text in ("warning number 39", "rose/39.jpg", "plan line 11", "setting.number39 39"):
        assert text in err


def test_the_table_of_epochs_has_one_header() -> None:
    _, err, _ = shown(EPOCH, EPOCH)
    header, first, second = err.splitlines()
    assert first == second == epoch_line(EPOCH)
    assert header.index("|") == first.index("|")
    assert first.split() == [
        *("2/30", "1.2041", "0.538", "|", "1.1180", "0.563", "0.497", "0.1", "0:47", "*", "best"),
    ]


def test_an_epoch_without_validation_has_dashes() -> None:
    event = EpochDone(
        epoch=1,
        epochs=9,
        train_loss=1.0,
        train_accuracy=0.5,
        val_loss=None,
        val_accuracy=None,
        val_balanced_accuracy=None,
        lr=1e-4,
        best=False,
        seconds=1.0,
    )
    assert epoch_line(event).split()[4:7] == ["-", "-", "-"]


def test_the_live_line() -> None:
    assert progress_line(PROGRESS) == (
        " 3/30  [==========>         ]  50%  loss 1.071  acc 0.570  900 images/s  21 min left"
    )
    assert len(progress_line(PROGRESS)) < 90


def test_stopped_says_how_to_continue() -> None:
    event = Stopped(Path("my runs/a-01"), 3, 15, 30, 0.2)
    out, err, renderer = shown(event)
    assert err == "Saved step 15 of 30 of epoch 3 (0.2 s).\n"
    assert out == "continue with:  convworks resume 'my runs/a-01'\n"
    assert renderer.stopped is event


def test_stopped_before_the_first_step_names_no_step() -> None:
    out, err, _ = shown(Stopped(Path("runs/a-01"), 1, 0, 0, 0.0), quiet=True)
    assert (out, err) == ("continue with:  convworks resume runs/a-01\n", "")
    assert shown(Stopped(Path("runs/a-01"), 1, 0, 0, 0.0))[1] == ""


def test_a_resumed_run_says_where_and_how_exactly() -> None:
    event = replace(WILL, resumed_at=(3, 16), exact="exact")
    _, err, _ = shown(event)
    assert err.splitlines()[0] == "I continue at epoch 3, step 16 of 30: exact"
    _, err, _ = shown(replace(event, resumed_at=(31, 1)))
    assert err.splitlines()[0] == "I continue after the last epoch: exact"


def test_the_verdict_is_the_answer() -> None:
    out, err, _ = shown(FINISHED, quiet=True)
    lines = out.splitlines()
    assert lines[:2] == ["val        sentence 0", "           sentence 1"]
    assert "weights    of epoch 27" in lines
    assert "note       a note" in lines
    assert "report     runs/photos-resnet18-01/report.html" in lines
    assert "next       convworks predict runs/photos-resnet18-01 PATH" in lines
    assert err == ""


def test_programs_get_json_lines() -> None:
    out, err, _ = shown(FOUND, WILL, PROGRESS, EPOCH, Note("x"), FINISHED, json_output=True)
    records = [json.loads(line) for line in out.splitlines()]
    assert [each["event"] for each in records] == ["found", "will", "epoch", "note", "finished"]
    assert records[0]["classes"] == ["daisy", "rose"]
    assert records[2]["val_accuracy"] == 0.563
    assert records[4]["model"] == "runs/photos-resnet18-01/model"
    assert "val        sentence 0" in err
