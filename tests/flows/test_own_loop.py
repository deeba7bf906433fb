"""A loop of one's own: `fit` ends with the weights that a run of the same recipe keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convworks.bundle import load_bundle
from convworks.data.dataset import Dataset
from convworks.errors import ConvworksError
from convworks.flows import results
from convworks.flows.events import EpochDone
from convworks.flows.own_loop import Data, fit
from convworks.flows.prepare import build_network
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import resolve
from convworks.runs import Run, read_records
from tests.flows.helpers import QUICK, train_all, write_images

STEADY: dict[str, Any] = {"epochs": 5, "optimizer.lr": 0.05}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def data(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data.from_folder(images, size=28, cache=tmp_path_factory.mktemp("cache"))


def recipe_of(**changes: Any) -> Recipe:
    return resolve(base=Recipe(), base_name="quick", flags={**QUICK, **STEADY, **changes}).recipe


def fitted(data: Data, recipe: Recipe) -> tuple[nn.Module, list[Any]]:
    network = build_network(recipe, len(data.classes), data.dataset.geometry)
    return network, list(fit(network, data, recipe))


def accuracy(network: nn.Module, data: Data) -> float:
    """By a plain loop over the torch data set."""
    with torch.no_grad():
        right = [int(network(x[None]).argmax()) == y for x, y in (data.val[i] for i in range(len(data.val)))]
    return float(np.mean(right))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": None},
        {"keep": "last"},
        {"keep": "last", "ema": None},
        {"early_stopping": 1, "optimizer.lr": 0.2},
        {"early_stopping": 1, "keep": "last", "optimizer.lr": 0.2},
        {"schedule.name": "plateau", "schedule.patience": 0, "ema": None, "optimizer.lr": 0.2},
        {"transfer.unfreeze": 2, "optimizer.layer_decay": 0.5},
        {"transfer.freeze_after": {"conv1": 1}},
        {"precision": "bf16", "ema": 0.5},
    ],
    ids=lambda changes: "-".join(changes) or "quick",
)
def test_the_network_ends_with_the_weights_that_a_run_keeps(
    tmp_path: Path, images: Path, data: Data, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Independent: `train` has its own loop over epochs, with checkpoints."""
    monkeypatch.setattr(results, "write_report", lambda run, **facts: run / "report.html")
    events = train_all(tmp_path, images, **{**STEADY, **changes})
    run = Run(tmp_path / "runs" / "run")
    network, steps = fitted(data, recipe_of(**changes))
    kept = load_bundle(run.path).network.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, kept[name]), name
    told = {each["step"]: each["lr"] for each in read_records(run.metrics_file) if each["kind"] == "step"}
    assert {step.step: step.lr for step in steps} == told
    epochs = [event for event in events if isinstance(event, EpochDone)]
    assert steps[-1].epoch + 1 == len(epochs)
    if "early_stopping" in changes:
        assert len(epochs) < 5


def test_early_stopping_waits_whatever_is_kept(data: Data) -> None:
    """A rate of almost 0 never gets better: one epoch to compare with, and two that are waited for."""
    for keep in ("best", "last"):
        recipe = recipe_of(keep=keep, early_stopping=2, ema=None, **{"optimizer.lr": 1e-30})
        assert fitted(data, recipe)[1][-1].epoch == 2, keep


def test_a_plateau_drops_the_rate(data: Data) -> None:
    changes = {"schedule.name": "plateau", "schedule.patience": 0, "schedule.max_drops": 2}
    still = recipe_of(ema=None, epochs=6, **{**changes, "optimizer.lr": 1e-30, "schedule.factor": 0.5})
    rates = [step.lr for step in fitted(data, still)[1]]
    per_epoch = rates[:: len(rates) // 6]
    assert per_epoch == pytest.approx([1e-30, 1e-30, 5e-31, 2.5e-31, 2.5e-31, 2.5e-31])


def test_the_average_is_loaded_at_the_end_and_not_before(data: Data) -> None:
    recipe = recipe_of(keep="last", epochs=2)
    network = build_network(recipe, len(data.classes), data.dataset.geometry)
    average: dict[str, Tensor] = {}
    for step in fit(network, data, recipe):  # the definition, by a plain loop
        state = {name: value.double() for name, value in network.state_dict().items()}
        if not average:
            average = {
                name: value.double()
                for name, value in build_network(recipe, 3, data.dataset.geometry).state_dict().items()
            }
        decay = min(0.9, step.step / (9 + step.step))
        average = {name: decay * average[name] + (1 - decay) * state[name] for name in state}
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)


def test_a_loop_that_is_left_keeps_the_last_step(data: Data) -> None:
    recipe = recipe_of(epochs=3)
    network = build_network(recipe, len(data.classes), data.dataset.geometry)
    steps = fit(network, data, recipe)
    for step in steps:
        if step.epoch == 1:
            break
    before = {name: value.clone() for name, value in network.state_dict().items()}
    steps.close()  # type: ignore[attr-defined]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_kept_weights_are_the_best_on_the_validation_images(data: Data) -> None:
    recipe = recipe_of(ema=None, epochs=4, **{"optimizer.lr": 0.2})
    network = build_network(recipe, len(data.classes), data.dataset.geometry)
    scores = []
    for step in fit(network, data, recipe):
        if step.step % 3 == 0:  # an epoch has 48 images in batches of 16
            scores.append(accuracy(network.eval(), data))
            network.train()
    assert accuracy(network.eval(), data) == max(scores)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"initialize": "he"}, "initialize = he"),
        ({"pretrained": "imagenet1k_v1"}, "pretrained"),
        ({"init": "runs/a"}, "init"),
        ({"transfer.freeze": "backbone"}, "transfer.freeze = backbone"),
        ({"transfer.quantize": "int8"}, "transfer.quantize = int8"),
    ],
)
def test_what_a_network_of_ones_own_cannot_have(data: Data, changes: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConvworksError, match=f"fit cannot use {setting}") as caught:
        fit(nn.Flatten(), data, recipe_of(**changes))
    assert caught.value.code == "U288"
    assert "convworks.train(DATA" in caught.value.try_


class _NoValidation(Data):
    """Data whose validation images are training images."""

    @property
    def dataset(self) -> Dataset:
        found = super().dataset
        samples = tuple(
            each._replace(split="train" if each.split == "val" else each.split)
            for each in found.manifest.samples
        )
        return replace(found, manifest=replace(found.manifest, samples=samples))


def test_without_validation_images(data: Data) -> None:
    bare = _NoValidation(data._prepared, data._recipe)
    assert not len(bare.dataset.split_rows("val"))
    for changes in ({"early_stopping": 2}, {"schedule.name": "plateau"}):
        with pytest.raises(ConvworksError, match="needs validation images, and colours has none") as caught:
            fit(nn.Flatten(), bare, recipe_of(**changes))
        assert caught.value.code == "U289"
    recipe = recipe_of(epochs=1)
    network = build_network(recipe, 3, data.dataset.geometry)
    assert len(list(fit(network, bare, recipe))) > 0  # keep = best: the last, as there is nothing to judge by
