"""Measure for a few seconds, then choose precision, memory format, threads and batch threads; say why.

A CPU's flags do not tell what is fast on it, so nothing is read from them: every candidate trains a copy of
the network on a real batch, or a part of it, in turns, and the one with the best median wins. bf16 must win
by a margin, because its numbers are coarser. Fused kernels (`layers.fused`) are tried beside the winner, and
taken where they win by a margin too; they are compiled only for a run that is long enough to pay for it. In
bf16 layers are then tried by Winograd's algorithm and on matrix units (`own_convolutions`). The plan is
stored in the run, and resuming uses the same one: another number of threads would end in other bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from convworks.data.loader import Batch
from convworks.errors import ConvworksError
from convworks.machine import HostShare
from convworks.training.device import no_such_device
from convworks.training.loop import Numerics, StepSettings
from convworks.training.own_convolutions import Stage
from convworks.training.step_timing import (
    BF16_MARGIN,
    OWN_MARGIN,
    SETTLES,
    Candidate,
    Trainee,
    measure,
    ratio,
)

WORTH_BUILDING = 30.0  # seconds of a run that is worth compiling the kernels, once for a machine: 4 to 13
SAVE_SECONDS = 30.0  # time between checkpoints inside an epoch, turned into steps once
MEASURED_SHARE, SHORTEST, LONGEST = 0.03, 0.3, 4.0  # of the run's time; seconds


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
    winograd: tuple[str, ...] = ()  # convolutions that train by Winograd's algorithm, by name
    amx: tuple[str, ...] = ()  # convolutions and dense layers that train on matrix units

    @property
    def numerics(self) -> Numerics:
        return Numerics(self.precision, self.memory_format, self.device)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> tuple[str, ...]:
        """The choice and its reasons, for people."""
        where = f"{self.threads} threads" if self.threads > 1 else "1 thread"
        own = ((self.fused, "fused kernels, "), (self.winograd, "Winograd, "), (self.amx, "AMX, "))
        kernels = "".join(word for used, word in own if used)
        choice = (
            f"{self.precision}, {self.memory_format}, {self.device} ({where}), "
            f"{kernels}{self.workers} batch threads"
        )
        return (f"{choice}, images in {self.batch_path}", *self.reasons)


def plan_from_dict(value: Any) -> Plan:
    """A plan from a run's plan.json. Raises A416 where it is damaged."""
    try:
        reasons, measured = tuple(value["reasons"]), dict(value["measured"])
        layers = {key: _names(value, key) for key in ("winograd", "amx")}
        plan = Plan(**{**value, **layers, "reasons": reasons, "measured": measured})
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


def _names(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The layers under that key, none in a plan from before there was such a choice."""
    found = value.get(key, ())
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise TypeError(f"{key} is no list of names")
    return tuple(found)


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
        raise no_such_device(wanted, problem) from problem
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
    winograd: str = "auto",
    amx: str = "auto",
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
    threads_before, host = torch.get_num_threads(), HostShare()
    trainee = Trainee(network, make_optimizer, batch, settings)
    trainee.shorten(tried[0])
    wanted = {"winograd": winograd, "amx": amx}
    chosen, (reason, *reasons), taken = _try_all(tried, trainee, kernels, steps, wanted)
    images = round(trainee.share * len(batch.y))
    if images < len(batch.y):
        reason += f", measured with {images} of a batch's {len(batch.y)} images"
    disturbed = host.disturbance("this was measured")
    torch.set_num_threads(threads_before)
    rate = images / taken[chosen.name]
    return Plan(
        precision=chosen.numerics.precision,
        memory_format=chosen.numerics.memory_format,
        device=device,
        threads=chosen.threads,
        workers=0,
        batch_path=batch_path,
        allocator=allocator,
        checkpoint_every=max(1, round(SAVE_SECONDS * rate / len(batch.y))),
        images_per_second=rate,
        measured={name: round(images / t, 1) for name, t in taken.items()},
        reasons=(
            f"{reason}; {chosen.threads} of {cpus} processors",
            *reasons,
            f"memory allocator: {allocator}",
            *([disturbed] if disturbed else []),
        ),
        torch=torch.__version__,
        cpus=cpus,
        fused=chosen.fused,
        winograd=chosen.winograd,
        amx=chosen.amx,
    )


def _try_all(
    tried: list[Candidate],
    trainee: Trainee,
    kernels: Callable[[bool], str],
    steps: int,
    wanted: Mapping[str, str],
) -> tuple[Candidate, tuple[str, ...], dict[str, float]]:
    """The winner of all, the reasons: of its form, of the kernels of ours; and the seconds of each."""
    form, reason, taken, seconds = _try_forms(tried, trainee, steps)
    run_seconds, half = taken[form.name] / trainee.share * steps, seconds / 2
    ready = cache(lambda: kernels(run_seconds >= WORTH_BUILDING))
    winner, fused_reason = _try_fused(form, tried, taken, trainee, ready, half)
    stage = Stage(winner=winner, tried=tried, trainee=trainee, ready=ready, wanted=wanted, seconds=half)
    found = stage.run(taken)
    chosen = found.chosen
    if found.overtook and chosen.fused != winner.fused:
        fused_reason = "fused kernels: yes, beside the layers of our own"
    elif chosen != winner and not chosen.fused and trainee.fusible:
        # the convolutions take less time now, and what lies between them a larger share of it
        chosen, fused_reason = _with_fused(chosen, replace(chosen, fused=True), taken, trainee, half)
    return chosen, (found.overtook or reason, fused_reason, *found.reasons), taken


def _try_forms(
    tried: list[Candidate], trainee: Trainee, steps: int
) -> tuple[Candidate, str, dict[str, float], float]:
    """The winner, the reason, the seconds of each, and how long measuring them should take.

    Where a step is slow, fewer threads are tried for the winner only.
    """
    if len(tried) == 1:
        (only,) = tried
        taken = measure({only.name: trainee.timer(only)}, seconds=SHORTEST)
        return only, f"{only.name}: as asked", taken, SHORTEST
    first_step = trainee.timer(tried[0])
    first_step()  # allocates
    step = first_step()
    seconds = measuring_seconds(step / trainee.share * steps)
    first = [each for each in tried if step <= SETTLES or each.threads == tried[0].threads]
    taken = measure({each.name: trainee.timer(each) for each in first}, seconds=seconds)
    chosen, reason = choose(first, taken)
    for other in tried:
        if other not in first and other.numerics == chosen.numerics:
            gain = ratio(trainee.timer(chosen), trainee.timer(other), seconds=0)
            taken[other.name] = taken[chosen.name] / gain
            chosen = other if gain > 1 else chosen
    return chosen, reason, taken, seconds


def _try_fused(
    chosen: Candidate,
    tried: list[Candidate],
    taken: dict[str, float],
    trainee: Trainee,
    ready: Callable[[], str],
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
    missing = ready()
    if missing:
        return chosen, f"fused kernels: no, {missing}"
    return _with_fused(chosen, replace(beside[0], fused=True), taken, trainee, seconds)


def _with_fused(
    chosen: Candidate, twin: Candidate, taken: dict[str, float], trainee: Trainee, seconds: float
) -> tuple[Candidate, str]:
    """The twin with fused kernels where it is faster, and the reason in words. `taken` gets its time."""
    gain = ratio(trainee.timer(chosen), trainee.timer(twin), seconds=seconds, margin=OWN_MARGIN)
    taken[twin.name] = taken[chosen.name] / gain  # both were measured in the same moment
    if gain >= OWN_MARGIN:
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
