"""Every recipe trains: two steps on small images, and what a run says about its recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from convworks import models
from convworks.errors import ConvworksError
from convworks.flows.events import Note, Will
from convworks.flows.initial import LSUV_IMAGES, first_images, initialise_as_wanted
from convworks.flows.prepare import (
    DataRequest,
    Prepared,
    build_network,
    optimizer_for,
    prepare_data,
    schedule_for,
    step_settings,
    training_loader,
)
from convworks.flows.train import ResumeRequest, TrainRequest, resume, train
from convworks.ops.arguments import BadArgument
from convworks.recipes.defaults import entry, names, recipe, resolve_named
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import build
from convworks.runs import Run
from convworks.training.initialize import SCHEMES
from convworks.training.loop import Numerics, Position, train_epoch
from convworks.training.optimizer import set_learning_rate
from tests.flows.helpers import QUICK, request, write_images

pytestmark = pytest.mark.usefixtures("no_pages")

SIDES = {"googlenet": 64, "bn_inception": 64, "resnet34": 64, "fastnet": 32, "mobilenet_v1_100_224": 32}
GIANTS = ("vgg_", "alexnet")  # their procedure is tried with a small network
STEPS = 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos"), each=8)


def never() -> bool:
    return False


def prepared_for(row: Recipe, photos: Path, cache: Path) -> Prepared:
    data = DataRequest(location=str(photos), cache=cache)
    return prepare_data(data, row, expected=None, geometry=None, should_stop=never)


def small(name: str) -> Recipe:
    """The recipe with the smallest images that its network takes; everything else is as it stands."""
    row = recipe(name)
    giant = row.model.startswith(GIANTS)
    side = row.size if row.size and row.size <= 32 else SIDES.get(row.model, 32)
    changes: dict[str, Any] = {"size": side, "batch": min(row.batch, 8), "precision": "fp32"}
    if giant:
        changes |= {"model": "cifar_quick"}
        row = build({"model_options": {}}, row)
    if row.stored:
        changes["stored"] = side + 8
    if row.augment.scale_jitter:
        changes["augment.scale_jitter"] = [side, side + 16]
    return build(changes, row)


@pytest.mark.parametrize("name", names())
def test_every_recipe_trains(name: str, photos: Path, tmp_path: Path) -> None:
    row = small(name)
    prepared = prepared_for(row, photos, tmp_path)
    network = build_network(row, 3, prepared.dataset.geometry)
    initialise_as_wanted(network, row, prepared)
    loader = training_loader(prepared, row, numerics=Numerics(), workers=0)
    before = {key: value.clone() for key, value in network.named_parameters()}
    labels = prepared.dataset.labels[torch.from_numpy(prepared.dataset.split_rows("train"))]
    settings = step_settings(row, labels, 3, "cpu")
    losses = []
    for step in train_epoch(
        network, loader, optimizer_for(row, network), position=Position(),
        schedule=schedule_for(row, loader.steps), settings=settings, numerics=Numerics(),
    ):  # fmt: skip
        losses.append(step.loss)
        if step.step == STEPS:
            break
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    assert any(not torch.equal(before[key], value) for key, value in network.named_parameters())


# --- the rule of the initial weights -----------------------------------------------------------------------


def test_every_rule_of_the_settings_is_known_and_none_is_missing() -> None:
    from typing import get_args, get_type_hints

    words = get_args(get_type_hints(Recipe)["initialize"])
    assert set(words) == {"network", "lsuv", "whitened", *SCHEMES}


def quick(**changes: Any) -> Recipe:
    return build({**QUICK, "threads": 1, **changes}, Recipe())


def test_whitening_fills_the_first_convolution_alone(photos: Path, tmp_path: Path) -> None:
    row = quick(initialize="whitened", model="airbench94", size=32, batch=4)
    prepared = prepared_for(row, photos, tmp_path)
    network = build_network(row, 3, prepared.dataset.geometry)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert "whiten.conv whitens" in initialise_as_wanted(network, row, prepared)
    changed = [key for key, value in network.state_dict().items() if not value.equal(before[key])]
    assert changed == ["whiten.conv.weight"]


def test_lsuv_gives_every_layer_variance_one(photos: Path, tmp_path: Path) -> None:
    row = quick(initialize="lsuv", model="tutorial_cnn", batch=4)
    prepared = prepared_for(row, photos, tmp_path)
    network = build_network(row, 3, prepared.dataset.geometry)
    told = initialise_as_wanted(network, row, prepared)
    images = first_images(row, prepared, count=LSUV_IMAGES)
    assert len(images) == min(LSUV_IMAGES, len(prepared.dataset.split_rows("train")))
    assert f"{len(images)} training images" in told
    seen: dict[torch.nn.Module, float] = {}

    def measure(layer: torch.nn.Module, _: Any, y: torch.Tensor) -> None:
        seen[layer] = float(y.double().var(correction=0))

    for layer in network.modules():
        if hasattr(layer, "weight"):
            layer.register_forward_hook(measure)
    with torch.no_grad():
        network.eval()(images)
    assert len(seen) == 4
    assert all(abs(variance - 1) < 0.011 for variance in seen.values()), seen


@pytest.mark.parametrize("rule", ["network", "he", "lsuv"])
def test_initial_weights_follow_from_the_seed(rule: str, photos: Path, tmp_path: Path) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        row = quick(initialize=rule, seed=seed)
        prepared = prepared_for(row, photos, tmp_path)
        network = build_network(row, 3, prepared.dataset.geometry)
        torch.manual_seed(123)
        initialise_as_wanted(network, row, prepared)
        return [p.detach().clone() for p in network.parameters()]

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_a_rule_that_does_not_fit_is_refused_and_leaves_no_folder(photos: Path, tmp_path: Path) -> None:
    """AlexNet's biases of 1 are those of eight layers; this network has four."""
    with pytest.raises(BadArgument, match="4 dense and convolutional layers"):
        list(train(request(tmp_path, photos, initialize="alexnet")))
    assert not list((tmp_path / "runs").glob("*/recipe.json"))


def test_a_run_says_and_uses_its_rule(photos: Path, tmp_path: Path) -> None:
    events = list(train(request(tmp_path, photos, epochs=1, initialize="lsuv")))
    told = [each.text for each in events if isinstance(each, Note)]
    assert any(text.startswith("initial weights: lsuv") for text in told)


# --- what a run says about its recipe ----------------------------------------------------------------------


def run_of(tmp_path: Path, photos: Path, name: str | None, **flags: Any) -> tuple[Will, dict[str, Any], Run]:
    wanted = {
        "size": 32, "epochs": 1, "batch": 8, "precision": "fp32", "threads": 1, "workers": 0,
        "memory_format": "contiguous", "device": "cpu", **flags,
    }  # fmt: skip
    data = DataRequest(location=str(photos), cache=tmp_path / "cache")
    resolved = resolve_named(name, flags=wanted)
    asked = TrainRequest(data=data, resolved=resolved, out=tmp_path / "runs", name="r")
    (will,) = [each for each in train(asked) if isinstance(each, Will)]
    run = Run(tmp_path / "runs" / "r")
    return will, json.loads(run.recipe_file.read_text()), run


@pytest.mark.usefixtures("with_page")
def test_the_compliance_line_is_printed_and_stored(photos: Path, tmp_path: Path) -> None:
    will, record, _ = run_of(tmp_path, photos, "resnet2015_cifar")
    assert will.compliance.startswith(
        "recipe resnet2015_cifar: differs from the paper in epochs (182 -> 1, flag), batch (128 -> 8, flag)"
    )
    assert record["compliance"] == will.compliance
    assert record["recipe_name"] == "resnet2015_cifar"


def test_ours_has_no_paper(photos: Path, tmp_path: Path) -> None:
    will, record, _ = run_of(tmp_path, photos, None)
    assert will.compliance == record["compliance"] == "recipe fastnet: ours, no paper"


def test_a_resumed_run_keeps_its_line_and_changes_it_with_its_settings(photos: Path, tmp_path: Path) -> None:
    from convworks.recipes.resolve import from_dict, resolve

    wanted: dict[str, Any] = {
        "size": 32, "epochs": 2, "batch": 8, "precision": "fp32", "threads": 1, "workers": 0,
        "memory_format": "contiguous", "device": "cpu",
    }  # fmt: skip
    data = DataRequest(location=str(photos), cache=tmp_path / "cache")
    resolved = resolve_named("resnet2015_cifar", flags=wanted)
    asked = TrainRequest(data=data, resolved=resolved, out=tmp_path / "runs", name="r")
    calls = iter(range(10**6))
    list(train(asked, should_stop=lambda: next(calls) > 3))
    run = Run(tmp_path / "runs" / "r")
    assert not run.finished
    record = run.record()
    changes = resolve(base=from_dict(record["recipe"]), base_name="r", flags={"optimizer.momentum": 0.5})
    again = ResumeRequest(run=run.path, cache=tmp_path / "cache", changes=changes, override=True)
    (will,) = [each for each in resume(again) if isinstance(each, Will)]
    assert "optimizer.momentum (0.9 -> 0.5, flag)" in will.compliance
    assert "epochs (182 -> 2, flag)" in will.compliance
    assert run.record()["compliance"] == will.compliance


def test_a_run_of_an_older_version_has_no_line(photos: Path, tmp_path: Path) -> None:
    _, record, run = run_of(tmp_path, photos, "mlp128_l2")
    del record["recipe_name"], record["compliance"]
    run.write_json(run.recipe_file, record)
    list(resume(ResumeRequest(run=run.path, cache=tmp_path / "cache")))
    assert "compliance" not in run.record()


def test_parts_of_a_network_have_rates_of_their_own() -> None:
    """The shifts of batch norm learn at 64 times the rate and decay by a 64th of it (Jordan 2024, 3.4)."""
    row = entry("airbench2024").recipe
    network = models.create(row.model, num_classes=10)
    optimizer = optimizer_for(row, network)
    set_learning_rate(optimizer, 0.5)
    names = {id(p): name for name, p in network.named_parameters()}
    rates = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert rates["block1.conv1.weight"] == (0.5, row.optimizer.weight_decay)
    assert rates["block2.norm1.bias"][0] == 32.0
    assert rates["block2.norm1.bias"][1] == pytest.approx(row.optimizer.weight_decay / 64, rel=1e-4)
    assert "whiten.conv.weight" not in rates


def test_a_rate_for_a_part_that_there_is_not_names_the_near_one() -> None:
    row = build({"optimizer.group_rate.block1.norm1.bais": 2.0}, entry("airbench2024").recipe)
    with pytest.raises(ConvworksError, match=r"optimizer.group_rate.block1.norm1.bias=10"):
        optimizer_for(row, models.create(row.model, num_classes=10))
