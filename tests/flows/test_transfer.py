"""Training of which a part rests: stored features, stages in time, 8-bit rounding; stopped and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convworks import models
from convworks.bundle import load_bundle
from convworks.data.loader import Loader
from convworks.durable import read_json
from convworks.errors import ConvworksError
from convworks.flows import feature_store, transfer
from convworks.flows.evaluate import EvaluateRequest, evaluate
from convworks.flows.events import EpochDone, Event, Finished, Note, Stopped
from convworks.flows.feature_store import FeatureLoader, Features
from convworks.flows.quantized import export_quantized
from convworks.flows.train import train
from convworks.recipes.recipe import Recipe, TransferSpec
from convworks.recipes.resolve import resolve
from convworks.weights.int8 import load_int8
from tests.flows.helpers import (
    fingerprint,
    request,
    resume_all,
    run_all,
    train_all,
    train_until,
    write_images,
)

pytestmark = pytest.mark.usefixtures("no_pages")

FROZEN: dict[str, Any] = {"model": "fastnet", "size": 16, "transfer.freeze": "backbone"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on other classes, whose backbone is taken."""
    work = tmp_path_factory.mktemp("other")
    images = write_images(work / "fruit", classes=("apple", "pear", "plum"))
    train_all(work, images, model="fastnet", size=16, epochs=3)
    return work / "runs" / "run"


def notes(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


def backbone(folder: Path) -> dict[str, torch.Tensor]:
    state = load_bundle(folder).network.state_dict()
    return {key: value for key, value in state.items() if not key.startswith("output.")}


# --- a frozen backbone --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("with_page")
def test_only_the_last_layer_changes_and_the_bundle_is_whole(tmp_path: Path, data: Path, other: Path) -> None:
    events = train_all(tmp_path, data, pretrained=str(other), **FROZEN, epochs=4, ema=None)
    assert "features of 60 images (256 numbers each" in notes(events)
    assert "augmentation off: the frozen backbone sees every image once" in notes(events)
    before, after = backbone(other), backbone(tmp_path / "runs" / "run")
    for key, value in before.items():  # running statistics and counters too
        assert torch.equal(after[key], value), key
    record = read_json(tmp_path / "runs" / "run" / "recipe.json")
    assert record["recipe"]["augment"]["shift"] == 0
    assert record["provenance"]["augment.shift"] == "auto, for a frozen backbone"
    done = [event for event in events if isinstance(event, EpochDone)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    best = max(each.val_accuracy or 0 for each in done)
    assert finished.metrics["top1"] == pytest.approx(best)  # features give what the whole network gives


def test_the_head_learns_as_it_does_on_the_whole_network(tmp_path: Path, data: Path, other: Path) -> None:
    """Independent: an ordinary training whose stages never join, so that all but the last rest."""
    settings = {"pretrained": str(other), "augment.shift": 0, "epochs": 3}
    train_all(tmp_path, data, **{**FROZEN, **settings})
    train_all(tmp_path, data, name="whole", **{**FROZEN, **settings, "transfer.freeze": "none"},
              **{"transfer.unfreeze": 1000})  # fmt: skip
    found, expected = (load_bundle(tmp_path / "runs" / n).network.state_dict() for n in ("run", "whole"))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_anywhere_it_ends_in_the_same_bits(
    tmp_path: Path, data: Path, other: Path, precision: str
) -> None:
    settings = {**FROZEN, "pretrained": str(other), "precision": precision, "epochs": 3}
    train_all(tmp_path / "whole", data, **settings)
    whole = fingerprint(tmp_path / "whole")
    for asked, cached in ((2, True), (5, False), (7, True)):
        work = tmp_path / str(asked)
        train_until(work, data, asked, **settings)
        if not cached:
            shutil.rmtree(work / "cache" / "features")
        assert isinstance(resume_all(work)[-1], Finished)
        assert fingerprint(work) == whole, asked


def test_features_are_found_again_and_damaged_ones_computed_again(
    tmp_path: Path, data: Path, other: Path
) -> None:
    settings = {**FROZEN, "pretrained": str(other)}
    assert "computed once" in notes(train_all(tmp_path, data, **settings))
    first = fingerprint(tmp_path)
    assert "from an earlier run" in notes(train_all(tmp_path, data, name="second", **settings))
    (entry,) = (tmp_path / "cache" / "features").iterdir()
    content = bytearray((entry / "features.f32").read_bytes())
    content[100] ^= 1
    (entry / "features.f32").write_bytes(content)
    assert "computed once" in notes(train_all(tmp_path, data, name="third", **settings))
    assert fingerprint(tmp_path, "second") == fingerprint(tmp_path, "third") == first
    assert "computed once" in notes(train_all(tmp_path, data, name="4", **{**settings, "normalize": "none"}))


def test_stopped_while_features_are_computed_nothing_is_left(tmp_path: Path, data: Path, other: Path) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return bool(list((tmp_path / "cache").glob("features/.tmp-*")))

    events = run_all(train(request(tmp_path, data, pretrained=str(other), **FROZEN), should_stop=stop))
    assert isinstance(events[-1], Stopped)
    assert not list((tmp_path / "cache" / "features").iterdir())
    assert isinstance(resume_all(tmp_path)[-1], Finished)


def test_where_the_cache_refuses_features_stay_in_memory(tmp_path: Path, data: Path, other: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "features").write_text("a file in the way")
    events = train_all(tmp_path, data, pretrained=str(other), **FROZEN)
    assert "the features are not kept in" in notes(events)
    assert isinstance(events[-1], Finished)


def test_features_too_large_for_memory_are_mapped_or_refused(
    tmp_path: Path, data: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**FROZEN, "pretrained": str(other)}
    train_all(tmp_path / "plenty", data, **settings)
    monkeypatch.setattr(feature_store, "memory_limit", lambda limit: 1000)
    train_all(tmp_path / "little", data, **settings)
    assert fingerprint(tmp_path / "little") == fingerprint(tmp_path / "plenty")
    work = tmp_path / "none"
    (work / "cache").mkdir(parents=True)
    (work / "cache" / "features").write_text("a file in the way")
    with pytest.raises(ConvworksError) as caught:
        train_all(work, data, **settings)
    assert caught.value.code == "R521"


def test_random_weights_at_rest_are_warned_of(tmp_path: Path, data: Path) -> None:
    events = train_all(tmp_path, data, **FROZEN, **{"optimizer.group_decay": {"stem": 0.1, "output": 0.2}})
    assert "the frozen backbone has random weights" in notes(events)


@pytest.mark.parametrize("model", ["nin", "lenet5_modern", "mlp128"])
def test_heads_of_several_layers(tmp_path: Path, data: Path, model: str) -> None:
    size = {"nin": 32, "mlp128": 12}.get(model, 28)
    settings: dict[str, Any] = {"regularize.dropout": 0.4} if model == "nin" else {}
    events = train_all(tmp_path, data, model=model, size=size, **settings, **{"transfer.freeze": "backbone"})
    assert isinstance(events[-1], Finished)


def test_settings_that_exclude_each_other() -> None:
    for freeze, unfreeze, quantize in (("backbone", 2, "none"), ("backbone", 0, "int8")):
        spec = TransferSpec(freeze=freeze, unfreeze=unfreeze, quantize=quantize)  # type: ignore[arg-type]
        with pytest.raises(ConvworksError, match="exclude each other") as caught:
            transfer.require_consistent(Recipe(transfer=spec))
        assert caught.value.code == "U232"
    transfer.require_consistent(Recipe(transfer=TransferSpec(unfreeze=2, quantize="int8")))


def test_a_recipe_without_a_frozen_backbone_is_left_alone() -> None:
    given = resolve(base=Recipe(), base_name="x", flags={"augment.flip": True})
    assert transfer.fitted(given) == (given, [])
    frozen = {"transfer.freeze": "backbone", "regularize.noise": 0.1, "augment.mixup": 0.2}
    found, (note,) = transfer.fitted(resolve(base=Recipe(), base_name="x", flags=frozen))
    assert found.recipe.regularize.noise == found.recipe.augment.mixup == 0
    assert note.text.startswith("augmentation and noise and stochastic depth off")
    assert found.sources["augment.mixup"] == "auto, for a frozen backbone"
    assert found.sources["transfer.freeze"] == "flag"


def test_batches_of_features_are_those_of_the_images() -> None:
    """Independent: the loader of pixels gives the order."""
    from convworks.data.preprocess import Geometry, Preprocess

    images = torch.arange(23, dtype=torch.uint8).view(23, 1, 1, 1).clone()
    labels = np.arange(23, dtype=np.int64) % 3
    rows = np.array([20, 3, 5, 7, 1, 9, 11, 2, 22], dtype=np.int64)
    geometry = Geometry(1, 1, 1, "squash", 1, 1)
    preprocess = Preprocess.fit(images, rows, geometry=geometry, normalize="none")
    features = Features(
        images.numpy().reshape(23, 1)[::-1].astype(np.float32), np.arange(23)[::-1].copy(), None
    )
    common: dict[str, Any] = {"batch": 4, "seed": 5, "device": "cpu"}
    for shuffle in (True, False):
        pixels = Loader(images, labels, rows, preprocess, **common, augment=None, shuffle=shuffle, threads=0,
                        dtype=torch.float32, memory_format=torch.contiguous_format)  # fmt: skip
        stored = FeatureLoader(features, labels, rows, **common, shuffle=shuffle)
        assert stored.steps == pixels.steps
        for epoch, start in ((0, 0), (1, 1)):
            for a, b in zip(pixels.epoch(epoch, start=start), stored.epoch(epoch, start=start), strict=True):
                assert np.array_equal(a.rows, b.rows)
                assert torch.equal(a.y, b.y)
                assert b.x[:, 0].tolist() == b.rows.tolist()


# --- stages in time -----------------------------------------------------------------------------------------

STAGED: dict[str, Any] = {"model": "fastnet", "size": 16, "transfer.unfreeze": 1, "epochs": 4}


def test_staged_unfreezing_says_so_and_ends_in_the_same_bits(tmp_path: Path, data: Path, other: Path) -> None:
    settings = {
        **STAGED,
        "pretrained": str(other),
        "optimizer.layer_decay": 0.5,
        "optimizer.name": "nesterov",
        "keep": "last",
    }
    events = train_all(tmp_path / "whole", data, **settings)
    assert "output learns first, one stage more after every epoch; stem never in 4 epochs" in notes(events)
    before, after = backbone(other), backbone(tmp_path / "whole" / "runs" / "run")
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("stem"))
    assert not torch.equal(after["block1.down.conv.weight"], before["block1.down.conv.weight"])
    whole = fingerprint(tmp_path / "whole")
    for asked in (2, 6, 11):
        train_until(tmp_path / str(asked), data, asked, **settings)
        assert isinstance(resume_all(tmp_path / str(asked))[-1], Finished)
        assert fingerprint(tmp_path / str(asked)) == whole, asked


def test_a_part_that_rests_stays_as_it_is_and_ends_in_the_same_bits(tmp_path: Path, data: Path) -> None:
    settings = {
        **STAGED,
        "transfer.unfreeze": 0,
        "transfer.freeze_after": {"stem": 1, "block1.down.norm": 2},
        "optimizer.name": "nesterov",
        "keep": "last",
    }
    steady = {**settings, "schedule.name": "constant", "schedule.warmup": 0.0, "ema": None}
    train_all(tmp_path / "short", data, **{**steady, "epochs": 1})
    train_all(tmp_path / "whole", data, **{**steady, "epochs": 2})
    after, short = (backbone(tmp_path / name / "runs" / "run") for name in ("whole", "short"))
    assert torch.equal(after["stem.conv.weight"], short["stem.conv.weight"])
    assert not torch.equal(after["block1.down.conv.weight"], short["block1.down.conv.weight"])
    train_all(tmp_path / "again", data, **settings)
    whole = fingerprint(tmp_path / "again")
    for asked in (2, 8):
        train_until(tmp_path / str(asked), data, asked, **settings)
        assert isinstance(resume_all(tmp_path / str(asked))[-1], Finished)
        assert fingerprint(tmp_path / str(asked)) == whole, asked


# --- eight bits ---------------------------------------------------------------------------------------------

ROUNDED: dict[str, Any] = {"model": "fastnet", "size": 16, "transfer.quantize": "int8", "epochs": 2}


@pytest.mark.usefixtures("with_page")
def test_rounding_is_measured_and_the_model_stays_in_floating_point(
    tmp_path: Path, data: Path, other: Path
) -> None:
    events = train_all(tmp_path, data, pretrained=str(other), **ROUNDED)
    run = tmp_path / "runs" / "run"
    assert "int8 on val: accuracy" in notes(events)
    record = read_json(run / "int8.json")
    found = record["splits"]["val"]
    assert found["n"] == 12
    gap = (found["only_int8_right"] - found["only_float_right"]) / found["n"]
    assert found["int8"] - found["float"] == pytest.approx(gap) == pytest.approx(found["difference"])
    kept = read_json(run / "evaluation" / "val.json")
    assert kept["top1"] == found["float"]
    plain = evaluate(EvaluateRequest(model=run, data=request(tmp_path, data).data, split="val"))
    assert kept["loss"] == pytest.approx(plain.metrics.loss, rel=1e-6)  # of the bundle, without rounding
    out = export_quantized(run, tmp_path / "a.safetensors", None)
    assert (out.layers, out.scales) == (8, "of the run")
    assert set(record["inputs"]) == set(load_int8(out.file).layers)
    moved = Path(shutil.copytree(run / "model", tmp_path / "moved"))
    with pytest.raises(ConvworksError, match="does not know the range") as caught:
        export_quantized(moved, tmp_path / "b.safetensors", None)
    assert caught.value.code == "U233"
    again = export_quantized(moved, tmp_path / "b.safetensors", request(tmp_path, data).data)
    assert "48 training images" in again.scales


def test_rounded_training_ends_in_the_same_bits(tmp_path: Path, data: Path, other: Path) -> None:
    settings = {**ROUNDED, "pretrained": str(other), "transfer.unfreeze": 1}
    train_all(tmp_path / "whole", data, **settings)
    whole, record = (
        fingerprint(tmp_path / "whole"),
        read_json(tmp_path / "whole" / "runs" / "run" / "int8.json"),
    )
    train_all(tmp_path / "plain", data, **{**settings, "transfer.quantize": "none"})
    assert fingerprint(tmp_path / "plain") != whole
    for asked in (3, 8, 10, 12):
        train_until(tmp_path / str(asked), data, asked, **settings)
        assert isinstance(resume_all(tmp_path / str(asked))[-1], Finished)
        assert fingerprint(tmp_path / str(asked)) == whole, asked
        assert read_json(tmp_path / str(asked) / "runs" / "run" / "int8.json") == record


# --- weight decay of parts ----------------------------------------------------------------------------------


def test_an_unknown_part_leaves_no_run(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConvworksError, match="no part of the network called 'fc9'") as caught:
        train_all(tmp_path, data, **{"optimizer.group_decay": {"fc9": 0.1}})
    assert caught.value.code == "U101"
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.usefixtures("with_page")
def test_decay_of_a_part_acts_in_a_run_and_survives_its_record(tmp_path: Path, data: Path) -> None:
    train_all(tmp_path, data)
    train_until(tmp_path, data, 3, name="other", **{"optimizer.group_decay": {"fc2": 5.0, "conv1.conv": 0.0}})
    assert isinstance(resume_all(tmp_path, "other")[-1], Finished)
    plain, other = (load_bundle(tmp_path / "runs" / n).network.state_dict() for n in ("run", "other"))
    assert float(other["fc2.weight"].norm()) < 0.9 * float(plain["fc2.weight"].norm())


def test_of_rates_and_decays_those_that_meet_the_head_are_left() -> None:
    network = models.create("fastnet", num_classes=3, input_size=(16, 16))
    (inside, _) = network.get_submodule("output").named_parameters()
    parts = {"stem": 0.1, "block1.down": 0.2, "output": 2.0, f"output.{inside[0]}": 3.0}
    given = {"optimizer.group_rate": parts, "optimizer.group_decay": parts}
    recipe = transfer.of_the_head(resolve(base=Recipe(), base_name="x", flags=given).recipe, network)
    expected = {"output": 2.0, f"output.{inside[0]}": 3.0}
    assert recipe.optimizer.group_rate == recipe.optimizer.group_decay == expected
