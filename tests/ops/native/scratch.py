"""What the kernels compute, as hashes: run in a process whose fresh memory holds what the environment says.

LD_PRELOAD=fresh.so FRESH=255 python -m tests.ops.native.scratch KERNELS
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from convworks.ops import amx_convolution
from convworks.ops.native import library
from tests.ops import (
    test_amx_convolution,
    test_amx_linear,
    test_fast_winograd,
    test_few_channels,
    test_winograd_pool,
)

WINOGRAD = [
    (2, 24, 40, (12, 13), 1),
    (3, 5, 17, (9, 11), 0),
    (1, 70, 33, (4, 5), 2),
    (2, 300, 130, (5, 6), 1),
]


def winograd() -> Iterator[tuple[str, Mapping[str, bytes]]]:
    for *shape, padding in WINOGRAD:
        given = test_fast_winograd.sample(*shape, padding)  # type: ignore[arg-type]
        plain = test_fast_winograd.computed(*given, padding)
        yield f"winograd {shape}", test_fast_winograd.bits(plain)
        pooled = given[3][:, :, : given[3].shape[2] // 2, : given[3].shape[3] // 2]
        found = test_winograd_pool.trained(*given[:3], pooled, padding)
        yield f"winograd and pooling {shape}", test_fast_winograd.bits(found)


def amx() -> Iterator[tuple[str, Mapping[str, bytes]]]:
    cases = [*test_amx_convolution.SMALL, *test_amx_convolution.LARGE]
    for case in cases:
        yield f"amx {case}", test_amx_convolution.bits(test_amx_convolution.sample(case), case)
    for linear in (*test_amx_linear.SMALL, *test_amx_linear.LARGE):
        found = test_amx_linear.computed(test_amx_linear.sample(linear))
        yield f"linear {linear}", {name: value.float().numpy().tobytes() for name, value in found.items()}
    amx_convolution._one_product = lambda weight: True  # type: ignore[assignment]
    amx_convolution._few_channels = lambda weight, stride: True  # type: ignore[assignment]
    for case in (*test_few_channels.SMALL, *test_few_channels.CASES):
        yield f"few {case}", test_amx_convolution.bits(test_amx_convolution.sample(case), case)


def fresh_byte() -> int:
    """What memory of the system holds before anything was written."""
    take = ctypes.CDLL(None).aligned_alloc
    take.restype, take.argtypes = ctypes.POINTER(ctypes.c_ubyte), [ctypes.c_size_t, ctypes.c_size_t]
    return int(take(64, 4096)[4095])


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(2)
    assert library.open_kernels(folder, compile_=False) == ""
    made = [
        *(winograd() if library.winograd_available() else ()),
        *(amx() if library.amx_available() else ()),
    ]
    hashes = {
        f"{case}, {name}": hashlib.sha256(value).hexdigest()[:16]
        for case, each in made
        for name, value in each.items()
    }
    print(json.dumps({"byte": fresh_byte(), "hashes": hashes}))


if __name__ == "__main__":
    main()
