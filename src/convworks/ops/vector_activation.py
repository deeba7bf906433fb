"""The rows of the table of activations that mix units: softmax and maxout.

They stand apart from ACTIVATIONS because their derivative is a matrix for each example, not a number for each
unit: instead of a derivative a row has a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from convworks.ops.maxout import across_groups, across_groups_backward
from convworks.ops.softmax import softmax, softmax_backward


@dataclass(frozen=True)
class VectorActivation:
    """An activation of a vector of units, along dimension 1, and how it behaves."""

    name: str
    formula: str
    derivative_formula: str
    range: str
    zero_centred: bool  # is f(-x) = -f(x)?
    saturates: str  # where the derivative goes to 0
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]  # of x and dC/dy: dC/dx
    source: str


def _maxout_of_pairs_backward(x: Tensor, gradient: Tensor) -> Tensor:
    return across_groups_backward(gradient, across_groups(x, 2)[1], 2)


VECTOR_ACTIVATIONS: dict[str, VectorActivation] = {
    row.name: row
    for row in (
        VectorActivation(
            name="softmax",
            formula="p_i = exp(x_i) / sum_j exp(x_j)",
            derivative_formula="dp_i/dx_j = p_i ([i = j] - p_j)",
            range="[0, 1]",
            zero_centred=False,
            saturates="where one score is far above the others",
            forward=softmax,
            backward=lambda x, gradient: softmax_backward(softmax(x), gradient),
            source="lectures, softmax transformation",
        ),
        VectorActivation(
            name="maxout",
            formula="max over k of x_k, x_k = sum_j W_kij x_j (k = 2)",
            derivative_formula="1 for the largest (the first of equal ones), else 0",
            range="(-inf, inf)",
            zero_centred=False,
            saturates="nowhere",
            forward=lambda x: across_groups(x, 2)[0],
            backward=_maxout_of_pairs_backward,
            source="Goodfellow et al. 2013; lectures, max-out",
        ),
    )
}
