"""What this machine offers and what would stand in the way: `convworks doctor`. No network is used.

Every finding has a verdict: 'ok', 'note' (good to know; work goes on) or 'problem' (work would fail), and an
advice where there is something to do. The planner decides by measuring; what is listed here about instruction
sets only explains its choices.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convworks.environment import wants_kernels
from convworks.errors import closest
from convworks.ops.native.build import NOT_BUILT, built

Verdict = Literal["ok", "note", "problem"]

GB = 10**9
ROOT = Path("/")
DISK_NOTE, DISK_PROBLEM = 2 * GB, GB // 5  # bytes free
MEMORY_NOTE, MEMORY_PROBLEM = 2 * GB, GB // 2  # bytes available
MALLOCS = ("tcmalloc", "jemalloc", "mimalloc")
REINSTALL = "python -m pip install --force-reinstall convworks"
KNOWN_VARIABLES = ("CONVWORKS_CACHE", "CONVWORKS_DATA", "CONVWORKS_NATIVE", "CONVWORKS_OFFLINE")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
INSTRUCTIONS = {  # as /proc/cpuinfo writes them (x86, then Arm)
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX512-bf16",
    "amx_bf16": "AMX-bf16",
    "asimd": "NEON",
    "bf16": "bf16",
    "sve": "SVE",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    topic: str
    value: str
    verdict: Verdict = "ok"
    advice: str = ""


def examine(*, out: Path, cache: Path, data_root: Path | None) -> list[Finding]:
    """Look at everything, in the order in which people read it; takes a few seconds. Changes nothing.

    A part that cannot be examined is a finding of its own; no exception leaves this function.
    """
    parts: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("Python", lambda: [_python(sys.version_info[:3])]),
        ("platform", lambda: [Finding("platform", platform.platform())]),
        ("packages", _packages),
        ("processor", lambda: [_cpus(), _threads(os.environ), _instructions()]),
        ("memory", lambda: [_memory()]),
        ("disk", lambda: [_disk("run folder", out), _disk("cache", cache)]),
        ("data root", lambda: [_data_root(data_root)]),
        ("accelerator", lambda: [_accelerator()]),
        ("allocator", lambda: [_allocator()]),
        ("fused kernels", lambda: [_kernels(cache)]),
        ("repeatability", lambda: [_repeatability()]),
        ("terminal", lambda: [_terminal()]),
        ("variables", lambda: [_variables(os.environ)]),
    ]
    findings: list[Finding] = []
    for topic, probe in parts:
        try:
            findings += probe()
        except Exception as problem:  # a broken installation is what this verb is for
            what = f"cannot be examined ({type(problem).__name__}: {problem})"
            findings.append(Finding(topic, what, "problem", REINSTALL))
    return findings


def repeatability(*, steps: int = 10, threads: int | None = None) -> Literal["exact", "approximate"]:
    """Whether training repeats to the bit at a fixed number of threads: measured, not looked up.

    A small network with convolution, batch norm, max pooling and dropout takes `steps` steps with momentum
    twice, in float32 and under bfloat16 autocast; 'exact' where all parameters and buffers end in the same
    bytes. `threads`: compute threads, unchanged where None. The global random state and the number of threads
    are left as they were.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        same = all(
            _train(steps, bfloat16=bfloat16) == _train(steps, bfloat16=bfloat16) for bfloat16 in (False, True)
        )
    finally:
        torch.set_num_threads(before)
    return "exact" if same else "approximate"


def _train(steps: int, *, bfloat16: bool) -> bytes:
    """The bytes of all parameters and buffers after `steps` steps on fixed random images (16, 3, 20, 20)."""
    import torch
    from torch import nn

    from convworks.eager import SGD

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3),
            nn.ReLU(),
            nn.Flatten(),  # (16, 32, 8, 8) -> (16, 2048)
            nn.Dropout(0.2),
            nn.Linear(2048, 10),
        )
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stub
        images = torch.randn(16, 3, 20, 20).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(10, (16,))
        optimizer = SGD(network.parameters(), lr=0.05, momentum=0.9)
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return b"".join(value.numpy().tobytes() for value in network.state_dict().values())


def _repeatability() -> Finding:
    import torch

    threads = torch.get_num_threads()
    if repeatability() == "exact":
        return Finding("repeatability", f"exact: training repeats to the bit with {threads} threads")
    advice = "set --threads 1 for runs that must repeat exactly"
    return Finding("repeatability", f"approximate with {threads} threads", "note", advice)


def _python(version: tuple[int, int, int]) -> Finding:
    text = ".".join(map(str, version))
    if version >= (3, 11, 0):
        return Finding("Python", text)
    return Finding("Python", text, "problem", "install Python 3.11 or newer")


def _packages() -> list[Finding]:
    """One finding for each package that the project declares, compared with the declared bounds."""
    findings = [Finding("convworks", importlib.metadata.version("convworks"))]
    for line in importlib.metadata.requires("convworks") or []:
        if "extra ==" not in line:
            findings.append(_package(line))
    return findings


def _package(requirement: str) -> Finding:
    """`requirement` such as 'torch<2.14,>=2.11'."""
    name = re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0]
    install = f"python -m pip install '{requirement}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", "problem", install)
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", requirement):
        if sign == ">=" and _numbers(version) < _numbers(bound):
            return Finding(name, f"{version}, older than {bound}", "problem", install)
        if sign == "<" and _numbers(version) >= _numbers(bound):
            return Finding(name, f"{version}, not tested (from {bound} on)", "note", install)
    return Finding(name, version)


def _numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu -> (2, 13); trailing zeros do not count."""
    numbers = [int(n) for n in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _group_folders(controller: str, root: Path) -> list[Path]:
    """The folders of this process's control group and of those above it, for a controller of v1 or for v2."""
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / controller]
        elif not controllers:
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        else:
            continue
        below = Path(path.strip("/"))
        folders += [top / part for top in tops for part in (below, *below.parents)]
    return folders


def cpu_quota(root: Path = ROOT) -> float | None:
    """How many processors the control groups grant (v2 cpu.max, v1 cfs_quota_us); None: no limit."""
    grants = []
    for folder in _group_folders("cpu", root):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quota = quota or _read(folder / "cpu.cfs_quota_us")
        period = period or _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # neither 'max' nor '-1'
            grants.append(int(quota) / int(period))
    return min(grants, default=None)


def memory_granted(root: Path = ROOT) -> tuple[int, int] | None:
    """(total, available) bytes, no more than the control groups grant; None where the system does not say."""
    lines = dict(re.findall(r"(\w+):\s+(\d+) kB", _read(root / "proc/meminfo")))
    if not {"MemTotal", "MemAvailable"} <= lines.keys():
        return None
    total, available = int(lines["MemTotal"]) * 1024, int(lines["MemAvailable"]) * 1024
    for folder in _group_folders("memory", root):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        if limit.isdigit():  # nearly 2^63 in v1, 'max' in v2 where there is none
            total = min(total, int(limit))
            available = min(available, max(0, int(limit) - int(used or 0)))
    return total, available


def _cpus(root: Path = ROOT) -> Finding:
    count = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else count
    quota = cpu_quota(root)
    if quota is not None and quota < allowed:
        advice = f"--threads {max(1, int(quota))}"
        return Finding("processors", f"{count}, of which a quota grants {quota:g}", "note", advice)
    if allowed < count:
        return Finding("processors", f"{count}, of which {allowed} may be used here", "note")
    return Finding("processors", str(count))


def _threads(environment: Mapping[str, str]) -> Finding:
    import torch

    threads = torch.get_num_threads()
    given = [f"{name}={environment[name]}" for name in THREAD_VARIABLES if environment.get(name)]
    if given:
        return Finding(
            "compute threads", f"{threads} ({', '.join(given)})", "note", f"unset {given[0].split('=')[0]}"
        )
    return Finding("compute threads", str(threads))


def _instructions(root: Path = ROOT) -> Finding:
    import torch

    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
    flags = listed[1].split() if listed else []
    known = [name for flag, name in INSTRUCTIONS.items() if flag in flags]
    found = ", ".join(known) or "unknown"
    return Finding("instruction sets", f"{found} (torch uses {torch.backends.cpu.get_cpu_capability()})")


def _memory(root: Path = ROOT) -> Finding:
    found = memory_granted(root)
    if found is None:
        return Finding("memory", "unknown on this system")
    total, available = found
    text = f"{available / GB:.1f} of {total / GB:.1f} GB available"
    if available < MEMORY_NOTE:
        verdict: Verdict = "problem" if available < MEMORY_PROBLEM else "note"
        return Finding("memory", text, verdict, "close other programs, or train with a smaller --batch")
    return Finding("memory", text)


def _disk(topic: str, path: Path) -> Finding:
    """Free space and whether files can be made, at the nearest folder that exists; leaves no file behind."""
    folder = path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    flag = "--out" if topic == "run folder" else "CONVWORKS_CACHE"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
    except OSError as problem:
        text = f"{path}: cannot be written ({problem.strerror})"
        return Finding(topic, text, "problem", f"give another folder with {flag}")
    free = shutil.disk_usage(folder).free
    text = f"{path}: {free / GB:.1f} GB free"
    if free < DISK_NOTE:
        verdict: Verdict = "problem" if free < DISK_PROBLEM else "note"
        return Finding(topic, text, verdict, f"free some space, or give another folder with {flag}")
    return Finding(topic, text)


def _data_root(data_root: Path | None) -> Finding:
    if data_root is None:
        return Finding("data root", "not set: named data sets come from the cache, or are downloaded")
    if not data_root.is_dir():
        text = f"{data_root}: there is no such folder"
        return Finding("data root", text, "problem", "set CONVWORKS_DATA to the folder with your data sets")
    if not os.access(data_root, os.R_OK | os.X_OK):
        return Finding("data root", f"{data_root}: cannot be read", "problem", f"ls -ld {data_root}")
    return Finding("data root", str(data_root))


def _accelerator() -> Finding:
    import torch

    with warnings.catch_warnings(record=True) as caught:  # such as a driver that is too old
        warnings.simplefilter("always")
        names = [
            f"{properties.name} ({properties.total_memory / GB:.0f} GB)"
            for properties in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ]
    if torch.backends.mps.is_available():
        names.append("Apple GPU (mps)")
    if names:
        return Finding("accelerator", ", ".join(names))
    reasons = "; ".join(str(warning.message).split("\n")[0] for warning in caught)
    return Finding("accelerator", "none: the processor does the work", "note" if reasons else "ok", reasons)


def _allocator(root: Path = ROOT) -> Finding:
    """Which malloc serves large tensors: glibc takes pages back at once, which costs time in training."""
    maps = _read(root / "proc/self/maps")
    loaded = [name for name in MALLOCS if f"lib{name}" in maps]
    if loaded:
        return Finding("allocator", f"{loaded[0]} (preloaded)")
    library, version = platform.libc_ver()
    return Finding("allocator", f"{library or 'of the system'} {version}".strip())


def _kernels(cache: Path) -> Finding:
    """Whether batch norm, ReLU and pooling can be computed in fewer passes over memory."""
    if not wants_kernels():
        return Finding("fused kernels", "no: CONVWORKS_NATIVE is 0")
    found = built(cache / "kernels")
    if found.path is not None:
        return Finding("fused kernels", "yes")
    if found.reason == NOT_BUILT:
        return Finding("fused kernels", "not built yet; convworks plan and longer trainings build them")
    return Finding("fused kernels", f"no: {found.reason}", "note", "a C++ compiler such as g++ makes them")


def _terminal() -> Finding:
    encoding = (getattr(sys.stdout, "encoding", None) or "none").lower()
    kind = "terminal" if sys.stdout is not None and sys.stdout.isatty() else "no terminal"
    names = sys.getfilesystemencoding()
    text = f"{kind}, output {encoding}, file names {names}"
    if encoding.replace("-", "") == "utf8" and names == "utf-8":
        return Finding("terminal", text)
    return Finding("terminal", text, "note", "set PYTHONUTF8=1 to print every class name as it is")


def _variables(environment: Mapping[str, str]) -> Finding:
    seen = sorted(name for name in environment if name.startswith("CONVWORKS_"))
    text = ", ".join(f"{name}={environment[name]}" for name in seen) or "no CONVWORKS_ variable is set"
    unknown = [name for name in seen if name not in KNOWN_VARIABLES]
    if not unknown:
        return Finding("variables", text)
    near = closest(unknown[0], KNOWN_VARIABLES)
    advice = f"nothing reads {unknown[0]}" + (f"; did you mean {near}?" if near else "")
    return Finding("variables", text, "note", advice)
