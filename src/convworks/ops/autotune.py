"""`algorithm="auto"`: measure once for each shape on this machine, remember, and use the fastest.

Each of the three passes (forward, gradient to the input, gradient to the weights) is chosen on its own.
Torch's own convolution is always measured first, and another is taken only where it was at least 5 % faster,
so that noise cannot make a choice that costs. What was chosen is kept in memory and, after
`remember_choices(file)`, in a small JSON file for the next process, so that the same network computes in the
same way again.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convworks.durable import read_json, to_json, write_atomic
from convworks.errors import ConvworksError
from convworks.machine import processor_name
from convworks.ops.algorithms import fourier, library, lowering, winograd
from convworks.ops.algorithms.named import Algorithm, algorithm
from convworks.ops.algorithms.window import Window, numel

PASSES = ("forward", "input_gradient", "weight_gradient")
GAIN = 0.95  # of the library's time: what an alternative must stay below
OVERHEAD = 40e-6  # seconds that a pass of ours costs in Python where torch's own costs none
ROUNDS = 3
TURNS = 7  # of the chosen passes and the library's, to confirm a choice
LONG_ENOUGH = 2e-3  # seconds that one timing lasts at least, by repetition
EXTRA_BYTES = 2**30  # an algorithm that needs more memory than this beside its tensors is not tried
DIRECT_TAPS = 9  # a loop over more taps than this has never won


@dataclass(frozen=True, slots=True)
class Problem:
    """Everything that the fastest algorithm can depend on."""

    shape: tuple[int, ...]  # of x, (N, C, *size)
    kernels: tuple[int, ...]  # of the weight, (O, C/G, *kernel)
    window: Window
    dtype: torch.dtype
    device: str
    threads: int
    contiguous: bool

    @property
    def key(self) -> str:
        w = self.window
        parts = [
            self.shape,
            self.kernels,
            w.stride,
            w.padding,
            w.dilation,
            w.groups,
            self.device,
            self.threads,
        ]
        return (
            f"{parts} {str(self.dtype).removeprefix('torch.')} {'' if self.contiguous else 'strided'}".strip()
        )


def problem(x: Tensor, weight: Tensor, window: Window) -> Problem:
    return Problem(
        shape=tuple(x.shape),
        kernels=tuple(weight.shape),
        window=window,
        dtype=x.dtype,
        device=x.device.type,
        threads=torch.get_num_threads(),
        contiguous=x.is_contiguous(),
    )


class Choices:
    """The algorithm of each pass for each problem met so far."""

    def __init__(self) -> None:
        self._stored: dict[str, dict[str, str]] = {}
        self._file: Path | None = None
        self._calls: dict[tuple[Any, ...], Algorithm] = {}

    def open(self, file: Path) -> None:
        """Begin with what the file holds, chosen on this machine, and write new choices there."""
        self._file, self._stored, self._calls = file, {}, {}
        with contextlib.suppress(ConvworksError, OSError):
            tree = read_json(file)
            if isinstance(tree, dict) and tree.get("machine") == _machine():
                self._stored |= {key: _checked(names) for key, names in tree["choices"].items()}

    def fastest(self, x: Tensor, weight: Tensor, window: Window, passes: tuple[str, ...]) -> Algorithm:
        """`names` as one algorithm. A call that was made before costs a microsecond or two."""
        threads = torch.get_num_threads()
        call = (x.shape, weight.shape, window, passes, x.dtype, x.device.type, x.is_contiguous(), threads)
        found = self._calls.get(call)
        if found is None:
            found = self._calls[call] = _combined(self.names(x, weight, window, passes))
        return found

    def names(self, x: Tensor, weight: Tensor, window: Window, passes: tuple[str, ...]) -> dict[str, str]:
        """The name of the algorithm for each of `passes`, measured now where it is not known.

        Inference and training are chosen apart: what wins a forward pass alone may lose beside the gradients.
        """
        key = f"{problem(x, weight, window).key} {'+'.join(passes)}"
        known = self._stored.get(key)
        if known is None or set(known) != set(passes):
            x, weight = x.detach(), weight.detach()
            known = {each: best_of(measure(each, x, weight, window)) for each in passes}
            if not confirmed(known, x, weight, window, passes):
                known = dict.fromkeys(passes, "library")
            self._stored[key] = known
            self._keep()
        return known

    def _keep(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a measurement next time
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file, to_json({"machine": _machine(), "choices": self._stored}))


CHOICES = Choices()  # of this process


def remember_choices(file: Path) -> None:
    """Keep the choices of `algorithm="auto"` in a JSON file, and begin with those it holds already."""
    CHOICES.open(file)


def fastest(x: Tensor, weight: Tensor, window: Window, passes: tuple[str, ...]) -> Algorithm:
    """The fastest algorithm of each pass, as one; "library" where it is that for all of them."""
    return CHOICES.fastest(x, weight, window, passes)


def _combined(names: dict[str, str]) -> Algorithm:
    """The algorithm whose passes have these names; the library's where there is none."""
    chosen = {each: names.get(each, "library") for each in PASSES}
    if set(chosen.values()) == {"library"}:
        return algorithm("library")
    return Algorithm(
        name=", ".join(chosen.values()),
        **{each: getattr(algorithm(name), each) for each, name in chosen.items()},
    )


def candidates(case: Problem) -> list[str]:
    """The names worth measuring beside "library"."""
    size = case.shape[2:]
    trimmed, _ = case.window.trimmed(size)
    prefix = "trimmed " if trimmed != case.window else ""
    kernels = (*case.kernels[:2], *trimmed.kernel)
    found = ["library"] if prefix else []
    if case.window.rank > 1 and not case.device.startswith("cuda"):
        found.append("channels_last")
    itemsize = case.dtype.itemsize
    if lowering.extra_bytes(case.shape, trimmed, itemsize) <= EXTRA_BYTES:
        found.append("lowering")
    if numel(trimmed.kernel) <= DIRECT_TAPS and case.dtype.itemsize >= 4:
        found.append("direct")
    if winograd.applies(trimmed) and case.dtype.itemsize >= 4:
        found += ["winograd", "winograd4"]
    found += _worthwhile_tiles(case, trimmed, kernels)
    return [prefix + name for name in found]


def _worthwhile_tiles(case: Problem, window: Window, kernels: tuple[int, ...]) -> list[str]:
    """Up to three sizes of tiles, where the count of operations is not hopeless against the definition's."""
    size = case.shape[2:]
    macs = case.shape[0] * numel(window.output(size)) * numel(kernels)
    found = []
    for side in fourier.best_sides(case.shape, kernels, window)[:3]:
        fits = fourier.extra_bytes(case.shape, kernels, window, side) <= 2 * EXTRA_BYTES
        if fits and fourier.cost(side, case.shape, kernels, window) < 3 * macs:
            found.append("fft " + "x".join(str(n) for n in side))
    return found


def measure(part: str, x: Tensor, weight: Tensor, window: Window) -> dict[str, float]:
    """Seconds of one pass for the library and every candidate: the best of a few rounds, taken in turn.

    A candidate whose first two runs took half as long again as the library's is not measured further.
    """
    dy = _errors(x, weight, window)
    runs = {name: _run(part, algorithm(name), x, weight, dy, window) for name in
            ("library", *candidates(problem(x, weight, window)))}  # fmt: skip
    seconds: dict[str, float] = {}
    for name, run in runs.items():
        try:
            first = _seconds(run, x)
            slow = name != "library" and first > 4 * seconds["library"]
            seconds[name] = first if slow else min(first, _seconds(run, x))
        except (RuntimeError, MemoryError):  # not enough memory for this one
            seconds.pop(name, None)
    repeats = max(1, min(20, int(LONG_ENOUGH / seconds["library"])))
    for _ in range(ROUNDS):
        for name in [n for n, s in seconds.items() if s < 1.5 * seconds["library"]]:
            seconds[name] = min(seconds[name], _seconds(runs[name], x, repeats))
    return seconds


def confirmed(
    names: dict[str, str], x: Tensor, weight: Tensor, window: Window, passes: tuple[str, ...]
) -> bool:
    """Whether the chosen passes one after the other, as training runs them, keep the gain they had alone.

    What one pass leaves in the caches is what the next one finds, so a choice that was near can turn round.
    Median over turns with the library's passes. True where the library was chosen for all of them.
    """
    if all(names[each] == "library" for each in passes):
        return True
    dy = _errors(x, weight, window)

    def together(choice: dict[str, str]) -> Callable[[], Tensor]:
        chosen = _combined({each: choice[each] for each in passes})
        if passes == PASSES and chosen.library_gradients:  # one call for both, as autograd makes it
            size = tuple(x.shape[2:])
            return lambda: (
                chosen.forward(x, weight, window),
                *library.gradients(x, dy, weight, window, size),
            )[-1]
        runs = [_run(each, chosen, x, weight, dy, window) for each in passes]
        return lambda: [run() for run in runs][-1]

    ours, theirs = together(names), together(dict.fromkeys(passes, "library"))
    repeats = max(1, min(20, int(LONG_ENOUGH / _seconds(theirs, x))))
    ratios = []
    for turn in range(TURNS):
        first, second = (ours, theirs) if turn % 2 else (theirs, ours)
        seconds = {first: _seconds(first, x, repeats), second: _seconds(second, x, repeats)}
        ratios.append((seconds[ours] + OVERHEAD) / seconds[theirs])
    return statistics.median(ratios) < GAIN


def best_of(seconds: dict[str, float]) -> str:
    """The fastest name, or "library" where no other stays below 95 % of its time."""
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] + OVERHEAD < GAIN * seconds["library"] else "library"


def _errors(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """A gradient of the output to measure with."""
    shape = (x.shape[0], weight.shape[0], *window.output(tuple(x.shape[2:])))
    return torch.randn(shape, device=x.device).to(x.dtype)


def _run(
    part: str, each: Algorithm, x: Tensor, weight: Tensor, dy: Tensor, window: Window
) -> Callable[[], Tensor]:
    if part == "forward":
        return lambda: each.forward(x, weight, window)
    if part == "input_gradient":
        return lambda: each.input_gradient(dy, weight, window, tuple(x.shape[2:]))
    return lambda: each.weight_gradient(x, dy, window)


def _seconds(run: Callable[[], Tensor], like: Tensor, repeats: int = 1) -> float:
    """Seconds of one run, the mean of a few."""
    started = time.perf_counter()
    for _ in range(repeats):
        result = run()
    if like.device.type != "cpu":
        result.flatten()[:1].cpu()  # waits for the device
    return (time.perf_counter() - started) / repeats


def _machine() -> dict[str, Any]:
    return {"processor": processor_name(), "torch": torch.__version__}


def _checked(names: object) -> dict[str, str]:
    """Names of a file, those that are algorithms. Raises ConvworksError for others."""
    found = dict(names) if isinstance(names, dict) else {}
    for each, name in found.items():
        if each not in PASSES or not isinstance(name, str):
            raise ConvworksError("U125", f"'{each}' is no pass of a convolution")
        algorithm(name)
    return found
