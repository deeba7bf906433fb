"""The recipe that each model gets where none is named, which is ours, and all recipes by name.

The papers' own stand in files of their own and in `recipes/registry.py`; a model never gets one unasked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from convworks.errors import unknown_name
from convworks.recipes.fast import FAST
from convworks.recipes.published import PublishedRecipe, compliance, ours
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec
from convworks.recipes.registry import PUBLISHED
from convworks.recipes.resolve import Resolved, parse_assignment, read_config, resolve

_SGD = OptimizerSpec(name="nesterov", lr=0.05, momentum=0.9, weight_decay=5e-4, decay_norm_and_bias=False)

RECIPES: dict[str, Recipe] = {
    "fast": FAST,
    "fastnet": FAST,
    "cifar_quick": Recipe(
        model="cifar_quick",
        initialize="he",  # the definition's own weights are for pixels up to 255, too small for ours
        epochs=8,
        batch=64,
        optimizer=replace(_SGD, lr=0.03, decay_norm_and_bias=True),
        schedule=ScheduleSpec(name="one-cycle", warmup=0.2),
        augment=AugmentSpec(shift=2, flip=True),
        clip_norm=1.0,
    ),
    "lenet5": Recipe(
        model="lenet5",
        epochs=20,  # passes in the paper, section III-B
        batch=32,
        optimizer=OptimizerSpec(name="sgd", lr=0.02, momentum=0.9, weight_decay=0.0),
        schedule=ScheduleSpec(name="cosine", warmup=0.2),
        augment=AugmentSpec(shift=2),
        clip_norm=1.0,  # squared distances to the codes are large at the start
        ema=0.99,
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
    "without_batch_norm": Recipe(  # AlexNet's rate, momentum, decay and batch, for all such networks
        model="alexnet",
        epochs=15,
        batch=128,
        optimizer=OptimizerSpec(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleSpec(name="cosine", warmup=0.1),
        augment=AugmentSpec(shift=3, flip=True),
        clip_norm=1.0,
    ),
    "tutorial_cnn": Recipe(
        model="tutorial_cnn",
        epochs=10,
        batch=64,
        optimizer=OptimizerSpec(name="sgd", lr=0.01, momentum=0.5, weight_decay=0.0),
        schedule=ScheduleSpec(name="constant"),
    ),
}


# What each of ours is for.
CLAIMS = {
    "fast": "a good network soon, on any images: small residual network, one cycle of the rate",
    "fastnet": "the same as fast, under the name of its network",
    "cifar_quick": "the small network of cuda-convnet: 73.7 % on CIFAR-10 (JPEG copy) in two minutes",
    "lenet5": "LeNet-5's network by momentum, with averaged weights; lenet1998 has the paper's values",
    "lenet5_modern": "LeNet-5 as usually built today, in one cycle",
    "mlp128": "a perceptron as baseline",
    "without_batch_norm": "networks without batch norm that have no recipe of their own",
    "tutorial_cnn": "the values of the PyTorch project's MNIST example",
}


def names() -> tuple[str, ...]:
    """All recipes: ours and those of papers."""
    return tuple(sorted({*RECIPES, *PUBLISHED}))


def entry(name: str) -> PublishedRecipe:
    """A recipe with what it says about itself. Raises U101 for an unknown name."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name not in RECIPES:
        raise unknown_name("recipe", name, names(), try_="convworks list recipes")
    return ours(name, RECIPES[name], CLAIMS[name])


def recipe(name: str) -> Recipe:
    """A recipe by name. Raises U101 for an unknown one."""
    return entry(name).recipe


def compliance_of(resolved: Resolved) -> str:
    """The line about a run's settings: the paper's, or in which they differ from it."""
    known = resolved.name in PUBLISHED or resolved.name in RECIPES
    return compliance(entry(resolved.name) if known else None, resolved.recipe, resolved.sources)


def resolve_named(
    name: str | None,
    *,
    config: Path | None = None,
    assignments: tuple[str, ...] = (),
    flags: Mapping[str, Any] | None = None,
) -> Resolved:
    """The named recipe, or the one that fits the wanted model, with what was given laid over it.

    The model may be wanted by flag, by `--set` or in the config file. Raises U101, U110, U111, U112.
    """
    if name is not None:
        base_name, base = name, recipe(name)
    else:
        given = {**(read_config(config) if config else {}), **dict(map(parse_assignment, assignments))}
        base_name, base = recipe_for(str({**given, **(flags or {})}.get("model") or "fastnet"))
    resolved = resolve(base=base, base_name=base_name, config=config, assignments=assignments, flags=flags)
    return replace(resolved, adaptable=name is None)


# Batch, and the epochs that give about a thousand steps, where a set is too small for the recipe's own.
SMALL_SET, SMALL_BATCH, SMALL_STEPS, MOST_EPOCHS = 5_000, 32, 1_000, 60
_SIZED = ("batch", "epochs", "optimizer.lr")


def adapt_to_size(resolved: Resolved, images: int) -> Resolved:
    """Smaller batches and more epochs for a small set, where the user named no recipe and not these values.

    The learning rate follows the batch in proportion (Goyal et al. 2017, section 2.1).
    """
    recipe, sources = resolved.recipe, dict(resolved.sources)
    free = {key for key in _SIZED if sources[key].startswith(("default", "recipe"))}
    if not resolved.adaptable or recipe.model != "fastnet" or images >= SMALL_SET:
        return resolved
    changed: set[str] = set()
    if {"batch", "optimizer.lr"} <= free:  # one without the other would change what the given one means
        lr = recipe.optimizer.lr
        if recipe.optimizer.reference_batch is None:  # else the rate follows the batch by itself
            lr *= SMALL_BATCH / recipe.batch
        recipe = replace(recipe, batch=SMALL_BATCH, optimizer=replace(recipe.optimizer, lr=lr))
        changed = {"batch", "optimizer.lr"}
    if "epochs" in free:
        epochs = min(MOST_EPOCHS, round(SMALL_STEPS * recipe.batch / max(images, 1)))
        recipe = replace(recipe, epochs=max(recipe.epochs, epochs))
        changed.add("epochs")
    sources |= dict.fromkeys(changed, f"auto, for {images:,} images")
    return replace(resolved, recipe=recipe, sources=sources, adaptable=False)


# Beginnings of the names of networks without batch norm, which need a smaller rate.
WITHOUT_BATCH_NORM = (
    "alexnet", "char_cnn", "cifar_quick", "dropconnect", "googlenet", "lecun1989", "maxout", "nin",
    "prelu_net", "stack", "vgg_", "wavenet", "zfnet",
)  # fmt: skip


def recipe_for(model: str) -> tuple[str, Recipe]:
    """(name, recipe) that fits a model: its own, or one of the two general ones with the model put in."""
    if model in RECIPES:
        return model, RECIPES[model]
    plain = model.startswith(WITHOUT_BATCH_NORM) and model != "googlenet_torchvision"
    general = "without_batch_norm" if plain else "fastnet"
    return general, replace(RECIPES[general], model=model)
