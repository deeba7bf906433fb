"""Cross-entropy with label smoothing and class weights; the parts of a batch add up to the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convworks.data.loader import Batch, Mixed


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """(K,) weights n / (K * n_k): every class counts the same in sum. A class without images gets 0."""
    counts = torch.bincount(labels, minlength=classes).double()
    weights = torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), torch.zeros_like(counts))
    return weights.float()


def batch_normaliser(labels: Tensor, class_weights: Tensor | None, mixed: Mixed | None = None) -> float:
    """What the sum over a batch is divided by: its size, or the sum of its images' class weights."""
    if class_weights is None:
        return float(len(labels))
    weights = class_weights[labels].double()
    if mixed is not None:
        weights = mixed.share * weights + (1 - mixed.share) * class_weights[mixed.other].double()
    return float(weights.sum().clamp(min=1e-12))


def summed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    mixed: Mixed | None = None,
) -> Tensor:
    """Sum over the batch of -log p, in float32. `logits` is (N, K), `labels` (N,).

    With two labels for an image it is share x loss(y) + (1 - share) x loss(other), which is the cross-entropy
    with the mixed target, since that is linear in the target (Zhang et al. 2018, section 2).
    """

    def loss(targets: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(
            logits.float(),
            targets,
            weight=class_weights,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )

    if mixed is None:
        return loss(labels, "sum")
    first, second = loss(labels, "none"), loss(mixed.other, "none")
    return (mixed.share * first + (1 - mixed.share) * second).sum()


def targets(batch: Batch, *, classes: int) -> Tensor:
    """(B,) labels, or for a mixed batch the shares (B, K) of the classes, which sum to 1."""
    if batch.mixed is None:
        return batch.y
    share = batch.mixed.share[:, None]
    first, second = (F.one_hot(labels, classes).float() for labels in (batch.y, batch.mixed.other))
    return share * first + (1 - share) * second
