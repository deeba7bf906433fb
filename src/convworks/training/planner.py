"""Measure for a few seconds, then choose precision, memory format, threads and batch threads; say why.

A CPU's flags do not tell what is fast on it, so nothing is read from them: every candidate trains a copy of
the network on a real batch, in turns, and the one with the best median wins. bf16 must win by a margin,
because its numbers are coarser. The plan is stored in the run, and resuming uses the same one: another number
of threads would end in other bits.
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
from convworks.training.loop import Numerics, StepSettings, accumulate_gradients, gradient_norm

BF16_MARGIN = 1.05  # bf16 must be this much faster than the best of fp32
SAVE_SECONDS = 30.0  # time between checkpoints inside an epoch, turned into steps once
MEASURED_SHARE, SHORTEST, LONGEST = 0.03, 0.3, 4.0  # of the run's time; seconds
_ROUNDS = 3
_WORTH_ANOTHER = 1.5  # times the best: slower ones are not measured again


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

    @property
    def numerics(self) -> Numerics:
        return Numerics(self.precision, self.memory_format, self.device)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> tuple[str, ...]:
        """The choice and its reasons, for people."""
        where = f"{self.threads} threads" if self.threads > 1 else "1 thread"
        choice = (
            f"{self.precision}, {self.memory_format}, {self.device} ({where}), {self.workers} batch threads"
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
        ):
            raise ValueError("a value is out of range")
        return replace(plan, workers=int(plan.workers))
    except (TypeError, KeyError, ValueError, RuntimeError) as problem:
        raise ConvworksError("A416", f"the run's plan.json is damaged: {problem}") from problem


@dataclass(frozen=True, slots=True)
class Candidate:
    numerics: Numerics
    threads: int

    @property
    def name(self) -> str:
        return f"{self.numerics.precision} {self.numerics.memory_format} {self.threads} threads"


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
    pairs = [
        ("fp32", "contiguous"),
        ("fp32", "channels_last"),
        ("bf16", "channels_last"),
        ("bf16", "contiguous"),
    ]
    return [
        Candidate(Numerics(p, m, device), count)
        for count in counts
        for p, m in pairs
        if precision in {"auto", p} and memory_format in {"auto", m}
    ]


def step_timer(
    candidate: Candidate,
    network: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    batch: Batch,
    settings: StepSettings,
) -> Callable[[], float]:
    """A function that trains a private copy of the network for one step and returns its seconds."""
    numerics = candidate.numerics
    trainee = copy.deepcopy(network).to(numerics.device)
    trainee = trainee.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
    x = batch.x.to(numerics.device).contiguous(memory_format=numerics.torch_memory_format)
    ready = Batch(x, batch.y.to(numerics.device), batch.rows)
    optimizer = make_optimizer(trainee)
    trainee.train()

    def one_step() -> float:
        torch.set_num_threads(candidate.threads)
        start = time.perf_counter()
        accumulate_gradients(trainee, optimizer, ready, settings, numerics)
        gradient_norm(trainee)
        optimizer.step()
        if numerics.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return one_step


def measure(timers: Mapping[str, Callable[[], float]], *, seconds: float) -> dict[str, float]:
    """Median seconds of one step for every candidate, measured in turns so that drift hits all alike.

    Everyone gets a first step, which allocates, and one that counts; after that only those that are not much
    slower than the best, until the time is up.
    """
    taken: dict[str, list[float]] = {name: [] for name in timers}
    begun = time.perf_counter()
    share = seconds / (_ROUNDS * max(len(timers), 1))
    for turn in range(_ROUNDS):
        medians = {name: statistics.median(times) for name, times in taken.items() if times}
        for name, one_step in timers.items():
            if turn == 0:
                one_step()
            elif medians[name] > _WORTH_ANOTHER * min(medians.values()):
                continue
            elif time.perf_counter() - begun > 2 * seconds:
                break
            start, count = time.perf_counter(), 0
            while count == 0 or (time.perf_counter() - start < share and count < 200):
                taken[name].append(one_step())
                count += 1
    return {name: statistics.median(times) for name, times in taken.items()}


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
) -> Plan:
    """Measure the candidates on one real batch and choose. `workers` is chosen later.

    Measuring takes a small share of what the run of `steps` steps will take, and a few seconds at the most.
    """
    cpus = usable_cpus()
    tried = candidates(
        device=device, precision=precision, memory_format=memory_format, threads=threads, cpus=cpus
    )
    threads_before = torch.get_num_threads()
    taken: Mapping[str, float]
    if len(tried) == 1:
        chosen, reason = tried[0], f"{tried[0].name}: as asked"
        timer = step_timer(chosen, network, make_optimizer, batch, settings)
        taken = measure({chosen.name: timer}, seconds=SHORTEST)
    else:
        timers = {c.name: step_timer(c, network, make_optimizer, batch, settings) for c in tried}
        first = timers[tried[0].name]
        first()  # the first step allocates
        taken = measure(timers, seconds=measuring_seconds(first() * steps))
        chosen, reason = choose(tried, taken)
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
        reasons=(f"{reason}; {chosen.threads} of {cpus} processors", f"memory allocator: {allocator}"),
        torch=torch.__version__,
        cpus=cpus,
    )


def choose_workers(
    plan: Plan, rates: Mapping[int, float], *, batch_seconds: float, step_seconds: float
) -> Plan:
    """Put the best number of batch threads into a plan. `rates` is threads -> images a second, end to end."""
    workers = max(rates, key=lambda count: (round(rates[count] / max(rates.values()), 2), -count))
    share = batch_seconds / max(batch_seconds + step_seconds, 1e-9)
    reason = f"preparing a batch takes {share:.0%} of a step's time; {workers} threads prepare ahead"
    return replace(plan, workers=workers, images_per_second=rates[workers], reasons=(*plan.reasons, reason))
