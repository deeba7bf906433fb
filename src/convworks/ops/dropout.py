"""Dropout in both of its forms, and Gaussian noise.

The letter p means two things. The lectures and the dropout paper write p for the probability to KEEP a unit;
PyTorch, Keras and most papers since write it for the probability to DROP one. Here the arguments are called
`keep_probability` and `drop_probability`, and keep = 1 - drop.

                    training                 test           expectation in training
    keep form       y = m x,                 y = keep x     keep x
    inverted form   y = m x / (1 - drop),    y = x          x

with m from Bernoulli(keep), one for each number. Sources: lectures, dropout (training, inverted, inference);
Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: a simple way to prevent neural networks
from overfitting", 2014, section 4 (keep form) and section 10 (multiplicative Gaussian noise).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convworks.ops.arguments import bad_argument


def bernoulli_mask(
    shape: Sequence[int], keep_probability: float, *, like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Ones with `keep_probability`, else zeros, of the type and device of `like`.

    Drawn from `generator`, or from torch's own. Raises BadArgument for a probability outside [0, 1].
    """
    probability("keep_probability", keep_probability)
    uniform = torch.rand(tuple(shape), generator=generator, dtype=torch.float32, device=like.device)
    return (uniform < keep_probability).to(like.dtype)  # uniform lies in [0, 1): 1 keeps all, 0 none


def keep_dropout(x: Tensor, mask: Tensor) -> Tensor:
    """The lectures' form in training: y = m x."""
    return mask * x


def keep_dropout_at_test(x: Tensor, *, keep_probability: float) -> Tensor:
    """The lectures' form at test: y = keep x, the same as outgoing weights times keep.

    For a linear layer that is the expectation over all masks, exactly.
    """
    return probability("keep_probability", keep_probability) * x


def keep_dropout_backward(gradient: Tensor, mask: Tensor) -> Tensor:
    """dC/dx = m dC/dy."""
    return mask * gradient


def inverted_dropout(x: Tensor, mask: Tensor, *, drop_probability: float) -> Tensor:
    """The inverted form in training: y = m x / (1 - drop), 0 where drop is 1. At test y = x."""
    return mask * x * _inverse_keep(drop_probability)


def inverted_dropout_backward(gradient: Tensor, mask: Tensor, *, drop_probability: float) -> Tensor:
    """dC/dx = m dC/dy / (1 - drop)."""
    return mask * gradient * _inverse_keep(drop_probability)


def gaussian_noise(x: Tensor, *, std: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """y = x + n with n from N(0, std^2), in training; at test y = x. dC/dx = dC/dy.

    Source: lectures, noise regularisation ("usually N(0, 1), best combined with batch norm"). Raises
    BadArgument for a negative `std`.
    """
    return x + standard_deviation(std) * _normal(x, generator)


def gaussian_dropout_factor(
    x: Tensor, *, drop_probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """f from N(1, drop / (1 - drop)), whose mean and variance are those of inverted dropout's m / (1 - drop).

    y = f x and dC/dx = f dC/dy in training; at test y = x. Raises BadArgument for a probability outside
    [0, 1).
    """
    return 1 + gaussian_dropout_std(drop_probability) * _normal(x, generator)


def gaussian_dropout_std(drop_probability: float) -> float:
    """sqrt(drop / (1 - drop)). Raises BadArgument for a probability outside [0, 1)."""
    drop = probability("drop_probability", drop_probability)
    if drop == 1:
        why = "the variance drop / (1 - drop) has no bound there"
        raise bad_argument("drop_probability", drop, why=why, fits="drop_probability=0.5")
    return float((drop / (1 - drop)) ** 0.5)


def probability(name: str, value: float) -> float:
    """`value` where it lies in [0, 1]. Raises BadArgument that says which of the two probabilities it is."""
    if not 0 <= value <= 1:
        other = "drop_probability" if name == "keep_probability" else "keep_probability"
        why = f"a probability lies in [0, 1]; {name} is 1 - {other}"
        raise bad_argument(name, value, why=why, fits=f"{name}=0.5")
    return value


def standard_deviation(value: float) -> float:
    """`value` where it is 0 or more. Raises BadArgument."""
    if not value >= 0:
        raise bad_argument("std", value, why="a standard deviation is 0 or more", fits="std=1.0")
    return value


def _inverse_keep(drop_probability: float) -> float:
    keep = 1 - probability("drop_probability", drop_probability)
    return 1 / keep if keep > 0 else 0.0


def _normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=torch.float32, device=x.device).to(x.dtype)
