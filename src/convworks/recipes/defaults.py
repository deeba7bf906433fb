"""The recipe that each model gets where none is named. The papers' own recipes have names of their own."""

from __future__ import annotations

from dataclasses import replace

from convworks.errors import unknown_name
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec

_SGD = OptimizerSpec(name="nesterov", lr=0.05, momentum=0.9, weight_decay=5e-4, decay_norm_and_bias=False)

RECIPES: dict[str, Recipe] = {
    "fastnet": Recipe(
        model="fastnet",
        epochs=15,
        batch=128,
        optimizer=replace(_SGD, lr=0.2),
        schedule=ScheduleSpec(name="one-cycle", warmup=0.25),
        augment=AugmentSpec(shift=3, flip=True),
        label_smoothing=0.1,
    ),
    "lenet5": Recipe(
        model="lenet5",
        epochs=15,
        batch=64,
        optimizer=OptimizerSpec(name="sgd", lr=0.02, momentum=0.9, weight_decay=0.0),
        schedule=ScheduleSpec(name="cosine", warmup=0.05),
        augment=AugmentSpec(shift=2),
    ),
    "lenet5_modern": Recipe(
        model="lenet5_modern",
        epochs=12,
        batch=64,
        optimizer=replace(_SGD, lr=0.05),
        schedule=ScheduleSpec(name="one-cycle", warmup=0.2),
        augment=AugmentSpec(shift=2),
    ),
    "mlp128": Recipe(
        model="mlp128",
        epochs=10,
        batch=128,
        optimizer=OptimizerSpec(name="adam", lr=1e-3, weight_decay=0.0),
        schedule=ScheduleSpec(name="cosine"),
    ),
    "tutorial_cnn": Recipe(
        model="tutorial_cnn",
        epochs=10,
        batch=64,
        optimizer=OptimizerSpec(name="sgd", lr=0.01, momentum=0.5, weight_decay=0.0),
        schedule=ScheduleSpec(name="constant"),
    ),
}


def names() -> tuple[str, ...]:
    return tuple(sorted(RECIPES))


def recipe(name: str) -> Recipe:
    """A recipe by name. Raises U101 for an unknown one."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES, try_="convworks list recipes")
    return RECIPES[name]


def recipe_for(model: str) -> tuple[str, Recipe]:
    """(name, recipe) that fits a model: its own, or the general one with the model put in."""
    if model in RECIPES:
        return model, RECIPES[model]
    return "fastnet", replace(RECIPES["fastnet"], model=model)
