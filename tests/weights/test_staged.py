"""Staged initialisation: VGG's seven layers to the bit, and layers of the same name and shape elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convworks import models
from convworks.durable import read_json
from convworks.errors import ConvworksError
from convworks.flows.events import Event, Finished, Note
from convworks.training.checkpoint import load_checkpoint
from convworks.weights.export import export_safetensors
from convworks.weights.files import WeightFile, read_weights
from convworks.weights.staged import PAPER, copy_shared
from tests.flows.helpers import fingerprint, resume_all, train_all, train_until, write_images

pytestmark = pytest.mark.usefixtures("no_pages")

SEVEN = (  # Simonyan, Zisserman 2015, section 3.1: the first four convolutions and the three dense layers
    "conv1.conv1_1",
    "conv2.conv2_1",
    "conv3.conv3_1",
    "conv3.conv3_2",
    "fc6.linear",
    "fc7.linear",
    "fc8",
)


def narrow(name: str, *, classes: int = 5, seed: int = 0, batch_norm: bool = False) -> nn.Module:
    """VGG for images of 32x32, whose first dense layer is small enough for a test."""
    torch.manual_seed(seed)
    return models.create(name, num_classes=classes, in_channels=1, input_size=(32, 32), batch_norm=batch_norm)


def file_of(network: nn.Module, model: str, classes: tuple[str, ...] = ()) -> WeightFile:
    return WeightFile(
        path=Path("there.safetensors"), tensors=network.state_dict(), sha256="0", model=model, classes=classes
    )


@pytest.mark.parametrize("name", ["vgg_d", "vgg_e"])
def test_vgg_a_gives_seven_layers_to_the_bit(name: str) -> None:
    source, target = narrow("vgg_a"), narrow(name, seed=1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    found = copy_shared(target, file_of(source, "vgg_a"), model=name)
    assert found.copied == SEVEN
    assert found.rule == PAPER
    assert len(found.tensors) == 14
    after, given = target.state_dict(), source.state_dict()
    for key in after:
        layer = key.rpartition(".")[0]
        assert torch.equal(after[key], given[key] if layer in SEVEN else before[key]), key
    assert found.left["conv4.conv4_1"] == "not one of the rule's"  # though name and shape are the same


def test_batch_norms_of_the_deeper_network_keep_their_values() -> None:
    found = copy_shared(
        narrow("vgg_d", batch_norm=True), file_of(narrow("vgg_a"), "vgg_a"), model="vgg_d",
        options={"batch_norm": True},
    )  # fmt: skip
    assert found.copied == SEVEN


def test_other_classes_keep_their_last_layer() -> None:
    found = copy_shared(narrow("vgg_d", classes=4), file_of(narrow("vgg_a"), "vgg_a"), model="vgg_d")
    assert found.copied == SEVEN[:-1]
    assert found.left["fc8"] == "(5, 4096) there, (4, 4096) here"
    names = tuple("abcde")
    found = copy_shared(
        narrow("vgg_d"), file_of(narrow("vgg_a"), "vgg_a", names), model="vgg_d", classes=tuple("vwxyz")
    )
    assert found.left["fc8"] == "other classes"


def test_rows_of_the_last_layer_follow_the_names() -> None:
    source, target = narrow("vgg_a"), narrow("vgg_d", classes=3)
    found = copy_shared(
        target, file_of(source, "vgg_a", tuple("abcde")), model="vgg_d", classes=("d", "a", "e")
    )
    assert found.copied == SEVEN
    weight = source.get_parameter("fc8.weight")
    assert torch.equal(target.get_parameter("fc8.weight"), weight[[3, 0, 4]])


def test_elsewhere_name_and_shape_decide() -> None:
    torch.manual_seed(0)
    source = models.create("resnet20_cifar", num_classes=4)
    target = models.create("resnet32_cifar", num_classes=4)
    found = copy_shared(target, file_of(source, "resnet20_cifar"), model="resnet32_cifar")
    assert set(found.copied) == {
        key.rpartition(".")[0] for key in source.state_dict()
    }  # every layer of the shallower one
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)
    assert all(reason == "not in the source" for reason in found.left.values())


def test_where_nothing_fits_it_says_why() -> None:
    torch.manual_seed(0)
    target = models.create("tutorial_cnn", num_classes=3, in_channels=3, input_size=(28, 28))
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ConvworksError, match="no layer of vgg_a fits tutorial_cnn") as caught:
        copy_shared(target, file_of(narrow("vgg_a"), "vgg_a"), model="tutorial_cnn")
    assert caught.value.code == "A421"
    assert "conv1.conv1_1" in caught.value.where
    other = nn.ModuleDict({"fc2": nn.Linear(9, 9), "conv1": nn.ModuleDict({"conv": nn.Conv2d(2, 2, 5)})})
    with pytest.raises(ConvworksError) as caught:
        copy_shared(target, file_of(other, "other"), model="tutorial_cnn")
    assert "conv1.conv ((2, 2, 5, 5) there" in caught.value.where
    assert "fc2 ((9, 9) there" in caught.value.where
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


# --- in a training ----------------------------------------------------------------------------------------

STACK: dict[str, Any] = {
    "model": "stack",
    "model_options.spec": "8@3x3 relu, max 2x2/2, 12@3x3 relu, max 2x2/2, dense K",
    "init": None,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    options = {"spec": "8@3x3 relu, max 2x2/2, 16@3x3 relu, max 2x2/2, dense K"}
    network = models.create("stack", num_classes=3, in_channels=3, input_size=(28, 28), **options)
    file = tmp_path_factory.mktemp("weights") / "first.safetensors"
    return export_safetensors(network, file, model="stack", options=options, classes=("blue", "green", "red"))


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


@pytest.mark.usefixtures("with_page")
def test_a_run_says_and_records_what_was_copied(tmp_path: Path, data: Path, weights: Path) -> None:
    settings = {
        **STACK,
        "init": str(weights),
        "epochs": 1,
        "optimizer.lr": 1e-30,
        "optimizer.weight_decay": 0.0,
    }
    events = train_all(tmp_path, data, **settings, ema=None)
    assert f"1 layer copied from {weights} (stack), by the same name and shape: conv1.conv" in notes(events)
    assert "not copied: conv2.conv ((16, 8, 3, 3) there, (12, 8, 3, 3) here), dense1" in notes(events)
    record = read_json(tmp_path / "runs" / "run" / "init.json")
    assert (record["copied"], record["source"], record["from"]) == (["conv1.conv"], "stack", str(weights))
    newest = max((tmp_path / "runs" / "run" / "checkpoints").glob("step-*"))
    given = read_weights(weights).tensors["conv1.conv.weight"]
    torch.testing.assert_close(
        load_checkpoint(newest).tensors["network"]["conv1.conv.weight"], given, rtol=0, atol=1e-6
    )


def test_stopped_anywhere_it_ends_in_the_same_bits(tmp_path: Path, data: Path, weights: Path) -> None:
    settings = {**STACK, "init": str(weights)}
    train_all(tmp_path / "whole", data, **settings)
    whole = fingerprint(tmp_path / "whole")
    for asked in (1, 5):
        train_until(tmp_path / str(asked), data, asked, **settings)
        assert isinstance(resume_all(tmp_path / str(asked))[-1], Finished)
        assert fingerprint(tmp_path / str(asked)) == whole


def test_two_beginnings_exclude_each_other(tmp_path: Path, data: Path, weights: Path) -> None:
    with pytest.raises(ConvworksError, match="pretrained and init exclude each other") as caught:
        train_all(tmp_path, data, **{**STACK, "init": str(weights), "pretrained": str(weights)})
    assert caught.value.code == "U232"
    with pytest.raises(ConvworksError) as caught:
        train_all(tmp_path, data, **{**STACK, "init": "nowhere.safetensors"})
    assert caught.value.code == "A411"
    assert not list(tmp_path.glob("runs/*"))
