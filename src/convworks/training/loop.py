"""The training loop: a generator that yields after every optimizer step. The caller owns everything else.

    for step in train_epoch(network, loader, optimizer, ...):
        ...                                        # log, save, stop: plain `if` lines

Variation enters through values (schedule, loss settings, EMA, accumulation), never through a second loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from convworks.data.loader import Batch, Mixed
from convworks.layers import WithAuxiliary
from convworks.randomness import derive_seed
from convworks.training.loss import batch_normaliser, summed_cross_entropy
from convworks.training.optimizer import set_learning_rate
from convworks.training.regularize import SparsityPenalty
from convworks.training.regularizers import (
    Regularizers,
    require_probabilities,
    sparsity_surrogate,
    sparsity_value,
)
from convworks.training.schedule import Schedule

_MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Batches(Protocol):
    """What the loop needs of a loader."""

    @property
    def steps(self) -> int: ...

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]: ...


class Average(Protocol):
    """Weights beside those that the optimizer moves: they are evaluated and kept."""

    average: dict[str, Tensor]

    def update(self, network: nn.Module, step: int) -> None: ...


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
    regularizers: Regularizers = field(default_factory=Regularizers)


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
    loss: float  # mean over the batch, without penalties
    lr: float
    gradient_norm: float
    penalty: float | None = None  # what L1, L2 and sparsity added to the loss, where the recipe has them


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
    average: Average | None = None,
    before_epoch: Callable[[int], None] | None = None,
) -> Generator[Step]:
    """The rest of the epoch at which `position` stands, one yield after every optimizer step.

    `settings.lr` is the top rate, `schedule(step)` its multiplier. Dropout and other draws inside the network
    are re-seeded for every step from (seed, step). `before_epoch` is called with the epoch once the network
    is in training mode. Raises NotFiniteError before a step that would spoil the weights.
    """
    network.train()
    if before_epoch is not None:
        before_epoch(position.epoch)
    with settings.regularizers.active(network):
        yield from _steps(network, loader, optimizer, position, schedule, settings, numerics, average)


def _steps(
    network: nn.Module,
    loader: Batches,
    optimizer: Optimizer,
    position: Position,
    schedule: Schedule,
    settings: StepSettings,
    numerics: Numerics,
    average: Average | None,
) -> Generator[Step]:
    parameters = list(network.parameters())
    for batch in loader.epoch(position.epoch, start=position.batch):
        lr = settings.lr * schedule(position.step)
        set_learning_rate(optimizer, lr)
        seed_draws(derive_seed(settings.seed, "network", position.step), numerics.device)
        loss, correct, penalty = accumulate_gradients(network, optimizer, batch, settings, numerics)
        norm = gradient_norm(parameters)
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise NotFiniteError(
                "the loss" if not np.isfinite(loss) else "the gradient",
                step=position.step + 1,
                lr=lr,
                rows=batch.rows,
                layer=first_bad_layer(network, batch.x, numerics),
            )
        if settings.clip_norm is not None and norm > settings.clip_norm:
            scale_gradients(parameters, settings.clip_norm / norm)
        optimizer.step()
        settings.regularizers.project_(network, optimizer)
        if average is not None:
            average.update(network, position.step)
        count = len(batch.y)
        position.step += 1
        position.batch += 1
        position.loss_sum += loss * count
        position.correct += correct
        position.seen += count
        yield Step(
            position.step,
            position.epoch,
            count,
            loss,
            lr,
            norm,
            penalty if settings.regularizers.penalises else None,
        )


def seed_draws(seed: int, device: str) -> None:
    """Seed what dropout draws from, on CPU and device (torch.manual_seed takes 75 times as long)."""
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed(seed)


class Accumulated(NamedTuple):
    """Mean loss, images whose largest output is the right one, and what the penalties come to."""

    loss: float
    correct: int
    penalty: float


def accumulate_gradients(
    network: nn.Module, optimizer: Optimizer, batch: Batch, settings: StepSettings, numerics: Numerics
) -> Accumulated:
    """Forward and backward over the parts of a batch; gradients add up to the whole batch's.

    Penalties are added once for the batch. Batch normalisation sees a part at a time, so with it the sum is
    not exactly the big batch's.
    """
    drop_gradients(optimizer)
    wanted, parts = settings.regularizers, min(settings.accumulate, len(batch.y))
    normaliser = batch_normaliser(batch.y, settings.class_weights, batch.mixed)
    total, correct, penalty = 0.0, 0, 0.0
    with wanted.recording(network) as sparsity:
        means = None
        if sparsity is not None and parts > 1:
            means = _batch_means(network, sparsity, batch, parts, numerics)
        for x, y, mixed in batch_parts(batch, parts):
            with numerics.autocast():
                output = network(x)
            logits = output.logits if isinstance(output, WithAuxiliary) else output
            loss = summed_loss(output, y, settings, mixed) / normaliser
            total += loss.item()
            if sparsity is not None:
                if means is None:
                    require_probabilities(sparsity.outputs())
                    means = sparsity.means()
                loss = loss + sparsity_surrogate(
                    sparsity.outputs(),
                    means,
                    target=wanted.sparsity_target,
                    strength=wanted.sparsity,
                    share=len(y) / len(batch.y),
                )
            loss.backward()  # type: ignore[no-untyped-call]
            correct += int((logits.detach().argmax(1) == y).sum())
        if means is not None:
            penalty = sparsity_value(means, target=wanted.sparsity_target, strength=wanted.sparsity)
    if wanted.stochastic_depth:
        _zero_for_skipped(network)
    return Accumulated(total, correct, penalty + wanted.add_weight_gradients_(network))


def drop_gradients(optimizer: Optimizer) -> None:
    """As `optimizer.zero_grad(set_to_none=True)`, without its bookkeeping, which small networks feel."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


@torch.no_grad()
def _batch_means(
    network: nn.Module, sparsity: SparsityPenalty, batch: Batch, parts: int, numerics: Numerics
) -> dict[str, Tensor]:
    """Mean activations over the whole batch, by a pass over its parts that leaves no trace.

    The pass makes the draws that the training passes will make, and running statistics are put back.
    """
    before = {name: value.clone() for name, value in network.named_buffers()}
    cuda = [torch.device(numerics.device)] if numerics.device.startswith("cuda") else []
    means: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=cuda):
        for x, y, _ in batch_parts(batch, parts):
            with numerics.autocast():
                network(x)
            require_probabilities(sparsity.outputs())
            for name, mean in sparsity.means().items():
                means[name] = means.get(name, torch.zeros_like(mean)) + mean * (len(y) / len(batch.y))
    for name, value in network.named_buffers():
        value.copy_(before[name])
    return means


def _zero_for_skipped(network: nn.Module) -> None:
    """A branch that was left out has the gradient zero: momentum and weight decay go on acting on it."""
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


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


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Euclidean norm over all gradients, in float32."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)


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
