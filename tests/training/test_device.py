"""What is said where a wanted device is not there."""

from __future__ import annotations

import pytest
import torch

from convworks.training.device import no_such_device

BLAMES = "CUDA error: out of range\nFor debugging consider CUDA_LAUNCH_BLOCKING=1\nlast line\n\n"


@pytest.mark.parametrize(
    ("wanted", "devices", "why"),
    [
        ("gpu", 0, "a device is called cpu, cuda, or cuda:1"),
        ("cuda:x", 2, "a device is called cpu, cuda, or cuda:1"),
        ("cuda", 0, "PyTorch sees no CUDA accelerator on this machine"),
        ("cuda:9", 1, "PyTorch sees 1 CUDA device here: cuda:0"),
        ("cuda:9", 3, "PyTorch sees 3 CUDA devices here: cuda:0 to cuda:2"),
        ("mps", 0, "this PyTorch cannot compute on mps here"),
    ],
)
def test_our_words_first_and_the_last_line_of_pytorch(
    wanted: str, devices: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    error = no_such_device(wanted, RuntimeError(BLAMES))
    assert (error.code, error.what) == ("R520", f"there is no device '{wanted}' here")
    assert error.why.startswith(why)
    assert error.where == "PyTorch: last line"
    assert error.try_ == "--device cpu"


def test_a_long_line_is_cut_and_an_empty_one_left_out() -> None:
    assert len(no_such_device("cuda", RuntimeError("x" * 999)).where) == len("PyTorch: ") + 160
    assert no_such_device("cuda", RuntimeError("")).where == ""
