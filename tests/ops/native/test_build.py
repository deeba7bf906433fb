"""Compiling on the user's machine: whatever goes wrong, there is a reason in words."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convworks.ops.native import build as module
from convworks.ops.native import library
from convworks.ops.native.build import NOT_BUILT, build, built
from tests.ops.native import kernels
from tests.ops.native.kernels import loaded

FAKE = 'if [ "$1" = --version ]; then echo fake 1; exit 0; fi\n'


def compiler(folder: Path, text: str) -> Path:
    """A script that stands in for the compiler, alone on the PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build(tmp_path / "cache").reason == "no compiler"
    assert not (tmp_path / "cache").exists()
    library.close_kernels()
    assert library.open_kernels(tmp_path / "cache", compile_=True) == "no compiler"
    assert not library.available()


def test_a_compiler_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(tmp_path / "bin", "exit 3")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert build(tmp_path / "cache").reason.endswith("does not work")


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = FAKE + 'echo "kernels.cpp:1: error: no header" >&2\nexit 1'
    compiler(tmp_path / "bin", text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    answer = build(tmp_path / "cache")
    assert answer.path is None
    assert "failed: kernels.cpp:1: error: no header" in answer.reason
    assert list((tmp_path / "cache").iterdir()) == []  # nothing half made is left


def test_a_compiler_that_hangs_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FAKE + 'sleep 60 & echo $! >> "$0.children"; wait'
    script = compiler(tmp_path / "bin", text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    start = time.perf_counter()
    assert "took more than 0.5 s" in build(tmp_path / "cache", seconds=0.5).reason
    assert time.perf_counter() - start < 20
    children = script.with_name("c++.children").read_text().split()
    assert len(children) == len(module.SOURCES)  # each source is compiled by a process of its own
    for _ in range(100):
        if not any(_alive(child) for child in children):
            break
        time.sleep(0.05)
    else:
        pytest.fail("a compiler's child is still there")


def _alive(process: str) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False


def test_where_one_source_fails_the_other_compiler_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'case "$*" in *kernels.cpp*) echo "error: first" >&2; exit 1;; esac\nsleep 60'
    compiler(tmp_path / "bin", FAKE + text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    start = time.perf_counter()
    assert "failed: error: first" in build(tmp_path / "cache").reason
    assert time.perf_counter() - start < 20


def test_a_linker_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'case "$*" in *-shared*) echo "ld: error: no room" >&2; exit 1;; esac'
    compiler(tmp_path / "bin", FAKE + text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert "failed: ld: error: no room" in build(tmp_path / "cache").reason


def test_a_library_that_is_damaged_or_foreign_is_made_again(tmp_path: Path) -> None:
    good = built(kernels.built()).path
    assert good is not None
    copy = tmp_path / good.name
    copy.write_bytes(good.read_bytes())
    copy.chmod(0o700)
    assert built(tmp_path).path == copy
    copy.chmod(0o777)  # others may write to it
    assert built(tmp_path).reason == NOT_BUILT
    assert not copy.exists()
    copy.write_bytes(good.read_bytes()[:-1000])
    assert built(tmp_path).reason == NOT_BUILT
    copy.symlink_to(good)
    assert built(tmp_path).reason == NOT_BUILT


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.built()
    (tmp_path / "file").write_text("")
    assert "cannot be written" in build(tmp_path / "file" / "cache").reason


def test_another_source_flag_or_compiler_gives_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    one = module._key("gcc 12")
    assert one == module._key("gcc 12")
    assert one != module._key("gcc 13")
    monkeypatch.setattr(module, "FLAGS", (*module.FLAGS, "-O2"))
    assert one != module._key("gcc 12")
    monkeypatch.undo()
    monkeypatch.setattr(module, "sources", lambda: {"kernels.cpp": b"// other"})
    assert one != module._key("gcc 12")


BOTH = """
import sys
from pathlib import Path
from convworks.ops.native import build as module
# Without optimisation, which takes a quarter of the time: what is proved is the file, not what it computes.
module.FLAGS = tuple("-O0" if flag == "-O3" else flag for flag in module.FLAGS)
answer = module.build(Path(sys.argv[1]))
assert answer.path is not None, answer.reason
import ctypes
assert ctypes.CDLL(str(answer.path)).convworks_interface() > 0
print(answer.path.name)
"""


@pytest.mark.slow
def test_two_processes_at_once_end_with_the_same_file(tmp_path: Path) -> None:
    kernels.built()
    assert "-O3" in module.FLAGS
    command = [sys.executable, "-c", BOTH, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = {process.communicate(timeout=120)[0].strip() for process in both}
    assert all(process.returncode == 0 for process in both)
    assert len(names) == 1
    (file,) = tmp_path.iterdir()
    assert {file.name} == names
    assert stat.S_IMODE(file.stat().st_mode) == 0o700


def test_the_threads_are_those_of_torch() -> None:
    with loaded():
        team = library._team()
    if sys.platform == "linux":
        libraries = {
            line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "gomp" in line
        }
        for path in (p for p in libraries if "torch" in p):
            low = min(
                int(line.split("-")[0], 16)
                for line in Path("/proc/self/maps").read_text().splitlines()
                if line.endswith(path)
            )
            for function in team:
                assert function is not None
                assert 0 < function - low < os.path.getsize(path) + 2**20


@pytest.mark.parametrize("architecture", ["x86-64-v2", "x86-64-v3"])
def test_narrower_vectors_give_the_same_numbers(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tests.ops import test_fused_batch_norm as tests

    with loaded():
        pass
    if os.uname().machine != "x86_64":
        pytest.skip("these are names of x86")
    flags = tuple(f"-march={architecture}" if f.startswith("-march") else f for f in module.FLAGS)
    monkeypatch.setattr(module, "FLAGS", flags)
    assert library.open_kernels(tmp_path, compile_=True) == ""
    try:
        for dtype in (torch.float32, torch.bfloat16):
            for shape in tests.SHAPES:
                for activation, residual in (("relu", True), ("relu", False), ("gelu", False)):
                    tests.test_forward_backward_and_running_statistics(
                        shape, activation, residual, dtype, "kernels"
                    )
            for window in tests.WINDOWS:
                tests.test_pooling_with_and_without_a_relu(19, window, dtype)
            tests.test_norm_relu_and_pooling_together(21, dtype, "kernels")
            tests.test_gelu_and_its_derivative_over_the_whole_range(4096, dtype, "kernels")
    finally:
        library.close_kernels()
