"""What a session remembers besides tensors, as values and as JSON; what it says where a training diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from convworks.data.dataset import Dataset
from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Metrics
from convworks.training.loop import NotFiniteError, Step
from convworks.training.schedule import Plateau

_FILES_NAMED = 8  # of a batch that diverged


@dataclass(slots=True)
class Best:
    """The epoch whose weights are kept, and how long there has been no better one."""

    accuracy: float = -math.inf
    loss: float = math.inf
    epoch: int = -1
    step: int = -1
    waited: int = 0

    def improved_by(self, metrics: Metrics) -> bool:
        """Higher accuracy, or the same with a lower loss."""
        return (metrics.top1, -metrics.loss) > (self.accuracy, -self.loss)

    def after(
        self, metrics: Metrics, *, epoch: int, step: int, keep: Literal["best", "last"]
    ) -> tuple[Best, bool]:
        """What is known after an epoch, and whether its weights are now those that are kept.

        With `keep` last they always are, and accuracy and loss stay the best so far: early stopping waits for
        better ones whatever is kept.
        """
        if self.improved_by(metrics):
            return Best(metrics.top1, metrics.loss, epoch, step), True
        if keep == "last":
            return replace(self, epoch=epoch, step=step, waited=self.waited + 1), True
        return replace(self, waited=self.waited + 1), False


def packed(value: Best | Plateau) -> dict[str, Any]:
    """The fields as JSON, which has no infinity: it travels as a word."""
    words = {math.inf: "inf", -math.inf: "-inf"}
    return {k: words.get(v, v) if isinstance(v, float) else v for k, v in asdict(value).items()}


def unpacked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What `packed` was given."""
    return {key: float(value) if value in ("inf", "-inf") else value for key, value in fields.items()}


def step_record(step: Step) -> dict[str, Any]:
    """The line of a step in metrics.jsonl; `penalty` only where the recipe has one."""
    record = {
        "step": step.step,
        "epoch": step.epoch + 1,
        "loss": step.loss,
        "lr": step.lr,
        "gradient_norm": step.gradient_norm,
    }
    return record if step.penalty is None else {**record, "penalty": step.penalty}


def diverged(problem: NotFiniteError, dataset: Dataset, lr: float) -> ConvworksError:
    """N601 with the batch and the layer. `lr` is the recipe's."""
    files = [dataset.path_of(int(row)) for row in problem.rows[:_FILES_NAMED]]
    more = len(problem.rows) - len(files)
    layer = f"; the first layer with such an output is {problem.layer}" if problem.layer else ""
    return ConvworksError(
        "N601",
        f"{problem.what} is not finite at step {problem.step} (learning rate {problem.lr:g}){layer}",
        where="batch: " + ", ".join(files) + (f" and {more} more" if more > 0 else ""),
        why="training stopped; the last good checkpoint is kept, these weights are not",
        try_=f"convworks train ... --lr {lr / 10:g}",
    )
