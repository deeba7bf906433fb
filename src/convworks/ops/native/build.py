"""Compile this folder's C++ once for a machine, into the cache folder, with the compiler that is there.

Nothing here raises for a compiler that is missing, broken or too slow: the answer says why there is no
library, and torch's own operators do the work. The file's name holds what it was made from (source, compiler,
flags, processor) and the hash of its own bytes, so a damaged or foreign file is never loaded, and processes
that build at the same time end with the same file. Flags: no fast-math, and no contraction into fused
multiply-add, because the backward pass recomputes signs that the forward pass decided.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from convworks.machine import processor_name

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-w")
SECONDS = 120.0  # for compiling; it takes 4 to 13
NOT_BUILT = "not built yet"
_PREFIX = "kernels-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A library that can be loaded, or why there is none."""

    path: Path | None
    reason: str  # '' where there is a library


SOURCES = ("kernels.cpp", "winograd.cpp", "amx_convolution.cpp", "few_channels.cpp", "amx_linear.cpp")
HEADERS = (
    "threads.h",
    "vectors.h",
    "max_pool.h",
    "half_pool.h",
    "picks.h",
    "half_vectors.h",
    "amx_tiles.h",
    "winograd_maps.h",
    "winograd_products.h",
    "winograd_transforms.h",
)


def sources() -> dict[str, bytes]:
    """The C++ texts, by the names of their files."""
    folder = files("convworks.ops.native")
    return {name: folder.joinpath(name).read_bytes() for name in (*SOURCES, *HEADERS)}


def find_compiler() -> str | None:
    """The system's C++ compiler; only Unix systems are supported."""
    if os.name != "posix":
        return None
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def compiler_version(compiler: str) -> str:
    """What `COMPILER --version` answers first; '' where it does not work."""
    try:
        answer = subprocess.run(
            [compiler, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = answer.stdout.decode(errors="replace").partition("\n")[0].strip()
    return first if answer.returncode == 0 else ""


def built(folder: Path) -> Built:
    """The library of this machine where `build` has made it already; nothing is compiled."""
    return _look(folder)[0]


def build(folder: Path, *, seconds: float = SECONDS) -> Built:
    """The library of this machine in `folder`, compiled now where it is not there yet."""
    known, compiler, key = _look(folder)
    if known.path is not None or compiler is None:
        return known
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as work:
            return _compile(Path(work), compiler, folder, key, seconds)
    except OSError as problem:
        return Built(path=None, reason=f"{folder} cannot be written ({problem.strerror or problem})")


def _look(folder: Path) -> tuple[Built, str | None, str]:
    """(what is there, the compiler, the key of what it would make)."""
    compiler = find_compiler()
    version = compiler_version(compiler) if compiler else ""
    if compiler is None or not version:
        why = "no compiler" if compiler is None else f"{compiler} does not work"
        return Built(path=None, reason=why), None, ""
    key = _key(version)
    for path in sorted(folder.glob(f"{_PREFIX}{key}-*.so")):
        if _trusted(path):
            return Built(path=path, reason=""), compiler, key
        with contextlib.suppress(OSError):
            path.unlink()
    return Built(path=None, reason=NOT_BUILT), compiler, key


def _key(version: str) -> str:
    parts = [sources(), version, FLAGS, processor_name(), _instructions(), platform.machine()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def _instructions() -> str:
    """The instruction sets of this processor: -march=native may use each of them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return " ".join(sorted(found[1].split())) if found else ""


def _trusted(path: Path) -> bool:
    """Whole, and written by this user: what is loaded runs with all of their rights."""
    try:
        status = path.lstat()
        mine = status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH
        regular = stat.S_ISREG(status.st_mode)
        return mine and regular and path.stem.endswith(f"-{_digest(path)}")
    except OSError:
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:20]


def _compile(work: Path, compiler: str, folder: Path, key: str, seconds: float) -> Built:
    """Each source by a compiler of its own, at the same time; then one library of them."""
    for name, text in sources().items():
        (work / name).write_bytes(text)
    made, end = work / "kernels.so", time.monotonic() + seconds
    objects = [f"{Path(name).stem}.o" for name in SOURCES]
    compiles = [[compiler, *FLAGS, "-c", name, "-o", out] for name, out in zip(SOURCES, objects, strict=True)]
    link = [compiler, *FLAGS, "-shared", *objects, "-o", made.name]
    try:
        said = _run(compiles, work, end) or _run([link], work, end)
    except subprocess.TimeoutExpired:
        return Built(path=None, reason=f"{compiler} took more than {seconds:g} s")
    if said or not made.is_file():
        return Built(path=None, reason=f"{compiler} failed: {said or 'no output'}")
    made.chmod(0o700)
    target = folder / f"{_PREFIX}{key}-{_digest(made)}.so"
    os.replace(made, target)
    return Built(path=target, reason="")


def _run(commands: Sequence[Sequence[str]], work: Path, end: float) -> str:
    """All commands at the same time in `work`; '' or what the first that failed said.

    Whatever ends the wait, no process of theirs is left. Raises subprocess.TimeoutExpired at `end`.
    """
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            process = subprocess.Popen(
                command,
                cwd=work,
                env={**keep, "TMPDIR": str(work.absolute()), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that its children can be ended with it
            )
            running.append(process)
        for process in running:
            _, errors = process.communicate(timeout=max(end - time.monotonic(), 0.0))
            if process.returncode:
                lines = errors.decode(errors="replace").splitlines()
                said = next((line for line in lines if "error" in line), lines[0] if lines else "no output")
                return said.strip()[:160]
        return ""
    finally:
        for process in running:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
