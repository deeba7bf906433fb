"""Work that is written down once and run again: in its order, on memory that stays."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from convworks.ops.native import library
from convworks.ops.native.captured import Captured
from tests.ops.native.kernels import loaded


def test_kernels_and_operators_in_their_order() -> None:
    with loaded():
        x, run = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last), Captured()
        run.then(Tensor.add_, x, torch.tensor(1.0))
        sums = library.channel_sums(x, run=run)
        run.then(Tensor.mul_, x, torch.tensor(2.0))
        assert bool((x == 0).all()), "nothing has run"
        run.replay()
        assert sums.tolist() == [32.0] * 3
        run.replay()  # (0 + 1) * 2 + 1
        assert sums.tolist() == [96.0] * 3


def test_the_tensors_are_kept() -> None:
    with loaded():
        run = Captured()
        x = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
        sums = library.channel_sums(x, run=run)
        del x
        gc.collect()
        others = [torch.full((2, 3, 4, 4), 7.0) for _ in range(50)]  # would lie where x lay
        run.replay()
        assert sums.tolist() == [32.0] * 3
        assert len(others) == 50


def test_a_parameter_that_gets_other_memory() -> None:
    with loaded():
        run = Captured()
        x = torch.nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
        sums = library.channel_sums(x, run=run)
        x.data = torch.zeros(1)
        others = [torch.full((2, 3, 4, 4), 7.0) for _ in range(50)]  # would lie where x lay
        run.replay()
        assert sums.tolist() == [32.0] * 3
        assert len(others) == 50


def test_no_memory_for_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "kernel", lambda name: lambda *_: 1)
    run = Captured()
    run("convworks_channel_sums", 1, None)
    with pytest.raises(MemoryError, match="no memory"):
        run.replay()
