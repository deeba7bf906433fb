"""PyTorch's own files (.pt, .pth): read in a process of its own, and only when the user trusts the file.

Such a file is a pickle, which can run code when it is read. Here a child process reads it with torch's
restricted reader under limits of size, memory and time, and hands over safetensors; convworks itself never
unpickles. The reader has had faults (CVE-2025-32434, CVE-2026-24747, both mended in the versions of torch
that convworks accepts), so a file from a stranger is still better left alone.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from convworks.errors import ConvworksError
from convworks.training.checkpoint import read_tensors
from convworks.weights.files import check_finite

SIZE_CAP = 4 * 2**30  # bytes of a file, and of its tensors; VGG-19 has 0.6 * 10^9
TIME_LIMIT = 300  # seconds
READER = Path(__file__).with_name("pth_reader.py")
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "HOME")


def read_pth(
    path: Path, *, trusted: bool, size_cap: int = SIZE_CAP, time_limit: int = TIME_LIMIT
) -> dict[str, Tensor]:
    """The tensors of a PyTorch file by name.

    Raises U196 where `trusted` is false, A411 (no such file), A418 (it would run code, or holds something
    else than tensors), A419 (larger or slower than the limits), A415 (numbers that are not finite). It never
    falls back to another way of reading.
    """
    _check_file(path, size_cap)
    if not trusted:
        raise ConvworksError(
            "U196",
            f"{path.name} is a PyTorch pickle file, which is read only when you say that you trust it",
            where=str(path),
            why="such files can run code; a process of its own reads it and accepts nothing but tensors",
            try_=f"convworks import {path} ... --trust-this-file",
        )
    with tempfile.TemporaryDirectory(prefix="convworks-import-") as folder:
        target = Path(folder) / "weights.safetensors"
        answer = _ask_child(path, target, size_cap, time_limit)
        _check_answer(answer, path, size_cap)
        tensors = {name: tensor.clone() for name, tensor in read_tensors(target).items()}
    check_finite(tensors, path)
    return tensors


def _check_file(path: Path, size_cap: int) -> None:
    if not path.is_file() or not stat.S_ISREG(path.stat().st_mode):
        raise ConvworksError("A411", f"there is no file '{path}'", try_=f"ls {path.parent}")
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(member.file_size for member in archive.infolist()))
    except (zipfile.BadZipFile, OSError, ValueError):
        pass  # a file of torch before 1.6, or a damaged one: the reader tells them apart
    if size > size_cap:
        raise _too_large(path, f"it has {size:,} bytes")


def _too_large(path: Path, reason: str) -> ConvworksError:
    return ConvworksError(
        "A419",
        f"{path.name} is refused: {reason}",
        where=str(path),
        why="a file can be made to exhaust the machine",
        try_="weights as .safetensors, which have no such limit",
    )


def _ask_child(path: Path, target: Path, size_cap: int, time_limit: int) -> Mapping[str, Any]:
    """Run the reader without this process's settings; whatever it prints, its last line is the answer."""
    command = [sys.executable, "-P", str(READER), str(path.absolute()), str(target)]
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    try:
        ran = subprocess.run(
            [*command, str(size_cap), str(time_limit)],
            env={**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            cwd=target.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=time_limit,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise _too_large(path, f"reading it took more than {time_limit} s") from problem
    try:
        answer = json.loads(ran.stdout.decode("utf-8", "replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        answer = {}
    if isinstance(answer, dict) and answer.keys() & {"tensors", "refused"}:
        return answer
    return {"refused": "content", "reason": f"the process that read it ended with status {ran.returncode}"}


def _check_answer(answer: Mapping[str, Any], path: Path, size_cap: int) -> None:
    if "refused" not in answer:
        return
    reason = str(answer.get("reason", ""))
    if answer["refused"] == "size":
        raise _too_large(path, f"{reason} (limit {size_cap:,} bytes)")
    runs = answer["refused"] == "code"
    raise ConvworksError(
        "A418",
        f"{path.name} is refused: {'it asks for more than tensors, namely ' if runs else ''}{reason}",
        where=str(path),
        why="a file that names functions or classes can run code; nothing of it was used"
        if runs
        else "weights are a table of names and tensors, also below 'state_dict' or 'model'",
        try_="weights as .safetensors, or a file that torch.save(network.state_dict(), ...) wrote",
    )
