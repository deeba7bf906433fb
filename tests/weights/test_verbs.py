"""`convworks import` and `convworks export`, from words to files and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from convworks import models
from convworks.bundle import load_bundle
from convworks.weights.export import export_safetensors
from tests.cli.helpers import run
from tests.flows.helpers import train_all, write_images

pytestmark = pytest.mark.usefixtures("undrawn_pages")

CLASSES = ("daisy", "rose", "tulip")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights of a network in another publisher's names, their class names, and an image."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = models.create("resnet18", num_classes=3)
    export_safetensors(network, "named.safetensors", model="resnet18", names="torchvision")
    plain = safetensors.torch.load_file("named.safetensors")
    safetensors.torch.save_file(plain, "plain.safetensors")
    torch.save(plain, "plain.pth")
    Path("classes.txt").write_text("\ufeffdaisy\nrose\n\ntulip\n", encoding="utf-8")
    Image.fromarray(np.full((300, 260, 3), 90, dtype=np.uint8)).save("a.png")
    return tmp_path


def test_from_published_weights_to_a_prediction_and_back(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "resnet18", "--class-names", "classes.txt", "--size", "64")
    ran = run(capsys, "import", "plain.safetensors", *words, "--out", "models/flowers")
    assert (ran.status, ran.err) == (0, "")
    assert "resnet18, 11,178,051 parameters, 3 classes" in ran.out
    assert "torchvision's names" in ran.out
    assert "3 x 64 x 64, scaled as imagenet" in ran.out
    assert load_bundle(Path("models/flowers")).classes == CLASSES
    ran = run(capsys, "predict", "models/flowers", "a.png", "--json")
    assert json.loads(ran.out)[0]["label"] in CLASSES
    ran = run(
        capsys, "export", "models/flowers", "--names", "torchvision", "--out", "back.safetensors", "--json"
    )
    assert (ran.status, json.loads(ran.out)["tensors"]) == (0, 122)
    back, plain = (safetensors.torch.load_file(f"{name}.safetensors") for name in ("back", "plain"))
    assert back.keys() == plain.keys()
    assert all(torch.equal(back[name], plain[name]) for name in plain)


def test_a_pytorch_file_needs_trust(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("import", "plain.pth", "--model", "resnet18", "--out", "m", "--normalize", "half", "--quiet")
    ran = run(capsys, *words)
    assert ran.status == 2
    assert "error[U196]" in ran.err
    assert "convworks import plain.pth ... --trust-this-file" in ran.err
    assert run(capsys, *words, "--trust-this-file").status == 0
    bundle = load_bundle(Path("m"))
    assert bundle.classes == ("class 0", "class 1", "class 2")
    assert bundle.preprocess.mean.ravel().tolist() == [0.5, 0.5, 0.5]


def test_mistakes_name_the_thing_and_a_way_on(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(status: int, *words: str) -> str:
        ran = run(capsys, *words)
        assert ran.status == status, ran.err
        return ran.err

    into = ("--out", "m")
    assert "error[U198]" in said(
        2, "import", "plain.safetensors", "--model", "resnet18", "--class-names", "no", *into
    )
    assert "they are for resnet18" in said(4, "import", "plain.safetensors", "--model", "resnet18_a", *into)
    assert "did you mean 'resnet18'" in said(2, "import", "plain.safetensors", "--model", "resnet19", *into)
    assert "error[U143]" in said(2, "import", "plain.safetensors", "--model", "resnet18", "--out", str(world))
    assert "convworks import plain.pth" in said(4, "predict", "plain.pth", "a.png")
    assert not Path("m").exists()
    run(capsys, "import", "plain.safetensors", "--model", "resnet18", *into)
    assert "error[U197]" not in said(0, "export", "m", "--names", "timm", "--out", "t.safetensors")
    assert "error[U006]" in said(2, "export", "m", "--out", "t.pth")
    assert "error[U143]" in said(2, "export", "m", "--out", "t.safetensors")
    assert "error[A411]" in said(4, "export", "none", "--out", "n.safetensors")


def test_a_run_of_ours_goes_out_under_our_names_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train_all(tmp_path, write_images(tmp_path / "colours"), epochs=1)
    ran = run(capsys, "export", "runs/run", "--names", "timm", "--out", "a.safetensors")
    assert ran.status == 2
    assert "error[U197]: timm has no names for the weights of tutorial_cnn" in ran.err
    assert run(capsys, "export", "runs/run", "--out", "a.safetensors").status == 0
    assert (
        safetensors.torch.load_file("a.safetensors").keys()
        == load_bundle(Path("runs/run")).network.state_dict().keys()
    )


def test_training_takes_the_flag(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(world / "flowers", classes=CLASSES, each=6)
    words = ("train", "flowers", "--model", "resnet18", "--pretrained", "plain.safetensors", "--size", "32")
    quick = ("--epochs", "1", "--batch", "8", "--threads", "1", "--precision", "fp32", "--workers", "0")
    ran = run(capsys, *words, *quick, "--name", "r", "--cache", "cache", "--device", "cpu")
    assert ran.status == 0, ran.err
    assert "plain.safetensors (torchvision's names), with a new last layer; new: fc" in " ".join(
        ran.err.split()
    )
    assert json.loads(Path("runs/r/pretrained.json").read_text())["names"] == "torchvision"
