"""Cross-entropy with label smoothing and class weights; the parts of a batch add up to the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """(K,) weights n / (K * n_k): every class counts the same in sum. A class without images gets 0."""
    counts = torch.bincount(labels, minlength=classes).double()
    weights = torch.where(counts > 0, len(labels) / (classes * counts.clamp(min=1)), torch.zeros_like(counts))
    return weights.float()


def batch_normaliser(labels: Tensor, class_weights: Tensor | None) -> float:
    """What the sum over a batch is divided by: its size, or the sum of its images' class weights."""
    if class_weights is None:
        return float(len(labels))
    return float(class_weights[labels].double().sum().clamp(min=1e-12))


def summed_cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Sum over the batch of -log p, in float32. `logits` is (N, K), `labels` (N,)."""
    return F.cross_entropy(
        logits.float(), labels, weight=class_weights, label_smoothing=label_smoothing, reduction="sum"
    )
