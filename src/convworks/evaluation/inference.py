"""Class probabilities of a network for every image of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convworks.data.loader import Batch
from convworks.training.loop import Numerics


class StoppedEarlyError(Exception):
    """The evaluation was asked to stop; what it had is discarded."""


class EvaluationBatches(Protocol):
    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]: ...


@torch.inference_mode()
def predict_probabilities(
    network: nn.Module,
    loader: EvaluationBatches,
    numerics: Numerics,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32]:
    """(N, K) softmax outputs in the loader's order; softmax is taken in float32.

    The network is used as it is: the caller puts it in eval mode. Raises StoppedEarlyError when asked to.
    """
    parts: list[NDArray[np.float32]] = []
    for batch in loader.epoch(0):
        if should_stop():
            raise StoppedEarlyError
        with numerics.autocast():
            logits = network(batch.x)
        parts.append(torch.softmax(logits.float(), dim=1).cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)
