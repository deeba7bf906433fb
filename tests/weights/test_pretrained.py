"""Training that begins with weights: by path or name, with the right head, to the bit where it is stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from convworks import models
from convworks.bundle import load_bundle
from convworks.durable import read_json
from convworks.errors import ConvworksError
from convworks.flows import pretrained
from convworks.flows.events import Event, Finished, Note
from convworks.flows.train import train
from convworks.training.checkpoint import load_checkpoint
from convworks.weights.export import export_safetensors
from convworks.weights.published import Published
from tests.flows.helpers import fingerprint, request, resume_all, train_all, train_until, write_images

pytestmark = pytest.mark.usefixtures("no_pages")

MODEL = "tutorial_cnn"
NO_STEP: dict[str, Any] = {"optimizer.lr": 1e-30, "optimizer.weight_decay": 0.0, "ema": None, "epochs": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network for five classes, whose names the file knows."""
    torch.manual_seed(7)
    network = models.create(MODEL, num_classes=5, in_channels=3, input_size=(28, 28))
    file = tmp_path_factory.mktemp("weights") / "five.safetensors"
    return export_safetensors(network, file, model=MODEL, classes=("red", "white", "green", "black", "blue"))


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_bundle(folder).network.state_dict()


@pytest.mark.usefixtures("with_page")
def test_a_run_begins_with_the_weights_and_records_them(tmp_path: Path, data: Path, weights: Path) -> None:
    events = train_all(tmp_path, data, pretrained=str(weights), **NO_STEP)
    assert f"weights from {weights} (convworks's names), with its last layer, in the order of" in notes(
        events
    )
    found, run = state(tmp_path / "runs" / "run"), tmp_path / "runs" / "run"
    from safetensors.torch import load_file

    given = load_file(weights)
    heads = [name for name in given if given[name].shape != found[name].shape]
    assert len(heads) == 2
    for name, tensor in given.items():
        expected = tensor[[4, 2, 0]] if name in heads else tensor  # blue, green, red
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
    record = read_json(run / "pretrained.json")
    assert (record["from"], record["head"], record["initial"]) == (str(weights), "rows", [])


def test_classes_that_the_weights_do_not_know_get_a_new_head(tmp_path: Path, weights: Path) -> None:
    other = write_images(tmp_path / "fruit", classes=("apple", "blue", "pear"))
    events = train_all(tmp_path, other, pretrained=str(weights), **NO_STEP)
    record = read_json(tmp_path / "runs" / "run" / "pretrained.json")
    assert record["head"] == "new"
    assert len(record["initial"]) == 2
    assert f"with a new last layer; new: {record['initial'][0].rpartition('.')[0]}" in notes(events)
    train_all(tmp_path, other, name="from scratch", **NO_STEP)
    found, scratch = (state(tmp_path / "runs" / name) for name in ("run", "from scratch"))
    for name in record["initial"]:  # the seed's own, as in a run without weights
        assert torch.equal(found[name], scratch[name])
    body = next(name for name in found if name not in record["initial"])
    assert not torch.equal(found[body], scratch[body])


def test_stopped_anywhere_it_ends_in_the_same_bits(tmp_path: Path, data: Path, weights: Path) -> None:
    train_all(tmp_path / "whole", data, pretrained=str(weights))
    train_all(tmp_path / "scratch", data)
    whole = fingerprint(tmp_path / "whole")
    assert fingerprint(tmp_path / "scratch") != whole
    for asked in (1, 4, 6):
        work = tmp_path / str(asked)
        copy = Path(shutil.copy(weights, tmp_path / f"{asked}.safetensors"))
        train_until(work, data, asked, pretrained=str(copy))
        copy.unlink()  # not needed any more: the checkpoint has them
        assert isinstance(resume_all(work)[-1], Finished)
        assert fingerprint(work) == whole


def test_before_the_first_checkpoint_the_weights_must_be_the_same(
    tmp_path: Path, data: Path, weights: Path
) -> None:
    copy = Path(shutil.copy(weights, tmp_path / "copy.safetensors"))
    train_until(tmp_path, data, 4, pretrained=str(copy))
    shutil.rmtree(tmp_path / "runs" / "run" / "checkpoints")
    network = models.create(MODEL, num_classes=5, in_channels=3, input_size=(28, 28))
    copy.unlink()
    export_safetensors(network, copy, model=MODEL)
    with pytest.raises(ConvworksError, match="are not those that the run run was begun with") as caught:
        resume_all(tmp_path)
    assert caught.value.code == "A420"
    shutil.copy(weights, copy)
    assert isinstance(resume_all(tmp_path)[-1], Finished)


def test_a_run_can_be_what_another_begins_with(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_all(tmp_path, data, epochs=1)
    monkeypatch.chdir(tmp_path)
    events = train_all(tmp_path, data, name="second", pretrained="runs/run", **NO_STEP)
    assert "with its last layer: the classes are the same" in notes(events)
    record = read_json(tmp_path / "runs" / "second" / "recipe.json")
    assert record["recipe"]["pretrained"] == str(tmp_path / "runs" / "run")  # resuming works from anywhere
    first, second = (state(tmp_path / "runs" / name) for name in ("run", "second"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-6)


def test_what_cannot_be_begun_with_leaves_no_folder(tmp_path: Path, data: Path, weights: Path) -> None:
    with pytest.raises(ConvworksError) as caught:
        list(train(request(tmp_path, data, pretrained="imagenet1k_v1")))
    assert caught.value.code == "U195"
    assert "none are known for tutorial_cnn" in str(caught.value)
    with pytest.raises(ConvworksError) as caught:
        list(train(request(tmp_path, data, pretrained=str(weights), model="fastnet", size=32)))
    assert caught.value.code == "A417"
    assert not list((tmp_path / "runs").iterdir())


def test_a_name_is_announced_brought_and_found_again(
    tmp_path: Path, data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convworks.weights.importer import import_weights

    row = Published(MODEL, "v1", "five-12345678.pth", 1.5)
    brought: list[bool] = []

    def bring(row: Published, *, cache: Path, offline: bool) -> Path:
        folder = pretrained.folder_of(row, cache)
        brought.append(offline)
        if not folder.exists():
            import_weights(weights, model=MODEL, out=folder, size=28, channels=3)
        return folder

    monkeypatch.setattr(pretrained, "find_published", lambda *_: row)
    monkeypatch.setattr(pretrained, "bring", bring)
    events = train_all(tmp_path, data, pretrained="v1", **NO_STEP)
    assert isinstance(events[0], Note)
    assert events[0].text == f"downloading five-12345678.pth (1.6 MB) to {tmp_path / 'cache' / 'weights'}"
    assert read_json(tmp_path / "runs" / "run" / "recipe.json")["recipe"]["pretrained"] == "v1"
    again = train_all(tmp_path, data, name="again", pretrained="v1", **NO_STEP)
    assert "downloading" not in notes(again)
    newest = max((tmp_path / "runs" / "run" / "checkpoints").glob("step-*"))
    assert load_checkpoint(newest).tensors["network"]
    assert len(brought) == 4
