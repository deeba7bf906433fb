"""The doctor on made-up machines: control groups, processors, disks, packages, terminals."""

from __future__ import annotations

import builtins
import importlib.metadata
import io
import os
import platform
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from convworks.flows import doctor
from convworks.flows.doctor import Finding, cpu_quota, examine, memory_granted, repeatability

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         100000 kB\nMemAvailable:   12000000 kB\n"


def machine(root: Path, **files: str) -> Path:
    """A made-up root folder; in the names '__' stands for '/' and '_dot_' for '.'."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# the whole


@pytest.fixture
def findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Finding]]:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the doctor opened a socket")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", no_network)
        patch.setattr(doctor, "_train", lambda steps, *, bfloat16: b"same")
        yield examine(out=tmp_path / "runs", cache=tmp_path / "a" / "cache", data_root=tmp_path)


def test_everything_is_examined_and_nothing_is_left(findings: list[Finding], tmp_path: Path) -> None:
    topics = [finding.topic for finding in findings]
    for topic in (
        "Python", "platform", "convworks", "torch", "numpy", "pillow", "simplejpeg", "processors",
        "compute threads", "instruction sets", "memory", "run folder", "cache", "data root", "accelerator",
        "allocator", "repeatability", "terminal", "variables",
    ):  # fmt: skip
        assert topics.count(topic) == 1, topic
    assert all(finding.value and finding.verdict in ("ok", "note", "problem") for finding in findings)
    assert list(tmp_path.iterdir()) == []


def test_no_declared_package_is_forgotten(findings: list[Finding]) -> None:
    declared = importlib.metadata.requires("convworks") or []
    topics = {finding.topic for finding in findings}
    for line in declared:
        name = line.split(">")[0].split("<")[0].split("=")[0].strip()
        assert (name in topics) == ("extra" not in line), line


def test_broken_part_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_torch(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise OSError("libgomp.so.1: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    found = {f.topic: f for f in examine(out=tmp_path, cache=tmp_path, data_root=None)}
    assert found["repeatability"].verdict == "problem"
    assert "OSError: libgomp.so.1" in found["repeatability"].value
    assert "pip install" in found["repeatability"].advice
    assert found["memory"].topic == "memory"  # the other parts are examined all the same


# repeatability


def test_one_thread_repeats_to_the_bit() -> None:
    assert repeatability(threads=1) == "exact"


def test_bytes_are_those_of_a_trained_network() -> None:
    once = doctor._train(2, bfloat16=False)
    floats = 3 * 16 * 9 + 16 + 4 * 16 + 16 * 32 * 9 + 32 + 2048 * 10 + 10  # with batch norm's statistics
    assert len(once) == 4 * floats + 8  # and its counter of batches, int64
    first = slice(4 * 3 * 16 * 9)  # the weights of the first layer
    assert once[first] != doctor._train(3, bfloat16=False)[first]
    assert once[first] != doctor._train(2, bfloat16=True)[first]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # the state of the caller decides nothing
        assert once == doctor._train(2, bfloat16=False)


@pytest.mark.parametrize("odd", [False, True], ids=["float32", "bfloat16"])
def test_one_differing_bit_is_approximate(monkeypatch: pytest.MonkeyPatch, odd: bool) -> None:
    calls: list[bool] = []

    def train(steps: int, *, bfloat16: bool) -> bytes:
        calls.append(bfloat16)
        return bytes([calls.count(odd) if bfloat16 == odd else 0])

    monkeypatch.setattr(doctor, "_train", train)
    assert repeatability() == "approximate"
    finding = doctor._repeatability()
    assert finding.verdict == "note"
    assert "--threads 1" in finding.advice


def test_random_state_and_threads_are_left_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    seen: list[int] = []
    real = doctor._train

    def train(steps: int, *, bfloat16: bool) -> bytes:
        seen.append(torch.get_num_threads())
        return real(steps, bfloat16=bfloat16)

    monkeypatch.setattr(doctor, "_train", train)
    repeatability(steps=1, threads=threads + 1)
    assert seen == [threads + 1] * 4
    assert torch.get_num_threads() == threads
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)

    def broken(steps: int, *, bfloat16: bool) -> bytes:
        raise RuntimeError

    monkeypatch.setattr(doctor, "_train", broken)
    with pytest.raises(RuntimeError):
        repeatability(threads=threads + 1)
    assert torch.get_num_threads() == threads


# packages


def test_python_version() -> None:
    assert doctor._python((3, 11, 0)) == Finding("Python", "3.11.0")
    assert doctor._python((3, 10, 9)).verdict == "problem"


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("2.11", "ok"),
        ("2.11.0", "ok"),
        ("2.13.0+cpu", "ok"),
        ("2.10.9", "problem"),
        ("1.99", "problem"),
        ("2.14", "note"),
        ("2.14.0", "note"),
        ("10.0", "note"),
    ],
)
@pytest.mark.parametrize("requirement", ["torch<2.14,>=2.11", "torch >=2.11, <2.14"])
def test_package_bounds(
    monkeypatch: pytest.MonkeyPatch, requirement: str, version: str, verdict: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"torch": version}.__getitem__)
    finding = doctor._package(requirement)
    assert (finding.topic, finding.verdict) == ("torch", verdict)
    assert version in finding.value
    assert finding.advice == ("" if verdict == "ok" else f"python -m pip install '{requirement}'")


def test_version_numbers() -> None:
    assert doctor._numbers("2.13.0+cu126") == (2, 13)
    assert doctor._numbers("13.0.1") == (13, 0, 1)


def test_package_that_is_missing() -> None:
    finding = doctor._package("no-such-package-anywhere>=1")
    assert finding == Finding(
        "no-such-package-anywhere",
        "not installed",
        "problem",
        "python -m pip install 'no-such-package-anywhere>=1'",
    )


# processors and memory, with control groups


def v2(root: Path, **files: str) -> Path:
    return machine(root, proc__self__cgroup="0::/user/job\n", proc__meminfo=MEMINFO, **files)


def v1(root: Path, **files: str) -> Path:
    lines = "9:name=systemd:/x\n4:cpu,cpuacct:/job\n3:memory:/job\n"
    return machine(root, proc__self__cgroup=lines, proc__meminfo=MEMINFO, **files)


def test_quota_v2_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    root = v2(
        tmp_path,
        sys__fs__cgroup__user__job__cpu_dot_max="max 100000\n",
        sys__fs__cgroup__user__cpu_dot_max="150000 100000\n",
        sys__fs__cgroup__cpu_dot_max="800000 100000\n",
    )
    assert cpu_quota(root) == 1.5


def test_quota_v2_of_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    assert cpu_quota(v2(tmp_path, sys__fs__cgroup__cpu_dot_max="50000 100000")) == 0.5


def test_quota_v2_beside_v1(tmp_path: Path) -> None:
    assert cpu_quota(v2(tmp_path, sys__fs__cgroup__unified__user__cpu_dot_max="200000 100000")) == 2.0


def test_quota_v1(tmp_path: Path) -> None:
    files = {
        "sys__fs__cgroup__cpu__job__cpu_dot_cfs_quota_us": "300000\n",
        "sys__fs__cgroup__cpu__job__cpu_dot_cfs_period_us": "100000\n",
        "sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us": "-1\n",
        "sys__fs__cgroup__cpu__cpu_dot_cfs_period_us": "100000\n",
    }
    assert cpu_quota(v1(tmp_path, **files)) == 3.0


def test_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(v2(tmp_path, sys__fs__cgroup__cpu_dot_max="max 100000")) is None


def test_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert doctor._cpus(tmp_path) == Finding("processors", "8")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert doctor._cpus(tmp_path) == Finding("processors", "8, of which 2 may be used here", "note")
    root = v2(tmp_path, sys__fs__cgroup__cpu_dot_max="150000 100000")
    assert doctor._cpus(root) == Finding(
        "processors", "8, of which a quota grants 1.5", "note", "--threads 1"
    )


def test_memory_without_a_limit(tmp_path: Path) -> None:
    assert memory_granted(tmp_path) is None
    assert doctor._memory(tmp_path).value == "unknown on this system"
    total, available = 16_000_000 * 1024, 12_000_000 * 1024
    assert memory_granted(v2(tmp_path, sys__fs__cgroup__memory_dot_max="max")) == (total, available)
    assert doctor._memory(tmp_path) == Finding("memory", "12.3 of 16.4 GB available")


def test_memory_v1_without_a_limit(tmp_path: Path) -> None:
    files = {"sys__fs__cgroup__memory__job__memory_dot_limit_in_bytes": "9223372036854771712"}
    assert memory_granted(v1(tmp_path, **files)) == (16_000_000 * 1024, 12_000_000 * 1024)


def test_memory_v2_limit_less_what_is_used(tmp_path: Path) -> None:
    root = v2(
        tmp_path,
        sys__fs__cgroup__user__job__memory_dot_max="4000000000",
        sys__fs__cgroup__user__job__memory_dot_current="1500000000",
        sys__fs__cgroup__user__memory_dot_max="8000000000",
        sys__fs__cgroup__user__memory_dot_current="7000000000",  # another job of the same user
    )
    assert memory_granted(root) == (4_000_000_000, 1_000_000_000)
    assert doctor._memory(root).verdict == "note"


def test_memory_v1_limit_that_is_used_up(tmp_path: Path) -> None:
    files = {
        "sys__fs__cgroup__memory__job__memory_dot_limit_in_bytes": "1000",
        "sys__fs__cgroup__memory__job__memory_dot_usage_in_bytes": "2000",
    }
    assert memory_granted(v1(tmp_path, **files)) == (1000, 0)
    assert doctor._memory(tmp_path).verdict == "problem"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (
            "processor : 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\nflags : x\n",
            "AVX2, AVX-512, AVX512-bf16 (torch",
        ),
        ("flags : avx2 amx_bf16\n", "AVX2, AMX-bf16 (torch"),
        ("Features\t: fp asimd bf16\n", "NEON, bf16 (torch"),
        ("", "unknown (torch"),
    ],
)
def test_instruction_sets(tmp_path: Path, cpuinfo: str, expected: str) -> None:
    assert doctor._instructions(machine(tmp_path, proc__cpuinfo=cpuinfo)).value.startswith(expected)


def test_threads_that_a_variable_decides() -> None:
    assert doctor._threads({}).verdict == "ok"
    finding = doctor._threads({"OMP_NUM_THREADS": "1"})
    assert (finding.verdict, finding.advice) == ("note", "unset OMP_NUM_THREADS")


# disks and folders


def test_disk_of_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    finding = doctor._disk("cache", tmp_path / "a" / "b")
    assert finding.verdict == "ok"
    assert finding.value.startswith(f"{tmp_path / 'a' / 'b'}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["file", "file/runs"])
def test_folder_that_cannot_be_written(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    finding = doctor._disk("run folder", tmp_path / below)
    assert finding.verdict == "problem"
    assert "cannot be written" in finding.value
    assert finding.advice == "give another folder with --out"


@pytest.mark.parametrize(("free", "verdict"), [(5 * 10**9, "ok"), (10**9, "note"), (10**8, "problem")])
def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    finding = doctor._disk("cache", tmp_path)
    assert finding.verdict == verdict
    assert ("CONVWORKS_CACHE" in finding.advice) == (verdict != "ok")


def test_data_root(tmp_path: Path) -> None:
    assert doctor._data_root(None).verdict == "ok"
    assert doctor._data_root(tmp_path) == Finding("data root", str(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    for wrong in (tmp_path / "none", tmp_path / "file"):
        finding = doctor._data_root(wrong)
        assert (finding.value, finding.verdict) == (f"{wrong}: there is no such folder", "problem")


# accelerators, allocator, terminal, variables


def test_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    card = SimpleNamespace(name="Card X", total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert doctor._accelerator() == Finding("accelerator", "Card X (80 GB), Card X (80 GB)")


def test_no_accelerator_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert doctor._accelerator() == Finding("accelerator", "none: the processor does the work")

    def old_driver() -> int:
        warnings.warn("the driver is too old\nmore", stacklevel=1)
        return 0

    monkeypatch.setattr(torch.cuda, "device_count", old_driver)
    finding = doctor._accelerator()
    assert (finding.verdict, finding.advice) == ("note", "the driver is too old")


def test_allocator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert doctor._allocator(tmp_path).value == "glibc 2.36"
    line = "7f00 r-xp 0 08:01 5 /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4\n"
    assert doctor._allocator(machine(tmp_path, proc__self__maps=line)).value == "tcmalloc (preloaded)"


@pytest.mark.parametrize(("encoding", "verdict"), [("utf-8", "ok"), ("UTF8", "ok"), ("ascii", "note")])
def test_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str, verdict: str) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "utf-8")
    finding = doctor._terminal()
    assert finding.verdict == verdict
    assert finding.value.startswith(f"no terminal, output {encoding.lower()}")


def test_no_output_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert doctor._terminal().verdict == "note"


def test_variables() -> None:
    assert doctor._variables({"HOME": "/h"}) == Finding("variables", "no CONVWORKS_ variable is set")
    good = {"CONVWORKS_OFFLINE": "1", "CONVWORKS_DATA": "/d"}
    assert doctor._variables(good) == Finding("variables", "CONVWORKS_DATA=/d, CONVWORKS_OFFLINE=1")
    typing_mistake = doctor._variables({"CONVWORKS_OFLINE": "1"})
    assert typing_mistake.verdict == "note"
    assert typing_mistake.advice == "nothing reads CONVWORKS_OFLINE; did you mean CONVWORKS_OFFLINE?"
