"""One battery over every recipe, and the papers' printed values beside those of the recipes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from convworks import models
from convworks.data.augment import Augment
from convworks.errors import ConvworksError
from convworks.evaluation.protocols import is_protocol
from convworks.flows.prepare import optimizer_for, schedule_for
from convworks.recipes.defaults import compliance_of, entry, names, recipe, resolve_named
from convworks.recipes.published import MACHINE, PublishedRecipe, compliance, short
from convworks.recipes.recipe import Recipe, leaves
from convworks.recipes.registry import PUBLISHED
from convworks.recipes.resolve import build, from_dict, read_config, resolve, to_dict
from tests.papers.recipes import ITERATIONS, LENET_RATES, MCDNN_PARAMETERS, PRINTED, RESULTS

# Every published recipe says of these where they come from.
ALWAYS = {
    "model", "size", "normalize", "epochs", "batch", "optimizer.name", "optimizer.lr", "optimizer.momentum",
    "optimizer.weight_decay", "schedule.name", "keep", "protocol",
}  # fmt: skip


def network_of(row: Recipe, classes: int = 10) -> torch.nn.Module:
    """The recipe's network on the meta device, at its own size."""
    info = models.info(row.model)
    side = (row.size, row.size) if row.size else info.input_size
    with torch.device("meta"):
        return models.create(row.model, num_classes=classes, input_size=side, **dict(row.model_options))


def toml(row: Recipe) -> str:
    """The settings that are not the usual ones, as a file for --config."""
    usual = dict(leaves(Recipe()))
    return "\n".join(
        f"{key} = {written(value)}" for key, value in leaves(row) if value != usual[key] and value is not None
    )


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {written(each)}' for key, each in value.items()) + "}"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


@pytest.mark.parametrize("name", names())
def test_every_recipe_is_valid_and_survives_json_and_toml(name: str, tmp_path: Path) -> None:
    row = recipe(name)
    assert build({}, row) == row
    assert from_dict(json.loads(json.dumps(to_dict(row)))) == row
    path = tmp_path / "recipe.toml"
    path.write_text(toml(row), encoding="utf-8")
    assert build(read_config(path), Recipe()) == row


@pytest.mark.parametrize("name", names())
def test_every_recipe_builds_what_it_speaks_of(name: str) -> None:
    row = recipe(name)
    network = network_of(row)
    assert sum(p.numel() for p in network.parameters()) > 0
    schedule = schedule_for(row, steps_per_epoch=10)
    assert all(0 <= schedule(step) <= 1 for step in range(0, 10 * row.epochs, max(1, row.epochs // 10)))
    groups = optimizer_for(row, network).param_groups
    assert {group["weight_decay"] for group in groups} <= {
        0.0, row.optimizer.weight_decay, *row.optimizer.group_decay.values(),
    }  # fmt: skip
    side = row.size or models.info(row.model).input_size[0]
    Augment(**asdict(row.augment)).require_fits(height=side, width=side)
    assert row.stored is None or row.stored >= side
    assert is_protocol(row.protocol)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tables_of_a_published_recipe_are_those_of_its_values(name: str) -> None:
    row = entry(name)
    found = dict(leaves(row.recipe))
    for key, (value, where) in row.values.items():
        assert found[key] == value, key
        assert where.strip(), key
    assert set(row.chosen) <= set(found)
    assert not set(row.chosen) & set(row.values), "printed and chosen at once"
    usual = dict(leaves(Recipe()))
    said = {key for key in found if row.where(key)}
    differing = {key for key, value in found.items() if value != usual[key]}
    assert differing <= said, f"nothing says where {differing - said} come from"
    assert said >= ALWAYS
    assert "optimizer.decay_norm_and_bias" in said or row.recipe.optimizer.weight_decay == 0
    assert not said & MACHINE


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_deviation_is_a_sentence_and_every_recipe_can_be_cited(name: str) -> None:
    row = entry(name)
    assert row.claim
    assert row.citation is not None
    assert all(len(text.split()) >= 2 and text == text.strip() for text in (*row.deviations, *row.notes))
    assert len(set(row.deviations)) == len(row.deviations)
    text = row.citation.bibtex()
    assert text.startswith(f"@{row.citation.kind}{{{row.citation.key},\n")
    assert text.count("{") == text.count("}")
    assert row.citation.title in row.citation.line


@pytest.mark.parametrize("name", PRINTED)
def test_the_values_are_those_that_the_papers_print(name: str) -> None:
    found, table = dict(leaves(recipe(name))), entry(name).values
    for key, value in PRINTED[name].items():
        assert found[key] == pytest.approx(value) if isinstance(value, float) else found[key] == value, key
        assert table[key][0] == value, f"{key} is printed, and the table does not have it"


@pytest.mark.parametrize("name", RESULTS)
def test_the_expected_numbers_are_those_that_the_papers_print(name: str) -> None:
    assert {each.value for each in entry(name).expected} == RESULTS[name]


@pytest.mark.parametrize("name", ITERATIONS)
def test_epochs_are_the_printed_iterations(name: str) -> None:
    iterations, batch, images = ITERATIONS[name]
    row = recipe(name)
    assert row.batch == batch
    assert math.ceil(images / batch) * row.epochs == pytest.approx(iterations, rel=0.005)


def test_lenets_rates_fall_as_printed() -> None:
    """0.0005 twice, 0.0002 three times ...: relative to the first, to half a per cent."""
    row = recipe("lenet1998")
    schedule = schedule_for(row, steps_per_epoch=1000)
    for passed, printed in enumerate(LENET_RATES):
        for step in (1000 * passed, 1000 * passed + 999):
            assert schedule(step) == pytest.approx(printed / LENET_RATES[0], rel=0.005)


def test_resnets_rate_drops_at_32k_and_48k_iterations() -> None:
    row = recipe("resnet2015_cifar")
    schedule = schedule_for(row, steps_per_epoch=352)
    total = 352 * 182
    drops = [step for step in range(1, total) if schedule(step) != schedule(step - 1)]
    assert drops == pytest.approx([32_000, 48_000], rel=0.002)
    deep = schedule_for(recipe("resnet2015_cifar110"), steps_per_epoch=352)
    assert deep(399) == pytest.approx(1.0, abs=0.01)
    assert deep(40) == pytest.approx(0.1, abs=0.01)


def test_googlenets_rate_falls_by_4_percent_every_8_epochs() -> None:
    schedule = schedule_for(recipe("googlenet2014"), steps_per_epoch=100)
    assert [schedule(step) for step in (0, 799, 800, 1599, 1600)] == pytest.approx(
        [1, 1, 0.96, 0.96, 0.96**2]
    )
    fast = schedule_for(recipe("bn_inception2015"), steps_per_epoch=300)  # six times as fast
    assert [fast(step) for step in (399, 400, 2400)] == pytest.approx([1, 0.96, 0.96**6])


def test_the_rate_of_a_committee_member_falls_by_a_factor_each_epoch() -> None:
    schedule = schedule_for(recipe("mcdnn2012"), steps_per_epoch=10)
    assert [0.001 * schedule(10 * epoch) for epoch in (0, 1, 499, 500)] == pytest.approx(
        [0.001, 0.000993, 0.001 * 0.993**499, 0.001 * 0.993**500]
    )
    assert 0.001 * 0.993**499 > 3e-5 > 0.001 * 0.993**500  # "until it reaches 0.00003"


def test_the_committee_member_is_the_network_of_the_figure() -> None:
    row = recipe("mcdnn2012")
    network = models.create(
        "stack", num_classes=10, in_channels=1, input_size=(29, 29), **dict(row.model_options)
    )
    assert sum(p.numel() for p in network.parameters()) == MCDNN_PARAMETERS


def test_depthwise_filters_do_not_decay_in_mobilenet() -> None:
    row = recipe("mobilenet2017")
    network = network_of(row)
    named = dict(network.named_parameters())
    names_of = {id(p): name for name, p in named.items()}
    for group in optimizer_for(row, network).param_groups:
        for parameter in group["params"]:
            depthwise = "_dw." in names_of[id(parameter)]
            assert (group["weight_decay"] == 0) == depthwise, names_of[id(parameter)]


def test_the_alexnet_variants_differ_in_the_biases_alone() -> None:
    first, second = (dict(leaves(recipe(name))) for name in ("alexnet2012", "alexnet2012_caffe"))
    assert {key for key in first if first[key] != second[key]} == {"model_options"}
    for name, value in (("alexnet2012", 1.0), ("alexnet2012_caffe", 0.1)):
        row = recipe(name)
        network = models.create(
            row.model, num_classes=3, in_channels=3, input_size=(64, 64), **dict(row.model_options)
        )
        found = {n: float(p.detach().unique()) for n, p in network.named_parameters() if n.endswith("bias")}
        ones = {n.split(".")[0] for n, bias in found.items() if bias == pytest.approx(value)}
        assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
        assert {bias for n, bias in found.items() if n.split(".")[0] not in ones} == {0.0}


def test_the_lectures_series_differs_in_its_terms_alone() -> None:
    rows = [dict(leaves(recipe(name))) for name in ("mlp128_baseline", "mlp128_l2", "mlp128_l2_sparsity")]
    differ = [{key for key in rows[0] if rows[0][key] != row[key]} for row in rows[1:]]
    assert differ[0] == {"regularize.l2_plain"}
    assert differ[1] == {"regularize.l2_plain", "regularize.sparsity", "regularize.sparsity_layers"}


# --- the line about compliance ---------------------------------------------------------------------------


def test_a_recipe_as_it_is_complies() -> None:
    found = compliance_of(resolve_named("resnet2015_cifar"))
    count = len(entry("resnet2015_cifar").deviations)
    assert found == (
        f"recipe resnet2015_cifar: every value is the paper's or one of {count} named deviations: "
        "convworks show recipe resnet2015_cifar"
    )
    assert compliance_of(resolve_named("fast")) == "recipe fast: ours, no paper"
    assert compliance_of(resolve_named(None)) == "recipe fastnet: ours, no paper"
    assert "the lectures'" in compliance_of(resolve_named("mlp128_l2"))


def test_without_deviations_nothing_is_said_of_them() -> None:
    bare = replace(entry("alexnet2012"), departures=(), chosen={})
    assert compliance(bare, bare.recipe, {}) == "recipe alexnet2012: every value is the paper's"
    changed = replace(bare.recipe, batch=32)
    assert compliance(bare, changed, {"batch": "flag"}) == (
        "recipe alexnet2012: differs from the paper in batch (128 -> 32, flag)"
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("batch", 32, "batch (128 -> 32, flag)"),
        ("epochs", 3, "epochs (90 -> 3, flag)"),
        ("optimizer.lr", 0.02, "optimizer.lr (0.01 -> 0.02, flag)"),
        ("optimizer.weight_decay", 0.0, "optimizer.weight_decay (0.0005 -> 0, flag)"),
        ("augment.flip", False, "augment.flip (True -> False, flag)"),
        ("augment.scale_jitter", (256, 480), "augment.scale_jitter (none -> 256, 480, flag)"),
        ("model", "alexnet_single_tower", "model (alexnet -> alexnet_single_tower, flag)"),
        ("model_options.bias", 0.1, "model_options (none -> bias = 0.1, flag)"),
        ("regularize.max_norm", 3.0, "regularize.max_norm (none -> 3, flag)"),
    ],
)
def test_every_planted_deviation_is_named(key: str, value: Any, words: str) -> None:
    line = compliance_of(resolve_named("alexnet2012", flags={key: value}))
    assert line.startswith(f"recipe alexnet2012: differs from the paper in {words}; beside ")


def test_two_deviations_and_their_sources(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 3\n")
    found = resolve_named("alexnet2012", config=path, assignments=("augment.lighting=0",))
    assert "in epochs (90 -> 3, config mine.toml), augment.lighting (0.1 -> 0, --set);" in compliance_of(
        found
    )


@pytest.mark.parametrize("key", sorted(MACHINE))
def test_the_machine_is_no_deviation(key: str) -> None:
    other: dict[str, Any] = {
        "seed": 3, "precision": "fp32", "memory_format": "contiguous", "threads": 1, "workers": 0,
        "device": "cpu", "checkpoint_every": 5, "keep_checkpoints": 1, "winograd": "no", "amx": "no",
    }  # fmt: skip
    assert other.keys() == MACHINE
    found = resolve_named("alexnet2012", flags={key: other[key]})
    assert "every value is" in compliance_of(found)


def test_every_setting_but_the_machines_is_compared() -> None:
    """A changed value of any key is seen, whatever its type."""
    row = entry("resnet2015_cifar")
    for key, _ in leaves(row.recipe):
        planted = _planted(row.recipe, key)
        line = compliance(row, planted, {key: "flag"})
        assert (f"{key} (" in line) == (key not in MACHINE), key


def _planted(row: Recipe, key: str) -> Recipe:
    """The recipe with a value that it does not have, of no type: nothing else notices."""
    head, _, rest = key.partition(".")
    if rest:
        return replace(row, **{head: replace(getattr(row, head), **{rest: "planted"})})
    return replace(row, **{head: "planted"})


def test_settings_without_a_name_claim_nothing() -> None:
    mine = resolve(base=recipe("alexnet2012"), base_name="given")
    assert compliance_of(mine) == "settings without a named recipe: no paper to compare with"


def test_unknown_recipes_are_named_with_the_closest() -> None:
    with pytest.raises(ConvworksError, match=r"U101.*resnet2016"):
        entry("resnet2016")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "True"),
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        ((0.1, 0.1, 0.2), "0.1 x2, 0.2"),
        ((), "none"),
        ({"a": 0.5}, "a = 0.5"),
        ({}, "none"),
        ("x", "x"),
        (3, "3"),
    ],
)
def test_values_in_short(value: Any, text: str) -> None:
    assert short(value) == text


def test_published_recipes_are_of_published_kind() -> None:
    assert all(isinstance(row, PublishedRecipe) and row.name == name for name, row in PUBLISHED.items())
    assert len({row.citation.key for row in PUBLISHED.values() if row.citation}) == 10
