"""What a run says about its techniques, before the first step and when the rate drops."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from convworks.flows.events import Note
from convworks.flows.prepare import regularizers, top_rate
from convworks.recipes.recipe import Recipe
from convworks.report.text import count
from convworks.training.regularizers import Regularizers
from convworks.training.schedule import RISING, Plateau, cycle_ends


def technique_notes(recipe: Recipe, trainee: nn.Module, acting: Regularizers) -> Iterator[Note]:
    """Notes on accumulation with batch norm, on the scaled rate, on penalties, and on cut-off cycles.

    `acting` are the regularisers of the part that learns, which may lack what a setting acts on.
    """
    for text in (
        *_batch_notes(recipe, trainee),
        *_idle_notes(recipe, acting),
        *_penalty_notes(recipe),
        *_schedule_notes(recipe),
    ):
        yield Note(text)


def _batch_notes(recipe: Recipe, trainee: nn.Module) -> Iterator[str]:
    norms = sum(isinstance(module, _BatchNorm) for module in trainee.modules())
    if recipe.accumulate > 1 and norms:
        part = -(-recipe.batch // recipe.accumulate)
        yield (
            f"batch norm sees {part} images at a time, a batch of {recipe.batch} cut into "
            f"{recipe.accumulate} parts: everything else is as with the whole batch, its means and variances "
            "are not"
        )
    spec = recipe.optimizer
    if spec.reference_batch is not None and spec.reference_batch != recipe.batch:
        warm = "" if recipe.schedule.warmup or recipe.schedule.name in RISING else "; no warm-up is set"
        yield (
            f"learning rate {top_rate(recipe):.6g} = {spec.lr:g} x {recipe.batch} / {spec.reference_batch}, "
            f"scaled with the batch{warm}"
        )


def _idle_notes(recipe: Recipe, acting: Regularizers) -> Iterator[str]:
    wanted = regularizers(recipe)
    for name in ("noise", "dropout", "stochastic_depth"):
        if getattr(wanted, name) != getattr(acting, name):
            yield f"regularize.{name} has nothing to act on in the part that learns"


def _penalty_notes(recipe: Recipe) -> Iterator[str]:
    spec = regularizers(recipe)
    if spec.l2_plain:
        yield (
            f"L2: {spec.l2_plain:g} sum w^2 in the loss, gradient {2 * spec.l2_plain:g} w; a weight decay of "
            f"{2 * spec.l2_plain:g} has the same gradient"
        )
    if spec.l1:
        exact = "by soft thresholding after each step, which gives exact zeros"
        how = exact if spec.proximal else "in the loss"
        yield f"L1: {spec.l1:g} sum |w|, {how}"
        if spec.proximal and recipe.averages:
            yield "averaged weights come close to the zeros of L1, and need not reach them"
    if spec.stochastic_depth:
        yield (
            f"stochastic depth: branches are left out with probabilities up to {spec.stochastic_depth:g}; "
            "the saved model has the survival probabilities in its weights"
        )


def _schedule_notes(recipe: Recipe) -> Iterator[str]:
    spec = recipe.schedule
    if spec.name != "warm-restarts":
        return
    ends = cycle_ends(recipe.epochs, cycle=spec.cycle, growth=spec.cycle_growth)
    last = ends[-1] if ends else 0
    if last < recipe.epochs:
        yield (
            f"the run ends {count(recipe.epochs - last, 'epoch')} into cycle {len(ends) + 1}, which has no "
            f"snapshot; cycles that end: {', '.join(f'after epoch {end}' for end in ends) or 'none'}"
        )


def plateau_note(before: Plateau, after: Plateau, lr: float) -> Iterator[Note]:
    """Say that the rate drops, where it does."""
    if after.drops > before.drops:
        yield Note(
            f"no better validation accuracy than {after.best:.4f} for {count(before.waited + 1, 'epoch')}: "
            f"learning rate {lr * before.multiplier:.6g} -> {lr * after.multiplier:.6g} "
            f"(drop {after.drops} of {after.max_drops})"
        )
