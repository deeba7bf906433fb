"""Runs as a program of its own, never inside convworks: one PyTorch file in, one safetensors file out.

    python -P pth_reader.py SOURCE TARGET BYTES SECONDS

The only place of the project that reads a pickle. torch's restricted reader (weights_only=True) makes tensors
and plain containers and refuses everything else; there is no other way to read. The process may take BYTES of
memory beside what torch itself takes, and SECONDS of computing. What it accepts is a table of names and dense
tensors on the CPU, also below the key "state_dict" or "model", as training programs write them.

The answer is one line of JSON on stdout: {"tensors": n, "bytes": m}, or {"refused": kind, "reason": text}
with kind "code", "content" or "size".
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

WRAPPERS = ("state_dict", "model")
PARALLEL = "module."  # begins every name in files of torch's DataParallel
MOST_TENSORS = 100_000
_GLOBAL = re.compile(r"GLOBAL (\S+)")  # in torch's message: the function or class that the file asks for


class RefusedError(Exception):
    """Why a file is not read. `kind` is one of code, content, size."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def main(source: str, target: str, limit: int, seconds: int) -> dict[str, Any]:
    """Read, check and write; returns the answer."""
    try:
        _limit(limit, seconds)
        tensors = named_tensors(_read(source), limit=limit)
        safetensors.torch.save_file(tensors, target)
    except RefusedError as problem:
        return {"refused": problem.kind, "reason": str(problem)[:2000]}
    except MemoryError:
        return {"refused": "size", "reason": "it needs more memory than the limit"}
    return {"tensors": len(tensors), "bytes": sum(t.numel() * t.element_size() for t in tensors.values())}


def _read(source: str) -> Any:
    """Exemption: the one torch.load of the project. weights_only is never anything but True."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as problem:
        text = str(problem)
        if "memory" in text.lower():
            raise RefusedError("size", "it needs more memory than the limit") from problem
        named = _GLOBAL.search(text)
        if named is not None or "TorchScript" in text:
            raise RefusedError("code", named[1] if named else "a TorchScript program") from problem
        raise RefusedError("content", _plain(text)) from problem


def _plain(text: str) -> str:
    """The first sentence of torch's reason, without its advice to read the file in the unsafe way."""
    lines = text.rpartition("WeightsUnpickler error: ")[2].strip().splitlines() or [""]
    return lines[0].partition(". ")[0][:200] or "it is damaged"


def named_tensors(found: Any, *, limit: int) -> dict[str, torch.Tensor]:
    """The table of tensors in what was read. Raises RefusedError."""
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found:
        raise RefusedError("content", f"it holds {type(found).__name__}, not a table of tensors")
    if len(found) > MOST_TENSORS:
        raise RefusedError("size", f"it holds {len(found):,} entries")
    taken, total = {}, 0
    for name, value in found.items():
        if not isinstance(name, str):
            raise RefusedError("content", f"a name in it is a {type(name).__name__}")
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise RefusedError("content", f"'{name[:100]}' is a {type(value).__name__}, not a tensor")
        if (
            value.layout != torch.strided
            or value.is_quantized
            or value.device.type != "cpu"
            or value.is_complex()
        ):
            raise RefusedError("content", f"'{name[:100]}' is not a dense tensor of numbers")
        total += value.numel() * value.element_size()
        if total > limit:  # a few bytes can be shown as a tensor of any size
            raise RefusedError("size", f"its tensors take more than {limit:,} bytes")
        taken[name] = value
    parallel = all(name.startswith(PARALLEL) for name in taken)
    return {
        name.removeprefix(PARALLEL) if parallel else name: tensor.detach().clone().contiguous()
        for name, tensor in taken.items()
    }


def _limit(extra: int, seconds: int) -> None:
    """Bound the memory and the time of this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows: the caller's time limit remains
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (extra + 2**24, extra + 2**24))
    try:
        with open("/proc/self/statm", "rb") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux: the size of the file is bounded all the same
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + 3 * extra + 2**28, now + 3 * extra + 2**28))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
