"""The kernels for a test, built once for a run of the tests; without a compiler it is skipped, CI fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from convworks.ops.native import library
from convworks.ops.native.build import FLAGS, build, find_compiler


@cache
def _own() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="convworks-kernels-")


def _folder() -> Path:
    """That of all processes of this run of the tests (`tests/conftest.py`), or this process's own."""
    return Path(os.environ.get("KERNELS_OF_THE_TESTS") or _own().name)


def built() -> Path:
    """The folder of the library."""
    if find_compiler() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have a C++ compiler for the tests of the fused kernels")
        pytest.skip("there is no C++ compiler")
    import fcntl  # where there is a compiler for us there is this

    folder = _folder()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process compiles, and the others wait for it
        answer = build(folder)
    assert answer.path is not None, answer.reason
    return folder


@contextmanager
def loaded() -> Iterator[None]:
    """Kernels for a while; afterwards none, as before."""
    assert library.open_kernels(built(), compile_=True) == ""
    try:
        yield
    finally:
        library.close_kernels()


@contextmanager
def with_winograd() -> Iterator[None]:
    """The same; skipped where the processor lacks the instructions that Winograd's algorithm needs."""
    with loaded():
        if not library.winograd_available():
            pytest.skip("this processor has no bf16 arithmetic (AVX512-BF16)")
        yield


@contextmanager
def with_amx() -> Iterator[None]:
    """The same; skipped where the processor lacks matrix units or the system keeps them from a process."""
    with loaded():
        if not library.amx_available():
            pytest.skip("this processor has no matrix units (AMX)")
        yield


@contextmanager
def without_matrix_units(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Winograd's kernels as a processor without AMX has them; skipped where that is nothing else."""
    with with_amx():
        pass
    monkeypatch.setattr("convworks.ops.native.build.FLAGS", (*FLAGS, "-mno-amx-tile"))
    assert library.open_kernels(folder, compile_=True) == ""
    try:
        assert library.winograd_available()
        assert not library.amx_available()
        yield
    finally:
        library.close_kernels()
