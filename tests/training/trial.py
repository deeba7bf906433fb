"""What the tests of plans with kernels of ours try them on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from convworks.data.loader import Batch
from convworks.ops.native import library
from tests.ops.native.kernels import with_winograd


def batch(count: int = 8) -> Batch:
    """Images of 8 x 8 pixels in three classes."""
    draws = torch.Generator().manual_seed(0)
    return Batch(torch.randn(count, 3, 8, 8, generator=draws), torch.arange(count) % 3, np.arange(count))


@contextmanager
def with_winograd_alone() -> Iterator[None]:
    """Winograd's kernels, and no matrix units."""
    with with_winograd(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "amx_available", lambda: False)
        yield
