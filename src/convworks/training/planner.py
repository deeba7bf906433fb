"""Measure for a few seconds, then choose precision, memory format, threads and batch threads; say why.

A CPU's flags do not tell what is fast on it, so nothing is read from them: every candidate trains a copy of
the network on a real batch, in turns, and the one with the best median wins. bf16 must win by a margin,
because its numbers are coarser. Fused kernels (`layers.fused`) are tried beside the winner, and taken where
they win by a margin too; they are compiled only for a run that is long enough to pay for it. The plan is
stored in the run, and resuming uses the same one: another number of threads would end in other bits.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from convworks.data.loader import Batch
from convworks.errors import ConvworksError
from convworks.layers.fused import fuse, is_fused, plain
from convworks.training.loop import Numerics, StepSettings, accumulate_gradients, gradient_norm

BF16_MARGIN = 1.05  # bf16 must be this much faster than the best of fp32
FUSED_MARGIN = 1.02  # fused kernels must be this much faster than torch's operators
WORTH_BUILDING = 60.0  # seconds of a run that is worth the four of compiling the kernels
SAVE_SECONDS = 30.0  # time between checkpoints inside an epoch, turned into steps once
MEASURED_SHARE, SHORTEST, LONGEST = 0.03, 0.3, 4.0  # of the run's time; seconds
_ROUNDS = 3
_WORTH_ANOTHER = 1.5  # times the best: slower ones are not measured again
_HOPELESS = 2.5  # times the best, in the very first step, which allocates: that one counts, and is the last
_SETTLES = 0.25  # seconds: a longer step does not feel that its optimizer began anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a run computes. Everything here decides bits or speed, and is stored with the run."""

    precision: str
    memory_format: str
    device: str
    threads: int
    workers: int
    batch_path: str  # "RAM" or "memory-mapped cache"
    allocator: str
    checkpoint_every: int  # steps
    images_per_second: float  # measured, training steps only
    measured: Mapping[str, float]  # candidate -> images a second
    reasons: tuple[str, ...]
    torch: str
    cpus: int
    fused: bool = False  # batch norm, ReLU, addition and max pooling by the kernels of ops/native

    @property
    def numerics(self) -> Numerics:
        return Numerics(self.precision, self.memory_format, self.device)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> tuple[str, ...]:
        """The choice and its reasons, for people."""
        where = f"{self.threads} threads" if self.threads > 1 else "1 thread"
        choice = (
            f"{self.precision}, {self.memory_format}, {self.device} ({where}), "
            f"{'fused kernels, ' if self.fused else ''}{self.workers} batch threads"
        )
        return (f"{choice}, images in {self.batch_path}", *self.reasons)


def plan_from_dict(value: Any) -> Plan:
    """A plan from a run's plan.json. Raises A416 where it is damaged."""
    try:
        plan = Plan(**{**value, "reasons": tuple(value["reasons"]), "measured": dict(value["measured"])})
        plan.numerics.torch_memory_format  # noqa: B018  raises KeyError on an unknown name
        torch.device(plan.device)
        if (
            plan.precision not in {"fp32", "bf16"}
            or not (1 <= plan.threads <= 4096)
            or plan.checkpoint_every < 1
            or not isinstance(plan.fused, bool)
        ):
            raise ValueError("a value is out of range")
        return replace(plan, workers=int(plan.workers))
    except (TypeError, KeyError, ValueError, RuntimeError) as problem:
        raise ConvworksError("A416", f"the run's plan.json is damaged: {problem}") from problem


@dataclass(frozen=True, slots=True)
class Candidate:
    numerics: Numerics
    threads: int
    fused: bool = False

    @property
    def name(self) -> str:
        kernels = ", fused" if self.fused else ""
        return f"{self.numerics.precision} {self.numerics.memory_format} {self.threads} threads{kernels}"


def measuring_seconds(run_seconds: float) -> float:
    """How long measuring may take for a run of that length."""
    return min(LONGEST, max(SHORTEST, MEASURED_SHARE * run_seconds))


def usable_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(wanted: str) -> str:
    """'auto' to the accelerator that is there, or the CPU. Raises R520 where the wanted one is not."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as problem:
        raise ConvworksError(
            "R520",
            f"there is no device '{wanted}' here",
            why=str(problem).splitlines()[0][:120],
            try_="--device cpu",
        ) from problem
    return wanted


def candidates(
    *, device: str, precision: str, memory_format: str, threads: int, cpus: int
) -> list[Candidate]:
    """What is worth measuring, given what the user has fixed ('auto' and 0 leave it open)."""
    counts = [threads] if threads else ([cpus] if cpus == 1 or device != "cpu" else [cpus, max(1, cpus // 2)])
    return [  # by memory format, as changing it costs a step; what often wins comes first
        Candidate(Numerics(p, m, device), count)
        for m in ("channels_last", "contiguous")
        for count in counts
        for p in ("bf16", "fp32")
        if precision in {"auto", p} and memory_format in {"auto", m}
    ]


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
        self._copy = plain(copy.deepcopy(network)).train()
        self._form: tuple[str, str] | None = None
        self._seconds = 0.0  # of the last step
        self.fusible = fuse(self._copy) > 0
        plain(self._copy)

    def timer(self, candidate: Candidate) -> Callable[[], float]:
        """A function that trains one step as the candidate does it, and returns its seconds."""

        def one_step() -> float:
            torch.set_num_threads(candidate.threads)
            if self._prepare(candidate) and self._seconds < _SETTLES:
                self._step(candidate.numerics)
            start = time.perf_counter()
            self._step(candidate.numerics)
            self._seconds = time.perf_counter() - start
            return self._seconds

        return one_step

    def _step(self, numerics: Numerics) -> None:
        accumulate_gradients(self._copy, self._optimizer, self._ready, self._settings, numerics)
        gradient_norm(self._copy)
        self._optimizer.step()
        if numerics.device.startswith("cuda"):
            torch.cuda.synchronize()

    def _prepare(self, candidate: Candidate) -> bool:
        """Bring the copy into the candidate's form; returns whether the optimizer began anew."""
        if candidate.fused != is_fused(self._copy):
            fuse(self._copy) if candidate.fused else plain(self._copy)
        numerics = candidate.numerics
        if self._form == (numerics.device, numerics.memory_format):
            return False
        self._form = (numerics.device, numerics.memory_format)
        layout = numerics.torch_memory_format
        self._copy.to(numerics.device).to(memory_format=layout)  # type: ignore[call-overload]
        self._optimizer = self._make_optimizer(self._copy)
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
    share = seconds / (_ROUNDS * max(len(timers), 1))
    for turn in range(_ROUNDS):
        medians = {name: statistics.median(times) for name, times in taken.items() if times}
        for name, one_step in timers.items():
            if turn == 0:
                first = one_step()
                best = min((min(times) for times in taken.values() if times), default=first)
                if first > (_HOPELESS if first < _SETTLES else _WORTH_ANOTHER) * best:
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


def ratio(first: Callable[[], float], second: Callable[[], float], *, seconds: float) -> float:
    """How many times as fast the second is: the median over pairs of steps, in changing order."""
    first(), second()
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < _ROUNDS or (time.perf_counter() - begun < seconds and len(found) < 200):
        order = (second, first) if len(found) % 2 else (first, second)
        taken = {each: each() for each in order}
        found.append(taken[first] / taken[second])
    return statistics.median(found)


def choose(tried: list[Candidate], seconds: Mapping[str, float]) -> tuple[Candidate, str]:
    """The fastest candidate, where bf16 counts only with its margin; and the reason in words."""
    best = {
        precision: min(
            (c for c in tried if c.numerics.precision == precision),
            key=lambda c: seconds[c.name],
            default=None,
        )
        for precision in ("fp32", "bf16")
    }
    fp32, bf16 = best["fp32"], best["bf16"]
    if fp32 is None or bf16 is None:
        only = fp32 or bf16
        assert only is not None
        return only, f"{only.name}: the fastest of {len(tried)} measured"
    gain = seconds[fp32.name] / seconds[bf16.name]
    if gain >= BF16_MARGIN:
        return bf16, f"bf16 trains {gain:.2f}x as fast as fp32 here"
    return fp32, f"fp32: bf16 reaches only {gain:.2f}x of its speed here"


def make_plan(
    network: nn.Module,
    batch: Batch,
    *,
    make_optimizer: Callable[[nn.Module], Optimizer],
    settings: StepSettings,
    device: str,
    precision: str = "auto",
    memory_format: str = "auto",
    threads: int = 0,
    batch_path: str,
    allocator: str,
    steps: int,
    kernels: Callable[[bool], str] = lambda compile_: "not asked for",
) -> Plan:
    """Measure the candidates on one real batch and choose. `workers` is chosen later.

    Measuring takes a small share of what the run of `steps` steps will take, and a few seconds at the most.
    `kernels(compile_)` makes the fused kernels ready and returns '', or the reason why there are none.
    """
    cpus = usable_cpus()
    tried = candidates(
        device=device, precision=precision, memory_format=memory_format, threads=threads, cpus=cpus
    )
    threads_before = torch.get_num_threads()
    trainee = Trainee(network, make_optimizer, batch, settings)
    taken: dict[str, float]
    if len(tried) == 1:
        chosen, reason, seconds = tried[0], f"{tried[0].name}: as asked", SHORTEST
        taken = measure({chosen.name: trainee.timer(chosen)}, seconds=seconds)
    else:
        first = trainee.timer(tried[0])
        first()  # the first step allocates
        step = first()
        seconds = measuring_seconds(step * steps)
        chosen, reason, taken = _try_forms(tried, trainee, slow=step > _SETTLES, seconds=seconds)
    run_seconds = taken[chosen.name] * steps
    chosen, fused_reason = _try_fused(chosen, tried, taken, trainee, kernels, run_seconds, seconds / 2)
    torch.set_num_threads(threads_before)
    rate = len(batch.y) / taken[chosen.name]
    return Plan(
        precision=chosen.numerics.precision,
        memory_format=chosen.numerics.memory_format,
        device=device,
        threads=chosen.threads,
        workers=0,
        batch_path=batch_path,
        allocator=allocator,
        checkpoint_every=max(1, round(SAVE_SECONDS / taken[chosen.name])),
        images_per_second=rate,
        measured={name: round(len(batch.y) / t, 1) for name, t in taken.items()},
        reasons=(
            f"{reason}; {chosen.threads} of {cpus} processors",
            fused_reason,
            f"memory allocator: {allocator}",
        ),
        torch=torch.__version__,
        cpus=cpus,
        fused=chosen.fused,
    )


def _try_forms(
    tried: list[Candidate], trainee: Trainee, *, slow: bool, seconds: float
) -> tuple[Candidate, str, dict[str, float]]:
    """The winner, the reason, the seconds of each. If slow, fewer threads are tried for the winner only."""
    first = [each for each in tried if not slow or each.threads == tried[0].threads]
    taken = measure({each.name: trainee.timer(each) for each in first}, seconds=seconds)
    chosen, reason = choose(first, taken)
    for other in tried:
        if other not in first and other.numerics == chosen.numerics:
            gain = ratio(trainee.timer(chosen), trainee.timer(other), seconds=0)
            taken[other.name] = taken[chosen.name] / gain
            chosen = other if gain > 1 else chosen
    return chosen, reason, taken


def _try_fused(
    chosen: Candidate,
    tried: list[Candidate],
    taken: dict[str, float],
    trainee: Trainee,
    kernels: Callable[[bool], str],
    run_seconds: float,
    seconds: float,
) -> tuple[Candidate, str]:
    """The fused twin of the winner where it is faster, and the reason in words. `taken` gets its time."""
    beside = [
        each
        for each in tried
        if each.numerics.precision == chosen.numerics.precision
        and each.numerics.memory_format == "channels_last"
        and each.threads == chosen.threads
    ]
    if not beside or chosen.numerics.device != "cpu":
        return chosen, "fused kernels: no, they are for channels_last on the CPU"
    if not trainee.fusible:
        return chosen, "fused kernels: no, nothing in this network is fused"
    missing = kernels(run_seconds >= WORTH_BUILDING)
    if missing:
        return chosen, f"fused kernels: no, {missing}"
    twin = replace(beside[0], fused=True)
    gain = ratio(trainee.timer(chosen), trainee.timer(twin), seconds=seconds)
    taken[twin.name] = taken[chosen.name] / gain  # both were measured in the same moment
    if gain >= FUSED_MARGIN:
        return twin, f"fused kernels: yes, {gain:.2f}x as fast as torch's operators here"
    return chosen, f"fused kernels: no, {gain:.2f}x as fast as torch's operators here"


def choose_workers(
    plan: Plan, rates: Mapping[int, float], *, batch_seconds: float, step_seconds: float
) -> Plan:
    """Put the best number of batch threads into a plan. `rates` is threads -> images a second, end to end."""
    workers = max(rates, key=lambda count: (round(rates[count] / max(rates.values()), 2), -count))
    share = batch_seconds / max(batch_seconds + step_seconds, 1e-9)
    reason = f"preparing a batch takes {share:.0%} of a step's time; {workers} threads prepare ahead"
    return replace(plan, workers=workers, images_per_second=rates[workers], reasons=(*plan.reasons, reason))
