"""Recipes: precedence, provenance, types and ranges, and the messages for what does not fit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.recipes.defaults import RECIPES, adapt_to_size, names, recipe, recipe_for, resolve_named
from convworks.recipes.recipe import SAFE_KEYS, Recipe, help_lines, leaves
from convworks.recipes.resolve import (
    build,
    differences,
    from_dict,
    parse_assignment,
    read_config,
    resolve,
    to_dict,
)


def test_flag_before_set_before_config_before_recipe_before_default(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("epochs = 3\nbatch = 3\nseed = 3\n[optimizer]\nlr = 0.3\n")
    found = resolve_named("lenet5", config=config, assignments=("epochs=4", "batch=4"), flags={"epochs": 5})
    assert (found.recipe.epochs, found.recipe.batch, found.recipe.seed) == (5, 4, 3)
    assert found.recipe.optimizer.lr == 0.3
    sources = {
        key: found.sources[key] for key in ("epochs", "batch", "seed", "optimizer.lr", "ema", "accumulate")
    }
    assert sources == {
        "epochs": "flag",
        "batch": "--set",
        "seed": "config mine.toml",
        "optimizer.lr": "config mine.toml",
        "ema": "recipe lenet5",
        "accumulate": "default",
    }


def test_every_setting_has_a_source_and_a_line_of_help() -> None:
    found = resolve(base=Recipe(), base_name="x")
    keys = [key for key, _ in leaves(Recipe())]
    assert set(found.sources) == set(keys) == set(help_lines())
    for key, (text, default) in help_lines().items():
        assert text.endswith((".", "w).")), key
        assert dict(leaves(Recipe()))[key] == default


def test_the_wanted_model_brings_its_recipe(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text('model = "mlp128"')
    assert resolve_named(None, flags={"model": "lenet5"}).recipe.ema == RECIPES["lenet5"].ema
    assert resolve_named(None, assignments=("model=lenet5",)).recipe.ema == RECIPES["lenet5"].ema
    assert resolve_named(None, config=config).recipe.optimizer.name == "adam"
    assert resolve_named(None).recipe.model == "fastnet"
    assert recipe_for("something_else")[1].model == "something_else"


@pytest.mark.parametrize("name", names())
def test_every_recipe_is_valid_and_round_trips(name: str) -> None:
    row = recipe(name)
    assert row.model in models.names()
    assert from_dict(to_dict(row)) == row
    assert build({}, row) == row


@pytest.mark.parametrize("model", models.names())
def test_every_model_has_a_recipe_for_networks_of_its_kind(model: str) -> None:
    name, row = recipe_for(model)
    assert row.model == model
    if name == model:
        return
    with torch.device("meta"):
        network = models.create(model, num_classes=10)
    normed = any(isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d) for layer in network.modules())
    assert name == ("fastnet" if normed else "without_batch_norm")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", ("epochs", 3)),
        ("optimizer.lr=1e-3", ("optimizer.lr", 1e-3)),
        ("augment.flip=true", ("augment.flip", True)),
        ("model=lenet5", ("model", "lenet5")),
        ("ema=none", ("ema", None)),
        ("normalize=none", ("normalize", "none")),
        ("schedule.milestones=[0.5, 0.9]", ("schedule.milestones", [0.5, 0.9])),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_assignments(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("epochs", r"U111.*--set needs key=value"),
        ("=3", r"U111"),
        ("epoch=3", r"U101.*no setting called 'epoch'[\s\S]*did you mean 'epochs'"),
        ("optimizer.learning=3", r"U101"),
        ("epochs=0", r"U112.*epochs = 0: greater than or equal to 1"),
        ("epochs=2.5", r"U112.*epochs = 2.5"),
        ("optimizer.lr=fast", r"U112.*optimizer.lr = 'fast'"),
        ("optimizer.lr=nan", r"U112"),
        ("optimizer.lr=-1", r"U112.*greater than 0"),
        ("optimizer.momentum=1", r"U112.*less than 1"),
        (
            "schedule.name=linear",
            r"U112.*'constant', 'step', 'plateau', 'exponential', 'cosine', 'warm-restarts', 'one-cycle' or "
            "'triangle'",
        ),
        ("model_options.x=[1]", r"U112"),
        ("augment.flip=perhaps", r"U112.*augment.flip"),
        ("seed=-1", r"U112"),
    ],
)
def test_bad_settings_say_what_and_what_is_allowed(assignment: str, words: str) -> None:
    with pytest.raises(ConvworksError, match=words) as caught:
        resolve(base=Recipe(), base_name="x", assignments=(assignment,))
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("content", ["epochs = ", "[[", "\xff", "a" * 2_000_000, "epochs = 1\nepochs = 2"])
def test_bad_config_files_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ConvworksError, match=r"U110.*bad\.toml"):
        read_config(path)
    with pytest.raises(ConvworksError, match=r"U110.*none\.toml"):
        read_config(tmp_path / "none.toml")


def test_differences_name_old_and_new() -> None:
    new = build({"epochs": 3, "optimizer.lr": 0.5}, Recipe())
    assert differences(Recipe(), new) == [("epochs", 10, 3), ("optimizer.lr", 0.05, 0.5)]
    assert SAFE_KEYS.issubset(key for key, _ in leaves(Recipe()))


def test_a_record_with_dotted_paths_builds_nothing() -> None:
    tree = to_dict(Recipe())
    for bad in (
        {"optimizer": {"_class_path": "os.system"}},
        {"__class__": "x"},
        {"model_options": {"a": {"b": 1}}},
    ):
        with pytest.raises(ConvworksError, match="U1"):
            from_dict({**tree, **bad})


def test_recipes_hold_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, convworks.recipes.recipe, convworks.recipes.defaults; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "torch" not in repr(asdict(Recipe()))


def test_a_small_set_gets_smaller_batches_and_more_epochs_unless_told() -> None:
    own = adapt_to_size(resolve_named(None), 800)
    assert (own.recipe.batch, own.recipe.epochs) == (32, 40)
    assert own.recipe.optimizer.lr == RECIPES["fastnet"].optimizer.lr * 32 / RECIPES["fastnet"].batch
    assert own.sources["epochs"] == "auto, for 800 images"
    assert adapt_to_size(resolve_named(None), 50_000) == resolve_named(None)
    for told in ({"model": "lenet5"}, {"batch": 64, "epochs": 3}, {"optimizer.lr": 0.1, "epochs": 3}):
        found = adapt_to_size(resolve_named(None, flags=told), 800)
        assert found.recipe == resolve_named(None, flags=told).recipe
    assert adapt_to_size(resolve_named("fastnet"), 800) == resolve_named("fastnet")  # asked for by name
    short = adapt_to_size(resolve_named(None, flags={"epochs": 3}), 800)
    assert (short.recipe.batch, short.recipe.epochs, short.sources["epochs"]) == (32, 3, "flag")


def inline_base() -> Recipe:
    return resolve(base=Recipe(), base_name="x", assignments=("optimizer.group_decay={fc9=1}",)).recipe


def test_weight_decay_of_parts_is_a_table_of_names(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text("[optimizer.group_decay]\nfc6 = 0.1\n[optimizer.group_decay.conv1]\nconv1_1 = 0.3\n")
    words = ("optimizer.group_decay.fc7=0.2", "optimizer.group_decay.conv2.conv2_1=0.4")
    found = resolve(base=Recipe(), base_name="x", config=config, assignments=words)
    assert found.recipe.optimizer.group_decay == {
        "fc6": 0.1,
        "conv1.conv1_1": 0.3,
        "fc7": 0.2,
        "conv2.conv2_1": 0.4,
    }
    assert found.sources["optimizer.group_decay"] == "--set"
    assert from_dict(to_dict(found.recipe)) == found.recipe
    again = resolve(base=inline_base(), base_name="x", config=config)  # a table takes the place of a table
    assert again.recipe.optimizer.group_decay == {"fc6": 0.1, "conv1.conv1_1": 0.3}
    inline = resolve(base=found.recipe, base_name="x", assignments=("optimizer.group_decay={fc8=0.5}",))
    assert inline.recipe.optimizer.group_decay == {"fc8": 0.5}
    for bad in ("optimizer.group_decay.fc6=-1", "optimizer.group_decay.fc6=much", "optimizer.group_decay=1"):
        with pytest.raises(ConvworksError) as caught:
            resolve(base=Recipe(), base_name="x", assignments=(bad,))
        assert caught.value.code == "U112", bad
