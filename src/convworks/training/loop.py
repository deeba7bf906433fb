"""The training loop: a generator that yields after every optimizer step. The caller owns everything else.

    for step in train_epoch(network, loader, optimizer, ...):
        ...                                        # log, save, stop: plain `if` lines

Variation enters through values (schedule, loss settings, EMA, accumulation), never through a second loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from convworks.data.loader import Batch, Mixed
from convworks.layers import WithAuxiliary
from convworks.randomness import derive_seed
from convworks.training.ema import WeightAverage
from convworks.training.loss import batch_normaliser, summed_cross_entropy
from convworks.training.optimizer import set_learning_rate
from convworks.training.schedule import Schedule

_MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Batches(Protocol):
    """What the loop needs of a loader."""

    @property
    def steps(self) -> int: ...

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]: ...


@dataclass(frozen=True, slots=True)
class Numerics:
    """How the arithmetic is done: the part of the plan that the network sees."""

    precision: str = "fp32"  # fp32, or bf16 by autocast
    memory_format: str = "contiguous"  # or channels_last
    device: str = "cpu"

    @property
    def torch_memory_format(self) -> torch.memory_format:
        return _MEMORY_FORMATS[self.memory_format]

    def autocast(self) -> torch.autocast:
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one step does, besides the learning rate."""

    seed: int
    lr: float
    accumulate: int = 1
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    clip_norm: float | None = None


@dataclass(slots=True)
class Position:
    """Where training stands. It changes in place, and is all that a checkpoint needs beside the tensors."""

    step: int = 0  # optimizer steps made in the run
    epoch: int = 0  # from 0
    batch: int = 0  # batches done in this epoch
    loss_sum: float = 0.0  # of this epoch, over images
    correct: int = 0
    seen: int = 0

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batch, self.loss_sum, self.correct, self.seen = 0, 0.0, 0, 0


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step that was made."""

    step: int  # from 1
    epoch: int  # from 0
    images: int
    loss: float  # mean over the batch
    lr: float
    gradient_norm: float


class NotFiniteError(ArithmeticError):
    """Loss or gradient is NaN or infinite; the step was not made."""

    def __init__(self, what: str, *, step: int, lr: float, rows: NDArray[np.int64], layer: str) -> None:
        super().__init__(f"{what} is not finite at step {step}")
        self.what, self.step, self.lr, self.rows, self.layer = what, step, lr, rows, layer


def train_epoch(
    network: nn.Module,
    loader: Batches,
    optimizer: Optimizer,
    *,
    position: Position,
    schedule: Schedule,
    settings: StepSettings,
    numerics: Numerics,
    average: WeightAverage | None = None,
) -> Iterator[Step]:
    """The rest of the epoch at which `position` stands, one yield after every optimizer step.

    `settings.lr` is the top rate, `schedule(step)` its multiplier. Dropout and other draws inside the network
    are re-seeded for every step from (seed, step). Raises NotFiniteError before a step that would spoil the
    weights.
    """
    network.train()
    for batch in loader.epoch(position.epoch, start=position.batch):
        lr = settings.lr * schedule(position.step)
        set_learning_rate(optimizer, lr)
        seed_draws(derive_seed(settings.seed, "network", position.step), numerics.device)
        loss, correct = accumulate_gradients(network, optimizer, batch, settings, numerics)
        norm = gradient_norm(network)
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise NotFiniteError(
                "the loss" if not np.isfinite(loss) else "the gradient",
                step=position.step + 1,
                lr=lr,
                rows=batch.rows,
                layer=first_bad_layer(network, batch.x, numerics),
            )
        if settings.clip_norm is not None and norm > settings.clip_norm:
            scale_gradients(network, settings.clip_norm / norm)
        optimizer.step()
        if average is not None:
            average.update(network, position.step)
        count = len(batch.y)
        position.step += 1
        position.batch += 1
        position.loss_sum += loss * count
        position.correct += correct
        position.seen += count
        yield Step(position.step, position.epoch, count, loss, lr, norm)


def seed_draws(seed: int, device: str) -> None:
    """Seed what dropout draws from, on CPU and device (torch.manual_seed takes 75 times as long)."""
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed(seed)


def accumulate_gradients(
    network: nn.Module, optimizer: Optimizer, batch: Batch, settings: StepSettings, numerics: Numerics
) -> tuple[float, int]:
    """Forward and backward over the parts of a batch; gradients add up to the whole batch's.

    Returns the mean loss and the number of images whose largest output is the right one. Batch normalisation
    sees a part at a time, so with it the sum is not exactly the big batch's.
    """
    optimizer.zero_grad(set_to_none=True)
    normaliser = batch_normaliser(batch.y, settings.class_weights, batch.mixed)
    total, correct = 0.0, 0
    for x, y, mixed in batch_parts(batch, min(settings.accumulate, len(batch.y))):
        with numerics.autocast():
            output = network(x)
        logits = output.logits if isinstance(output, WithAuxiliary) else output
        loss = summed_loss(output, y, settings, mixed) / normaliser
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        correct += int((logits.detach().argmax(1) == y).sum())
    return total, correct


def batch_parts(batch: Batch, parts: int) -> Iterator[tuple[Tensor, Tensor, Mixed | None]]:
    """(x, y, mixed) of each part of a batch."""
    mixed: list[Mixed | None] = [None] * len(batch.y.chunk(parts))
    if batch.mixed is not None:
        pairs = zip(batch.mixed.other.chunk(parts), batch.mixed.share.chunk(parts), strict=True)
        mixed = [Mixed(other, share) for other, share in pairs]
    yield from zip(batch.x.chunk(parts), batch.y.chunk(parts), mixed, strict=True)


def summed_loss(
    output: Tensor | WithAuxiliary, y: Tensor, settings: StepSettings, mixed: Mixed | None = None
) -> Tensor:
    """The sum over the batch; auxiliary classifiers count with their discount."""
    if isinstance(output, WithAuxiliary):
        others = torch.stack([summed_loss(each, y, settings, mixed) for each in output.auxiliary])
        return summed_loss(output.logits, y, settings, mixed) + output.discount * others.sum()
    return summed_cross_entropy(
        output,
        y,
        label_smoothing=settings.label_smoothing,
        class_weights=settings.class_weights,
        mixed=mixed,
    )


def gradient_norm(network: nn.Module) -> float:
    """Euclidean norm over all gradients, in float32."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    if not gradients:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))


@torch.no_grad()
def scale_gradients(network: nn.Module, factor: float) -> None:
    torch._foreach_mul_([p.grad for p in network.parameters() if p.grad is not None], factor)


@torch.no_grad()
def first_bad_layer(network: nn.Module, x: Tensor, numerics: Numerics) -> str:
    """The first layer, in the order of the forward pass, whose output is not finite; '' where all are."""
    if not bool(torch.isfinite(x).all()):
        return "the input"
    bad: list[str] = []

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                bad.append(name)

        handle: torch.utils.hooks.RemovableHandle = modules[name].register_forward_hook(hook)
        return handle

    modules = {name: m for name, m in network.named_modules() if name and not list(m.children())}
    handles = [watch(name) for name in modules]
    try:
        with numerics.autocast():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else ""


def weights_are_finite(network: nn.Module) -> bool:
    return all(bool(torch.isfinite(v).all()) for v in network.state_dict().values() if v.is_floating_point())
