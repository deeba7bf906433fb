"""What a network with auxiliary classifiers returns while it trains."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

AUXILIARY = "auxiliary_"  # begins the names of classifiers that take part in training only


class WithAuxiliary(NamedTuple):
    """Logits (N, K) of the network and of its auxiliary classifiers, and the discount of their losses.

    The loss is that of `logits` plus `discount` times the sum of the others'. In evaluation a network returns
    its logits alone. Source: Szegedy et al., "Going deeper with convolutions", 2015, section 5: discount 0.3.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
    discount: float
