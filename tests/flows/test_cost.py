"""The cost of a training before it runs: the batch that is tried, and what is left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convworks import models
from convworks.anatomy import trace
from convworks.flows import cost as flow
from convworks.flows.cost import Cost, count_images, estimate, fitting_batch, measure
from convworks.flows.prepare import DataRequest
from convworks.flows.train import TrainRequest, train
from convworks.recipes.defaults import resolve_named


def made(name: str = "lenet5_modern", **flags: object) -> Cost:
    info = models.info(name)
    image = (info.in_channels, *info.input_size)
    with torch.device("meta"):
        rows = trace(models.create(name, num_classes=10), image)
    resolved = resolve_named(None, flags={"model": name, "threads": 1, "device": "cpu", **flags})
    return estimate(resolved, rows, image=image, classes=10, counts=None)


def test_the_estimate_is_of_the_recipe() -> None:
    plain, averaged = made(batch=8), made("lenet5", batch=8)
    assert plain.need.weights == plain.need.optimizer == 4 * 61_706
    assert plain.average == 0
    assert averaged.average == averaged.need.weights  # its recipe averages the weights
    assert made(batch=16).need.training_activations == 2 * plain.need.training_activations
    assert made("mlp128").states == 2  # Adam


@pytest.mark.parametrize("free", [round(10**6 * 1.2**n) for n in range(32)])
def test_no_more_than_a_third_of_the_free_memory(free: int) -> None:
    cost = replace(made(batch=96), free=free)
    batch = fitting_batch(cost)
    each = cost.need.training_activations / 96
    fixed = cost.total - cost.need.training_activations
    assert batch in (0, *(2**n for n in range(7)), 96)
    assert batch == 0 or flow.MARGIN * (fixed + batch * each) <= free / 3
    larger = 96 if batch >= 64 else max(1, 2 * batch)
    assert batch == 96 or flow.MARGIN * (fixed + larger * each) > free / 3


def test_what_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a network was built")

    cost = replace(made(), free=10**5)
    monkeypatch.setattr(models, "create", fail)
    found = measure(cost)
    assert isinstance(found, str)
    assert "a third of the" in found


def test_measuring_leaves_the_program_as_it_was() -> None:
    cost = made(batch=4)
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    timing = measure(cost)
    assert not isinstance(timing, str)
    assert (timing.batch, timing.device, timing.threads) == (4, "cpu", 1)
    assert timing.inference > 0
    assert 0 < timing.step < 1
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_times_are_taken_for_every_image_of_every_epoch() -> None:
    timing = flow.Timing(8, step=0.01, inference=0.002, device="cpu", threads=1, precision="fp32", grown=0)
    counts = flow.Counts("photos", train=900, val=100, test=50, classes=2, image=(1, 28, 28), rule="")
    cost = replace(made(epochs=7), timing=timing, counts=counts)
    assert cost.epoch_seconds == pytest.approx(900 * 0.01 + 100 * 0.002)
    assert cost.run_seconds == pytest.approx(7 * 9.2)
    assert replace(cost, counts=None).run_seconds is None


def test_a_named_recipes_time_is_predicted(tmp_path: Path) -> None:
    """Within a factor of four, on a machine that does other things too: the epochs of a real training."""
    settings = {
        "epochs": 3,
        "threads": 1,
        "device": "cpu",
        "precision": "fp32",
        "memory_format": "contiguous",
    }
    resolved = resolve_named("lenet5_modern", flags={**settings, "workers": 0})
    data = DataRequest(location="digits", cache=tmp_path / "cache")
    counts, resolved = count_images(data, resolved)
    with torch.device("meta"):
        network = models.create("lenet5_modern", num_classes=10, in_channels=1, input_size=counts.image[1:])
        rows = trace(network, counts.image)
    cost = estimate(resolved, rows, image=counts.image, classes=10, counts=counts)
    timing = measure(cost)
    assert not isinstance(timing, str)
    predicted = replace(cost, timing=timing).run_seconds
    for _ in train(TrainRequest(data=data, resolved=resolved, out=tmp_path / "runs", name="run")):
        pass
    lines = map(json.loads, (tmp_path / "runs" / "run" / "timing.jsonl").read_text().splitlines())
    taken = sum(each["wall_seconds"] for each in lines if each["event"] == "epoch")
    assert predicted is not None
    assert taken / 4 < predicted < 4 * taken


def test_rmsprop_keeps_a_mean_square_and_a_momentum() -> None:
    assert made(**{"optimizer.name": "rmsprop"}).states == 2
    assert made(**{"optimizer.name": "rmsprop", "optimizer.momentum": 0.0}).states == 1
