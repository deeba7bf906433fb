"""How long the kept network takes for one image and for a batch, measured at the end of a training.

It is kept in the run as latency.json, apart from what a resumed run shares with an uninterrupted one. The
time taken is bounded: a small network is done within half a second, a large one within two, or after a single
pass where that takes longer than one second.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from convworks.machine import processor_name
from convworks.report.latency import Latency
from convworks.runs import Run
from convworks.training.loop import Numerics

LARGEST_BATCH = 32
ALONE = 1.0  # seconds of a first pass from which no other is made
PASSES = 50  # of one kind, at the most
FEWEST = 5  # of one kind, where SECONDS allow
ENOUGH = 0.1  # seconds of FEWEST passes or more
SECONDS = 0.4  # of passes of one kind, at the most, and the last one
BATCH_SECONDS = 0.3  # that a pass with a batch should take, at the most


def measure(network: nn.Module, shape: tuple[int, int, int], numerics: Numerics, *, most: int) -> Latency:
    """Medians over repeated passes of a network in eval mode on noise (C, H, W); a batch has `most` at most.

    The first pass, in which libraries prepare themselves, does not count unless it is the only one.
    """

    def passes(count: int) -> Callable[[], float]:
        noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
        x = noise.to(numerics.device).contiguous(memory_format=numerics.torch_memory_format)
        return lambda: _seconds(network, x, numerics)

    single = passes(1)
    taken = [single()]
    if taken[0] < ALONE:
        taken = _repeated(single)
    one = statistics.median(taken)
    batch = 1
    while 2 * batch <= min(most, LARGEST_BATCH) and 2 * batch * one <= BATCH_SECONDS:
        batch *= 2
    whole = taken
    if batch > 1:
        several = passes(batch)
        several()
        whole = _repeated(several)
    cuda = numerics.device.startswith("cuda")
    return Latency(
        image_seconds=one,
        image_repeats=len(taken),
        batch=batch,
        batch_seconds=statistics.median(whole),
        batch_repeats=len(whole),
        device=numerics.device,
        processor=torch.cuda.get_device_name(numerics.device) if cuda else processor_name(),
        threads=torch.get_num_threads(),
        precision=numerics.precision,
        shape=shape,
    )


def _repeated(one: Callable[[], float]) -> list[float]:
    taken: list[float] = []
    while len(taken) < PASSES and sum(taken) < SECONDS:
        taken.append(one())
        if len(taken) >= FEWEST and sum(taken) >= ENOUGH:
            break
    return taken


@torch.inference_mode()
def _seconds(network: nn.Module, x: torch.Tensor, numerics: Numerics) -> float:
    start = time.perf_counter()
    with numerics.autocast():
        network(x)
    if numerics.device.startswith("cuda"):
        torch.cuda.synchronize(numerics.device)
    return time.perf_counter() - start


def note_latency(
    run: Run, network: nn.Module, shape: tuple[int, int, int], numerics: Numerics, *, most: int
) -> None:
    """Measure and keep. A network that picks its algorithms by trying them on each new shape is left alone:
    that could take minutes. A disk that is full only loses the record."""
    if any(getattr(module, "algorithm", "") == "auto" for module in network.modules()):
        return
    with contextlib.suppress(OSError):
        run.write_json(run.latency_file, measure(network, shape, numerics, most=most).to_dict())
