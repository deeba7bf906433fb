"""The recipe's rule of the initial weights, applied to a network that is about to be trained.

`initialize = "network"` leaves what the network's own definition drew, which is the paper's rule where it
prints one. Any other word is a scheme of `training/initialize.py`; "lsuv" measures the variances on the first
training images of the first epoch, as the run will see them: normalised and augmented. "whitened" leaves all
but the first convolution as it is, whose filters come from the patches of training images.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from torch import Tensor, nn

from convworks.flows.prepare import Prepared, training_loader
from convworks.recipes.recipe import AugmentSpec, Recipe
from convworks.training.initialize import LSUV, initialize
from convworks.training.loop import Numerics
from convworks.training.whiten import whiten_first_layer

WHITENED_IMAGES = 5_000  # at the most (Jordan 2024, section 3.2)
LSUV_IMAGES = 64  # at the most; Mishkin and Matas take a mini-batch


def initialise_as_wanted(network: nn.Module, recipe: Recipe, prepared: Prepared) -> str:
    """Draw the weights anew by `recipe.initialize`; what was done, in words, or "" where nothing was.

    The same seed gives the same bits. Raises BadArgument where the rule does not fit the network, U173 where
    LSUV finds a layer whose outputs do not vary.
    """
    rule = recipe.initialize
    if rule == "network":
        return ""
    if rule == "whitened":
        plain = replace(recipe, augment=AugmentSpec())
        name = whiten_first_layer(network, first_images(plain, prepared, count=WHITENED_IMAGES))
        return f"initial weights: {name} whitens the patches of training images"
    if rule != "lsuv":
        initialize(network, rule, seed=recipe.seed)
        return f"initial weights: {rule}"
    batch = first_images(recipe, prepared, count=LSUV_IMAGES)
    initialize(network, LSUV(batch=batch), seed=recipe.seed)
    return f"initial weights: lsuv, output variances 1 +- 0.01 for {len(batch)} training images"


def first_images(recipe: Recipe, prepared: Prepared, *, count: int) -> Tensor:
    """The first training images (N, C, H, W) of the first epoch, whatever the recipe's batch is."""
    loader = training_loader(prepared, replace(recipe, batch=count), numerics=Numerics(), workers=0)
    with closing(loader.epoch(0)) as batches:
        return next(batches).x
