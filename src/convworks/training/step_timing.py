"""How long a training step takes, candidate against candidate, on a private copy of the network.

Steps are measured in turns, so that a machine that drifts drifts for all. Where a whole batch takes long, a
part of it is measured: seconds for an image tell the same, and many short steps are surer than few long ones.
What is measured while the host of a virtual machine gives its processors to others does not count.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from convworks.data.loader import Batch, Mixed
from convworks.layers.arrangement import arrange, as_torch
from convworks.layers.fused import fuse
from convworks.machine import HostShare
from convworks.training.loop import (
    Numerics,
    StepSettings,
    accumulate_gradients,
    batch_parts,
    gradient_norm,
)

BF16_MARGIN = 1.05  # bf16 must be this much faster than fp32
OWN_MARGIN = 1.02  # a step with kernels of ours must be this much faster than with torch's operators
LONG = 0.3  # seconds: a step that takes longer is measured on a part of the batch
FEWEST = 4  # images of a part
WORTH_MORE = 1.5  # times the images: then a larger part is tried
NEARLY_ALL = 0.75  # of a batch: then the whole of it is measured
ROUNDS = 3
AS_GOOD = 0.02  # of a step's time: candidates that differ by less from the margin need not be told apart
PATIENCE = 3.0  # times the seconds that a comparison may take where its answer is not clear
DISTURBED = 0.1  # of the processors' time, taken by the host: then a step is timed again
MOST_LOST = 4.0  # seconds of such steps; after that they count
_WORTH_ANOTHER = 1.5  # times the best: slower ones are not measured again
_HOPELESS = 2.5  # times the best, in the very first step, which allocates: that one counts, and is the last
SETTLES = 0.25  # seconds: a longer step does not feel that its optimizer began anew


@dataclass(frozen=True, slots=True)
class Candidate:
    numerics: Numerics
    threads: int
    fused: bool = False
    winograd: tuple[str, ...] = ()  # names of the convolutions that train by Winograd's algorithm
    amx: tuple[str, ...] = ()  # and of those that train on matrix units

    @property
    def name(self) -> str:
        own = ((self.fused, ", fused"), (self.winograd, ", Winograd"), (self.amx, ", AMX"))
        kernels = "".join(word for used, word in own if used)
        return f"{self.numerics.precision} {self.numerics.memory_format} {self.threads} threads{kernels}"


class Trainee:
    """One private copy of the network, which every candidate trains in its turn.

    Weights and optimizer state are held once, however many candidates there are. Changing the memory format
    costs a step that is not counted, because the optimizer begins anew.
    """

    def __init__(
        self,
        network: nn.Module,
        make_optimizer: Callable[[nn.Module], Optimizer],
        batch: Batch,
        settings: StepSettings,
    ) -> None:
        self._make_optimizer, self._batch, self._settings = make_optimizer, batch, settings
        self._copy = as_torch(copy.deepcopy(network)).train()
        self._form: tuple[str, str] | None = None
        self._arranged: tuple[object, ...] = (False, (), ())
        self._seconds = 0.0  # of the last step
        self._host, self._lost = HostShare(), 0.0  # seconds of steps that did not count
        self.share = 1.0  # of the batch that is measured
        self.fusible = fuse(self._copy) > 0
        as_torch(self._copy)

    def shorten(self, candidate: Candidate, *, seconds: float = LONG) -> None:
        """Measure a part of the batch from now on, where a step of the whole of it takes longer than that.

        A step is timed on a few images first, so that a large network does not wait for a whole batch, and
        on more while more can be afforded: few images take longer each, and their maps may fit into a cache
        that those of many would not. Every part that accumulation makes of the batch keeps some.
        """
        whole, count = self._batch, FEWEST * self._settings.accumulate
        one_step = self.timer(candidate)
        while count < len(whole.y):
            self._batch, self._form = first_images(whole, count), None
            affordable = int(count * seconds / _settled(one_step, seconds=seconds))
            if affordable < WORTH_MORE * count:
                count = max(affordable, count)
                break
            count = affordable
        count = len(whole.y) if count > NEARLY_ALL * len(whole.y) else count
        self._batch = whole if count == len(whole.y) else first_images(whole, count)
        self.share, self._form = count / len(whole.y), None

    def timer(self, candidate: Candidate) -> Callable[[], float]:
        """A function that trains one step as the candidate does it, and returns its seconds."""

        def one_step() -> float:
            torch.set_num_threads(candidate.threads)
            if self._prepare(candidate) and self._seconds < SETTLES:
                self._step(candidate.numerics)
            self._host.taken()
            while True:
                start = time.perf_counter()
                self._step(candidate.numerics)
                self._seconds = time.perf_counter() - start
                if self._host.taken() <= DISTURBED or self._lost >= MOST_LOST:
                    return self._seconds
                self._lost += self._seconds

        return one_step

    def of_layers(self, candidate: Candidate) -> tuple[nn.Module, Tensor]:
        """The copy in the candidate's form and what it is fed in one pass, to look at its layers."""
        torch.set_num_threads(candidate.threads)
        self._prepare(candidate)
        x, _, _ = next(iter(batch_parts(self._ready, self.passes)))
        return self._copy, x

    @property
    def passes(self) -> int:
        """Forward passes of a step: the parts that accumulation makes of the batch."""
        return min(self._settings.accumulate, len(self._batch.y))

    def _step(self, numerics: Numerics) -> None:
        accumulate_gradients(self._copy, self._optimizer, self._ready, self._settings, numerics)
        gradient_norm(self._parameters)
        self._optimizer.step()
        if numerics.device.startswith("cuda"):
            torch.cuda.synchronize()

    def _prepare(self, candidate: Candidate) -> bool:
        """Bring the copy into the candidate's form; returns whether the optimizer began anew."""
        wanted = (candidate.fused, candidate.winograd, candidate.amx)
        if self._arranged != wanted:
            arrange(self._copy, fused=candidate.fused, winograd=candidate.winograd, amx=candidate.amx)
            self._arranged = wanted
        numerics = candidate.numerics
        if self._form == (numerics.device, numerics.memory_format):
            return False
        self._form = (numerics.device, numerics.memory_format)
        layout = numerics.torch_memory_format
        self._copy.to(numerics.device).to(memory_format=layout)  # type: ignore[call-overload]
        self._optimizer, self._parameters = self._make_optimizer(self._copy), list(self._copy.parameters())
        batch = self._batch
        x = batch.x.to(numerics.device).contiguous(memory_format=layout)
        self._ready = Batch(x, batch.y.to(numerics.device), batch.rows, batch.mixed)
        return True


def step_timer(
    candidate: Candidate,
    network: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    batch: Batch,
    settings: StepSettings,
) -> Callable[[], float]:
    """A function that trains a private copy of the network for one step and returns its seconds."""
    return Trainee(network, make_optimizer, batch, settings).timer(candidate)


def measure(timers: Mapping[str, Callable[[], float]], *, seconds: float) -> dict[str, float]:
    """Median seconds of one step for every candidate, measured in turns so that drift hits all alike.

    Everyone gets a first step, which allocates, and unless that was hopeless one that counts; after that only
    those that are not much slower than the best, until the time is up.
    """
    taken: dict[str, list[float]] = {name: [] for name in timers}
    begun = time.perf_counter()
    share = seconds / (ROUNDS * max(len(timers), 1))
    for turn in range(ROUNDS):
        medians = {name: statistics.median(times) for name, times in taken.items() if times}
        for name, one_step in timers.items():
            if turn == 0:
                first = one_step()
                best = min((min(times) for times in taken.values() if times), default=first)
                if first > (_HOPELESS if first < SETTLES else _WORTH_ANOTHER) * best:
                    taken[name].append(first)
                    continue
            elif medians[name] > _WORTH_ANOTHER * min(medians.values()):
                continue
            elif time.perf_counter() - begun > 2 * seconds:
                break
            start, count = time.perf_counter(), 0
            while count == 0 or (time.perf_counter() - start < share and count < 200):
                taken[name].append(one_step())
                count += 1
    return {name: statistics.median(times) for name, times in taken.items()}


def ratio(
    first: Callable[[], float], second: Callable[[], float], *, seconds: float, margin: float | None = None
) -> float:
    """How many times as fast the second is: the median over pairs of steps, in changing order.

    Where a margin decides and the pairs do not tell on which side of it the median is, on a machine with
    other work, they go on for some time.
    """
    first(), second()
    found: list[float] = []
    begun = time.perf_counter()

    def goes_on() -> bool:
        passed = time.perf_counter() - begun
        open_ = margin is not None and passed < PATIENCE * seconds and not _is_clear(found, margin)
        return len(found) < ROUNDS or ((passed < seconds or open_) and len(found) < 200)

    while goes_on():
        order = (second, first) if len(found) % 2 else (first, second)
        taken = {each: each() for each in order}
        found.append(taken[first] / taken[second])
    return statistics.median(found)


def _is_clear(found: Sequence[float], margin: float) -> bool:
    """Whether the median lies on one side of the margin, or so near it that either choice is as good."""
    beside = _side(found, margin) != 0
    return beside or _side(found, margin - AS_GOOD) > 0 > _side(found, margin + AS_GOOD)


def _side(found: Sequence[float], value: float) -> int:
    """1 where the median is above the value, -1 where below, by order statistics (95 %); 0 where unclear."""
    above, count = sum(each >= value for each in found), len(found)
    difference = 2 * above - count
    return 0 if abs(difference) <= 2 * math.sqrt(count) else 1 if difference > 0 else -1


def _settled(one_step: Callable[[], float], *, seconds: float) -> float:
    """Seconds of a step, the shortest of a few: the first ones allocate, and others may be disturbed."""
    one_step()
    taken = [one_step()]
    while len(taken) < ROUNDS and sum(taken) < seconds:
        taken.append(one_step())
    return min(taken)


def first_images(batch: Batch, count: int) -> Batch:
    """The first images of a batch."""
    mixed = batch.mixed and Mixed(batch.mixed.other[:count], batch.mixed.share[:count])
    return Batch(batch.x[:count], batch.y[:count], batch.rows[:count], mixed)
