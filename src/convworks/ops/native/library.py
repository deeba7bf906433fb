"""The loaded kernels, as functions on torch tensors; memory is torch's, threads are torch's own OpenMP team.

`open_kernels(folder)` loads them for this process, as a shared library can only be loaded for a process. The
functions take channels_last tensors of float32 or bfloat16 on the CPU, and check nothing:
`fused_batch_norm.py` is the place that does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from convworks.ops.native.build import build, built

INTERFACE = 6  # of kernels.cpp
_POINTER, _I64, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_double
_SIGNATURES = {
    "convworks_norm_forward": [_INT, _I64, _I64, *[_POINTER] * 9, _DOUBLE, _DOUBLE, _INT, _INT],
    "convworks_norm_backward": [_INT, _I64, _I64, *[_POINTER] * 11, _INT, _INT],
    "convworks_pool_forward": [_INT, *[_POINTER] * 9, _INT, _INT],
    "convworks_pool_backward": [_INT, *[_POINTER] * 12, _INT],
    "convworks_winograd_available": [],
    "convworks_winograd_kernels": [_POINTER, _POINTER, _I64, _I64, _INT, _POINTER, _INT],
    "convworks_winograd_forward": [*[_POINTER] * 6, _INT],
    "convworks_winograd_weight": [*[_POINTER] * 5, _INT],
    "convworks_winograd_pool_forward": [*[_POINTER] * 6, _INT],
    "convworks_winograd_pool_input": [*[_POINTER] * 5, _INT],
    "convworks_winograd_pool_weight": [*[_POINTER] * 6, _INT],
    "convworks_amx_available": [],
    "convworks_amx_forward": [*[_POINTER] * 4, _INT, *[_POINTER] * 3, _INT],
    "convworks_amx_weight": [*[_POINTER] * 5, _INT],
    "convworks_few_forward": [*[_POINTER] * 6, _INT],
    "convworks_few_weight": [*[_POINTER] * 6, _INT],
    "convworks_linear_forward": [*[_POINTER] * 5, _INT],
    "convworks_linear_backward": [*[_POINTER] * 7, _INT],
    "convworks_channel_sums": [_INT, _I64, _I64, *[_POINTER] * 2, _INT],
    "convworks_response": [_INT, _I64, _I64, *[_POINTER] * 3, _INT, _DOUBLE, _INT, _DOUBLE, _INT, _INT],
}


@dataclass(slots=True)
class _State:
    """Of this process."""

    library: ctypes.CDLL | None = None
    reason: str = "not opened"


_STATE = _State()


def open_kernels(folder: Path, *, compile_: bool) -> str:
    """Load the kernels that lie in `folder`, compiled first where that is allowed and necessary.

    Returns '' where they can be used, else the reason in words. What is loaded stays loaded.
    """
    if _STATE.library is None:
        found = build(folder) if compile_ else built(folder)
        _STATE.reason = found.reason
        if found.path is not None:
            try:
                _STATE.library = _load(found.path)
            except (OSError, AttributeError) as problem:
                _STATE.reason = f"{found.path.name} cannot be loaded: {problem}"
    return _STATE.reason


def available() -> bool:
    """Whether the kernels are loaded."""
    return _STATE.library is not None


def close_kernels() -> None:
    """Work without kernels from now on, as where there is no compiler."""
    _STATE.library, _STATE.reason = None, "not opened"


def _load(path: Path) -> ctypes.CDLL:
    """The library, with its threads set. Raises OSError or AttributeError for one that does not fit."""
    library = ctypes.CDLL(str(path.absolute()))
    if library.convworks_interface() != INTERFACE:
        raise OSError("it has another interface")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, _INT
    size = library.convworks_winograd_size
    size.argtypes, size.restype = [_I64, _I64], _I64
    library.convworks_threads.argtypes, library.convworks_threads.restype = [_POINTER] * 2, None
    library.convworks_threads(*_team())
    return library


def _team() -> tuple[int | None, int | None]:
    """GOMP_parallel and omp_get_thread_num, from the very OpenMP library that torch uses, or nothing.

    The name is looked up in torch's own library and what that was linked with, so that a second copy, which
    another package brings along, is never taken: two teams of threads would wait against each other.
    """
    try:
        torchs = ctypes.CDLL(torch._C.__file__)
        begin, number = (ctypes.cast(f, _POINTER) for f in (torchs.GOMP_parallel, torchs.omp_get_thread_num))
        return begin.value, number.value
    except (OSError, AttributeError):
        return None, None


class Run(Protocol):
    """What is done with a kernel: `call` runs it, `captured.Captured` writes it down to run it later."""

    def __call__(self, name: str, *arguments: object) -> None: ...


def call(name: str, *arguments: object) -> None:
    """Run a kernel. Raises MemoryError where it finds none."""
    if kernel(name)(*map(as_taken, arguments)):
        raise MemoryError(f"{name} found no memory")


def kernel(name: str) -> Callable[..., int]:
    """The kernel of that name, which returns something other than 0 where it finds no memory."""
    assert _STATE.library is not None
    found: Callable[..., int] = getattr(_STATE.library, name)
    return found


def as_taken(argument: object) -> object:
    """An argument as a kernel takes it: a tensor is where its numbers lie, None is a null pointer."""
    return argument.data_ptr() if isinstance(argument, Tensor) else argument


class Gradients(NamedTuple):
    """Those of a convolution or dense layer, None where nobody asked."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def norm_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor, Tensor] | None,
    y: Tensor | None,
    *,
    momentum: float,
    epsilon: float,
    activation: int,
) -> Tensor:
    """Writes y, or only the statistics where it is None; returns the mean and 1/std, (2, C) in float32.

    activation: 0 none, 1 ReLU, 2 GELU (without a residual).
    """
    channels = x.shape[1]
    saved = torch.empty(2, channels, dtype=torch.float32)
    mean, var = running or (None, None)
    call(
        "convworks_norm_forward",
        x.dtype == torch.bfloat16,
        x.numel() // channels,
        channels,
        *(x, residual, weight, bias, mean, var, saved[0], saved[1], y),
        momentum,
        epsilon,
        activation,
        torch.get_num_threads(),
    )
    return saved


def norm_backward(
    x: Tensor,
    dy: Tensor,
    y: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Tensor,
    *,
    activation: int,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(dx, dresidual, dweight and dbias as (2, C)); y is given where a residual was added before the ReLU."""
    channels = x.shape[1]
    dx, parameters = torch.empty_like(x), torch.empty(2, channels, dtype=torch.float32)
    dresidual = torch.empty_like(x) if y is not None else None
    tensors = (x, dy, y, weight, bias, saved[0], saved[1], dx, dresidual, parameters[0], parameters[1])
    call(
        "convworks_norm_backward",
        x.dtype == torch.bfloat16,
        x.numel() // channels,
        channels,
        *tensors,
        activation,
        torch.get_num_threads(),
    )
    return dx, dresidual, parameters


def response(
    x: Tensor, dy: Tensor | None, *, reach: int, alpha: float, quarters: int, k: float, relu: bool
) -> Tensor:
    """Local response norm of x or relu(x), with exponent quarters / 4; with dy the gradient to x."""
    out, channels = torch.empty_like(x), x.shape[1]
    call(
        "convworks_response",
        x.dtype == torch.bfloat16,
        x.numel() // channels,
        channels,
        *(x, dy, out),
        reach,
        alpha,
        quarters,
        k,
        relu,
        torch.get_num_threads(),
    )
    return out


def channel_sums(x: Tensor, *, run: Run = call) -> Tensor:
    """The sum of each channel of x (N, C, H, W), added in float64: (C,) in float32."""
    sums = torch.empty(x.shape[1], dtype=torch.float32)
    half, rows = x.dtype == torch.bfloat16, x.numel() // x.shape[1]
    run("convworks_channel_sums", half, rows, x.shape[1], x, sums, torch.get_num_threads())
    return sums


Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # kernel, stride, padding


def _window(shape: tuple[int, ...], out: Tensor, window: Window) -> ctypes.Array[ctypes.c_int64]:
    n, channels, height, width = shape
    return integers(n, height, width, channels, *out.shape[2:], *window[0], *window[1], *window[2])


def pool_forward(
    x: Tensor,
    y: Tensor,
    window: Window,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    saved: Tensor | None = None,
    relu: bool,
    run: Run = call,
) -> tuple[Tensor, Tensor | None]:
    """Writes y; returns each maximum's place in its window as uint8 and, behind a batch norm, x there."""
    place = torch.empty_like(y, dtype=torch.uint8)
    chosen = torch.empty_like(y) if saved is not None else None
    mean, invstd = (None, None) if saved is None else (saved[0], saved[1])
    run(
        "convworks_pool_forward",
        x.dtype == torch.bfloat16,
        _window(tuple(x.shape), y, window),
        *(x, weight, bias, mean, invstd, y, place, chosen),
        relu,
        torch.get_num_threads(),
    )
    return place, chosen


def pool_backward(
    dy: Tensor,
    place: Tensor,
    dx: Tensor,
    window: Window,
    *,
    x: Tensor | None = None,
    chosen: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    saved: Tensor | None = None,
    run: Run = call,
) -> Tensor:
    """Writes dx; returns dweight and dbias, (2, C), of a batch norm before, which x, chosen, saved are of."""
    parameters = torch.zeros(2, dx.shape[1], dtype=torch.float32)
    mean, invstd = (None, None) if saved is None else (saved[0], saved[1])
    tensors = (dy, place, x, chosen, weight, bias, mean, invstd, dx, parameters[0], parameters[1])
    run(
        "convworks_pool_backward",
        dx.dtype == torch.bfloat16,
        _window(tuple(dx.shape), dy, window),
        *tensors,
        torch.get_num_threads(),
    )
    return parameters


def winograd_available() -> bool:
    """Whether the kernels are loaded, and this processor has the instructions that Winograd's need."""
    return _STATE.library is not None and bool(_STATE.library.convworks_winograd_available())


def winograd_size(outputs: int, inputs: int) -> int:
    """How many numbers the weights of a convolution become for Winograd's algorithm."""
    assert _STATE.library is not None
    size: int = _STATE.library.convworks_winograd_size(outputs, inputs)
    return size


def amx_available() -> bool:
    """Whether the kernels are loaded, and processor and system let this process use matrix units (AMX)."""
    return _STATE.library is not None and bool(_STATE.library.convworks_amx_available())


@lru_cache(maxsize=4096)  # one takes as long to make as a small kernel to run
def integers(*values: int) -> ctypes.Array[ctypes.c_int64]:
    """Numbers as a kernel takes them: a shape, or strides."""
    return (ctypes.c_int64 * len(values))(*values)
