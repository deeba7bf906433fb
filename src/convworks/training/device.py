"""What is said where a wanted device is not there."""

from __future__ import annotations

import torch

from convworks.errors import ConvworksError

KINDS = ("cpu", "cuda", "mps", "xpu")
_LONGEST = 160  # letters of PyTorch's own line


def no_such_device(wanted: str, problem: Exception) -> ConvworksError:
    """R520 for a device that could not be used; `problem` is what PyTorch raised, whose last line is kept."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return ConvworksError(
        "R520",
        f"there is no device '{wanted}' here",
        where=f"PyTorch: {lines[-1][:_LONGEST]}" if lines else "",
        why=_reason(wanted),
        try_="--device cpu",
    )


def _reason(wanted: str) -> str:
    kind, _, index = wanted.partition(":")
    if kind not in KINDS or (index and not index.isdecimal()):
        return "a device is called cpu, cuda, or cuda:1 for the second of several; auto takes the best one"
    if kind != "cuda":
        return f"this PyTorch cannot compute on {kind} here"
    count = torch.cuda.device_count()
    if not count:
        return "PyTorch sees no CUDA accelerator on this machine"
    last = f" to cuda:{count - 1}" if count > 1 else ""
    return f"PyTorch sees {count} CUDA device{'s' * (count > 1)} here: cuda:0{last}"
