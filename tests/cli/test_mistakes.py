"""What users get wrong: each mistake gives one message that names the thing, and the right exit status."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convworks.cli.entry import find_verb
from convworks.cli.parse import parse
from convworks.errors import EXIT_STATUS
from tests.cli.helpers import Ran, draw, photos, run

RUN = "runs/photos-mlp128-01"
Setup = Callable[[Path], object]


def one_message(ran: Ran, code: str, *named: str) -> None:
    """Exactly one error of this code, that names the thing and says what to do."""
    assert ran.err.count("error[") == 1, ran.err
    assert f"error[{code}]" in ran.err
    assert ran.status == EXIT_STATUS[code[0]]
    assert "Traceback" not in ran.err + ran.out
    for name in named:
        assert name in ran.err
    advice = re.search(r"^  try:   (\S.*)", ran.err, re.MULTILINE)
    assert advice is not None, ran.err
    words = advice[1].split("  (")[0].split(", or ")[0]
    if words.startswith("convworks ") and "..." not in words:
        it_parses(shlex.split(words)[1:])


def it_parses(words: list[str]) -> None:
    """A command that is offered has no mistake of its own."""
    if "--help" not in words and "--help-all" not in words:
        parse(find_verb(words), words[1:])


def nothing(world: Path) -> None:
    """No preparation."""


def one_class(world: Path) -> None:
    shutil.rmtree(world / "photos" / "rose")


def one_image_in_a_class(world: Path) -> None:
    draw(world / "photos" / "tulip" / "1.png")


def two_names_for_one_split(world: Path) -> None:
    for split in ("train", "val", "valid"):
        photos(world / "split" / split, each=3)


def images_at_the_root(world: Path) -> None:
    for number in range(3):
        draw(world / "flat" / f"{number}.png")


def a_lily(world: Path) -> None:
    draw(world / "photos" / "lily" / "1.png")


def an_html_page(world: Path) -> None:
    (world / "photos" / "rose" / "bad.jpg").write_text("<html>404</html>")


def write(name: str, text: str | bytes) -> Setup:
    """A preparation that writes one file."""

    def prepare(world: Path) -> None:
        path = world / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return prepare


DATA: list[tuple[str, Setup, str, str, str]] = [
    # title, preparation, command, code, what the message names
    ("misspelt folder", nothing, "train photo/", "D101", "photos"),
    ("missing folder", nothing, "train nowhere/at/all", "D101", "nowhere/at/all"),
    ("misspelt data set", nothing, "train mnits", "D101", "mnist"),
    ("address", nothing, "train https://example.org/photos.zip", "D101", "https://example.org/photos.zip"),
    ("one image", nothing, "train photos/rose/1.png", "D102", "photos/rose/1.png"),
    ("text file", write("notes.txt", "hello"), "train notes.txt", "D102", "notes.txt"),
    ("pickle as data", write("data.pkl", b"\x80\x04."), "check data.pkl", "D102", "data.pkl"),
    ("empty folder", lambda world: (world / "empty").mkdir(), "train empty", "D1", "empty"),
    ("images at the root", images_at_the_root, "train flat", "D1", "flat"),
    ("one class", one_class, "train photos", "D1", "daisy"),
    ("one image in a class", one_image_in_a_class, "train photos", "D1", "tulip"),
    ("val and valid", two_names_for_one_split, "train split", "D1", "valid"),
    ("broken archive", write("data.zip", b"PK\x03\x04 cut off"), "train data.zip", "D1", "data.zip"),
    ("table of labels not there", nothing, "train photos --labels labels.csv", "D1", "labels.csv"),
    ("table without columns", write("l.csv", "a,b\n1,2\n"), "train photos --labels l.csv", "D18", "l.csv"),
    (
        "labels for a built-in set",
        write("l.csv", "path,label\n"),
        "train digits --labels l.csv",
        "D189",
        "digits",
    ),
    ("offline", nothing, "train mnist --offline", "D161", "mnist"),
    ("strict", an_html_page, "train photos --strict", "D1", "bad.jpg"),
    ("class that the model never saw", a_lily, f"eval {RUN} photos", "D201", "lily"),
    ("split that is not there", nothing, f"eval {RUN} photos --split test", "D202", "test"),
    ("unreadable in eval", an_html_page, f"eval {RUN} photos", "D149", "bad.jpg"),
    ("no such image", nothing, f"predict {RUN} new.jpg", "D211", "new.jpg"),
    (
        "folder without images",
        lambda world: (world / "empty").mkdir(),
        f"predict {RUN} empty",
        "D212",
        "empty",
    ),
    ("unreadable in predict", an_html_page, f"predict {RUN} photos/rose", "D213", "bad.jpg"),
]

LINE: list[tuple[str, Setup, str, str, str]] = [
    ("misspelt verb", nothing, "trian photos", "U001", "train"),
    ("flag first", nothing, "--epochs 3 train photos", "U001", "convworks train --epochs 3 photos"),
    ("misspelt flag", nothing, "train photos --epoch 5", "U002", "--epochs 5"),
    ("abbreviated flag", nothing, "train photos --prec fp32", "U002", "--prec"),
    ("flag of another verb", nothing, f"predict {RUN} photos --epochs 3", "U002", "--epochs"),
    ("text for a number", nothing, "train photos --epochs many", "U003", "--epochs cannot be 'many'"),
    ("zero epochs", nothing, "train photos --epochs 0", "U003", "at least 1"),
    ("negative rate", nothing, "train photos --lr -1", "U003", "--lr cannot be '-1'"),
    ("no such precision", nothing, "train photos --precision fp23", "U003", "fp32"),
    ("no such list", nothing, "list modles", "U003", "models"),
    ("flag without value", nothing, "train photos --epochs", "U003", "--epochs"),
    ("no data", nothing, "train", "U004", "DATA"),
    ("no image", nothing, f"predict {RUN}", "U004", "PATH"),
    ("key=value", nothing, "train photos epochs=5", "U005", "--epochs 5"),
    (
        "another file",
        write("mine.csv", "my,own\n"),
        f"predict {RUN} photos --csv mine.csv",
        "U006",
        "mine.csv",
    ),
    ("misspelt model", nothing, "train photos --model lenet6", "U101", "lenet5"),
    ("misspelt recipe", nothing, "train photos --recipe fastnot", "U101", "fastnet"),
    ("misspelt name", nothing, "show lenet55", "U101", "lenet5"),
    ("class to ignore", nothing, f"eval {RUN} photos --ignore-classes rosse", "U101", "rose"),
    ("unknown setting", nothing, "train photos --set optimiser.lr=1", "U101", "optimizer.lr"),
    ("no config file", nothing, "train photos --config my.toml", "U110", "my.toml"),
    ("bad config file", write("my.toml", "epochs = = 3"), "train photos --config my.toml", "U110", "my.toml"),
    ("setting without value", nothing, "train photos --set epochs", "U111", "epochs"),
    ("setting out of range", nothing, "train photos --set optimizer.lr=-1", "U112", "optimizer.lr"),
    ("config out of range", write("my.toml", "ema = 2"), "train photos --config my.toml", "U112", "ema"),
    ("size that does not fit", nothing, "train photos --model lenet5 --size 9", "U122", "lenet5"),
    ("table in another format", nothing, f"eval {RUN} photos --csv out.json", "U006", "out.json"),
    ("bad run name", nothing, "train photos --name a/b", "U130", "a/b"),
    ("run with other settings", nothing, "train photos --name photos-mlp128-01", "U1", "photos-mlp128-01"),
]


def damaged_weights(world: Path) -> None:
    path = world / RUN / "model" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 255
    path.write_bytes(content)


def newer_model(world: Path) -> None:
    path = world / RUN / "model" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    (world / RUN / "model" / "MANIFEST.json").unlink()


def unfinished(world: Path) -> None:
    shutil.rmtree(world / RUN / "model")
    for path in (world / RUN).glob("finished*"):
        path.unlink()


def changed_images(world: Path) -> None:
    unfinished(world)
    draw(world / "photos" / "rose" / "0.png", seed=999)


ARTIFACTS: list[tuple[str, Setup, str, str, str]] = [
    ("no such run", nothing, "resume runs/nothing", "A410", "runs/nothing"),
    ("folder of images as a run", nothing, "resume photos", "A410", "photos"),
    ("report of no run", nothing, "report photos", "A410", "photos"),
    ("damaged record", write(f"{RUN}/recipe.json", "{"), f"resume {RUN}", "A401", "recipe.json"),
    ("nested record", write(f"{RUN}/recipe.json", "[" * 10**5), f"show {RUN}", "A401", "recipe.json"),
    ("no such model", nothing, "eval runs/nothing photos", "A411", "runs/nothing"),
    ("unfinished run", unfinished, f"predict {RUN} photos", "A411", "photos-mlp128-01"),
    ("PyTorch pickle", write("net.pt", b"PK"), "predict net.pt photos", "A412", "net.pt"),
    ("damaged weights", damaged_weights, f"predict {RUN} photos", "A4", "weights.safetensors"),
    ("newer model", newer_model, f"predict {RUN} photos", "A4", "model"),
    ("other images", changed_images, f"resume {RUN}", "D145", "0.png"),
    ("other settings", unfinished, f"resume {RUN} --lr 0.5", "U131", "optimizer.lr"),
]

RESOURCES: list[tuple[str, Setup, str, str, str]] = [
    ("a file in the way", write("file", "x"), "train photos --out file", "U130", "file"),
    ("a file above", write("file", "x"), "train photos --out file/runs", "R503", "file/runs"),
    ("table in no folder", nothing, f"predict {RUN} photos --csv no/where.csv", "R503", "no/where.csv"),
    ("no such device", nothing, "train photos --model mlp128 --device cuda:77", "R520", "cuda:77"),
    ("no kind of device", nothing, "train photos --model mlp128 --device gpuu", "R520", "gpuu"),
]

SEEDS = [*DATA, *LINE, *ARTIFACTS, *RESOURCES]


@pytest.mark.parametrize(
    ("prepare", "line", "code", "named"), [seed[1:] for seed in SEEDS], ids=[seed[0] for seed in SEEDS]
)
def test_a_mistake_gives_one_clear_message(
    prepare: Setup, line: str, code: str, named: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(world)
    ran = run(capsys, *line.split())
    found = re.search(r"error\[(\w+)\]", ran.err)
    assert found is not None, ran.err
    assert found[1].startswith(code), ran.err
    one_message(ran, found[1], named)


@pytest.mark.parametrize("line", [seed[2] for seed in SEEDS if seed[2].startswith("train photos --out")])
def test_a_place_that_refuses_is_found_before_anything_is_computed(
    line: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "file").write_text("x")
    ran = run(capsys, *line.split())
    assert "I found" not in ran.err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc refuses new folders on Linux")
def test_a_read_only_file_system(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_message(run(capsys, "train", "photos", "--out", "/proc/runs"), "R503", "/proc/runs")


def test_a_run_in_use(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from convworks.runs import Run

    unfinished(world)
    with Run(world / RUN).locked():
        ran = run(capsys, "resume", RUN)
    one_message(ran, "R510", "photos-mlp128-01", "pid")


def test_a_mistake_writes_nothing_into_the_data(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (world / "photos").rglob("*"))
    for line in ("train photos --set epochs", "train photos --model lenet6", "check photos"):
        run(capsys, *line.split())
    assert sorted((path, path.stat().st_mtime_ns) for path in (world / "photos").rglob("*")) == before
    assert [path.name for path in (world / "runs").iterdir()] == ["photos-mlp128-01"]
