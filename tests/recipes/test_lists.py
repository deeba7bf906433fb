"""Settings that are lists or may be absent, as one types them after --set."""

from __future__ import annotations

import pytest

from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import LISTS, OPTIONAL, build, parse_assignment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("augment.scale_jitter=256,512", ("augment.scale_jitter", [256, 512])),
        ("augment.scale_jitter=[256, 512]", ("augment.scale_jitter", [256, 512])),
        ("augment.scale_jitter=none", ("augment.scale_jitter", None)),
        ("augment.area=0.08,1", ("augment.area", [0.08, 1])),
        ("schedule.milestones=0.5", ("schedule.milestones", [0.5])),
        ("schedule.milestones=", ("schedule.milestones", [])),
        ("regularize.sparsity_layers=fc1, fc2.relu", ("regularize.sparsity_layers", ["fc1", "fc2.relu"])),
        ('regularize.sparsity_layers="fc1"', ("regularize.sparsity_layers", ["fc1"])),
        ("regularize.max_norm=none", ("regularize.max_norm", None)),
        ("optimizer.reference_batch=none", ("optimizer.reference_batch", None)),
        ("model_options.spec=dense 10, dense K", ("model_options.spec", "dense 10, dense K")),
    ],
)
def test_lists_need_no_brackets_and_nothing_is_none(text: str, expected: tuple[str, object]) -> None:
    key, value = parse_assignment(text)
    assert (key, value) == expected
    build({key: value}, Recipe(model="stack"))


def test_which_settings_these_are() -> None:
    assert {"augment.area", "augment.scale_jitter", "schedule.milestones"} <= LISTS
    assert {"ema", "size", "regularize.dropout", "regularize.max_norm", "augment.area"} <= OPTIONAL
    assert "optimizer.lr" not in OPTIONAL | LISTS
