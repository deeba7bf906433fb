"""How much memory a network takes, from its trace: before anything is run.

    inference   weights + the largest input and output of one layer together, for each image
    training    weights, gradients, the optimizer's state + every layer's output, for each image

Outputs are kept for the backward pass, one for each layer; what operators need besides, such as the matrix of
a lowered convolution, is not counted, so that a process takes more. Source: lectures, "memory and cost".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from convworks.anatomy.trace import Row, totals

STATES = {"sgd": 1, "adam": 2}  # numbers that an optimizer keeps for each parameter, in float32


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes; the activations are those of a whole batch."""

    weights: int
    gradients: int
    optimizer: int
    inference_activations: int
    training_activations: int

    @property
    def inference(self) -> int:
        return self.weights + self.inference_activations

    @property
    def training(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.training_activations


def memory(
    rows: Sequence[Row],
    input_shape: tuple[int, ...],
    *,
    batch: int = 1,
    itemsize: int = 4,
    optimizer_states: int = 1,
) -> Memory:
    """The memory of a trace of images (C, H, W); `itemsize` is that of an activation, weights are float32."""
    sizes = [math.prod(input_shape), *(row.neurons for row in rows if row.output)]
    widest = max((before + after for before, after in pairwise(sizes)), default=sizes[0])
    total = totals(rows)
    return Memory(
        weights=4 * (total.parameters + total.fixed),
        gradients=4 * total.parameters,
        optimizer=4 * optimizer_states * total.parameters,
        inference_activations=batch * itemsize * widest,
        training_activations=batch * itemsize * sum(sizes),
    )


def dense_share(rows: Sequence[Row], *, idle: bool = True) -> float:
    """The share of the parameters that fully connected layers hold: 86.06 % for VGG's E.

    Without `idle`, layers that only training calls do not count: GoogLeNet's heads.
    """
    counted = [row for row in rows if idle or row.output]
    total = max(1, totals(counted).parameters)
    return sum(row.parameters for row in counted if row.dense) / total
