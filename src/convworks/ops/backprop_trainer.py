"""Training without autograd: a perceptron out of modules, and the loop forward, backward, update.

Source: lectures, introduction to convolutional networks, "Backpropagation: summary".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from convworks.ops.arguments import bad_argument
from convworks.ops.backprop import BackpropModule, Chain, Cost, EuclideanCost, Linear, Pointwise, numbers


def perceptron(
    widths: Sequence[int],
    *,
    generator: torch.Generator,
    activation: str = "tanh",
    cost: Cost | None = None,
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Chain:
    """Linear, h(x + b), Linear, ..., Linear: `widths` are the units of each layer, the input first.

    The weights are uniform in +-1/sqrt(inputs), drawn from `generator`, and the biases 0. The last layer is
    linear, with a bias of its own. Without a cost it is the Euclidean one.
    Raises BadArgument for fewer than two widths.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise bad_argument("widths", tuple(widths), why="an input and an output are needed", fits="(2, 2, 1)")
    modules: list[BackpropModule] = []
    last = len(widths) - 2
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        weight = torch.rand(outputs, inputs, generator=generator, dtype=dtype)
        weight = (2 * weight - 1) / inputs**0.5
        zeros = torch.zeros(outputs, dtype=dtype) if bias else None
        modules.append(Linear(weight, zeros if place == last else None))
        if place < last:
            modules.append(Pointwise(activation, zeros))
    return Chain(modules, EuclideanCost() if cost is None else cost)


def train(
    chain: Chain,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    learning_rate: float,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Gradient descent on E, the sum of the costs: one update for each batch; the mean cost of each epoch.

    x is (N, ...), y (N, ...) targets or (N,) classes. Without `batch` every example is in every step. The
    order is drawn anew for each epoch from `generator`; without one it is the order given. The costs are
    those before each update, as training curves have them. The update is w <- w - learning_rate dE/dw,
    where E is the sum over the batch: a mean would divide the rate by the batch.
    Raises BadArgument for a batch below 1 and a learning rate that is not positive.
    """
    inputs, targets = numbers(x), numbers(y)
    count = len(inputs)
    size = count if batch is None else batch
    if size < 1:
        raise bad_argument("batch", size, why="a step needs an example", fits="batch=1")
    history = []
    for _ in range(epochs):
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        energy = 0.0
        for start in range(0, count, size):
            part = order[start : start + size]
            energy += float(chain.forward_backward(inputs[part], targets[part]))
            chain.descend(learning_rate=learning_rate)
        history.append(energy / count)
    return history
