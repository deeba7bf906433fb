"""A network trained on arrays, for the scikit-learn estimator: no run folder, no validation images.

The learning rate's plateaus and early stopping go by the accuracy on the training samples.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from convworks.errors import ConvworksError
from convworks.flows.prepare import average_for, optimizer_for, schedule_for, step_settings
from convworks.recipes.recipe import Recipe, TransferSpec
from convworks.training.initialize import initialize
from convworks.training.loop import (
    Batches,
    NotFiniteError,
    Numerics,
    Position,
    train_epoch,
    weights_are_finite,
)
from convworks.training.schedule import Plateau


def initialise_from_seed(network: nn.Module, recipe: Recipe) -> None:
    """The recipe's rule of the initial weights. Raises U221 for what needs images or other weights."""
    wants = {
        f"initialize = {recipe.initialize}": recipe.initialize in ("lsuv", "whitened"),
        "init": recipe.init is not None,
        "pretrained": recipe.pretrained is not None,
        "transfer": recipe.transfer != TransferSpec(),
    }
    for setting, wanted in wants.items():
        if wanted:
            raise ConvworksError(
                "U221",
                f"the scikit-learn estimator cannot use {setting}",
                why="it begins with weights that follow from the seed alone, and trains all of them",
                try_="leave it out there, or train with convworks train",
            )
    if recipe.initialize != "network":
        initialize(network, recipe.initialize, seed=recipe.seed)


def loss_curve(
    network: nn.Module, batches: Batches, labels: Tensor, recipe: Recipe, classes: int
) -> list[float]:
    """Train in place and return the mean loss of each epoch. Raises N601 where the training diverges."""
    settings = step_settings(recipe, labels, classes, "cpu")
    optimizer = optimizer_for(recipe, network)
    average = average_for(recipe, network, batches.steps)
    spec = recipe.schedule
    schedule = schedule_for(recipe, batches.steps)
    drops = Plateau(spec.patience, spec.max_drops if spec.name == "plateau" else 0, spec.factor)
    position, best, waited = Position(), -1.0, 0
    losses: list[float] = []
    while position.epoch < recipe.epochs and waited != recipe.early_stopping:
        steps = train_epoch(
            network,
            batches,
            optimizer,
            position=position,
            schedule=schedule,
            settings=replace(settings, lr=settings.lr * drops.multiplier),
            numerics=Numerics(),
            average=average,
        )
        try:
            for _ in steps:
                pass
        except NotFiniteError as problem:
            raise _diverged(problem.what, problem.step, recipe) from problem
        accuracy = position.correct / position.seen
        best, waited = (accuracy, 0) if accuracy > best else (best, waited + 1)
        drops = drops.after_epoch(accuracy)
        losses.append(position.loss_sum / position.seen)
        position.next_epoch()
    if average is not None:
        network.load_state_dict(average.average)
    if not weights_are_finite(network):
        raise _diverged("a weight", position.step, recipe)
    network.zero_grad(set_to_none=True)
    return losses


def _diverged(what: str, step: int, recipe: Recipe) -> ConvworksError:
    lr = recipe.optimizer.lr
    return ConvworksError(
        "N601",
        f"{what} is not finite at step {step} (learning rate {lr:g})",
        why="the training diverged, and there is no classifier",
        try_=f"ConvNetClassifier({recipe.model!r}, lr={lr / 10:g})",
    )
