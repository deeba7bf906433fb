"""The loss of training: its bits are those of torch's own, its numbers those of the operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convworks.data.loader import Mixed
from convworks.ops.loss import cross_entropy
from convworks.training.loss import batch_normaliser, summed_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_and_the_operator_agree(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 10, generator=generator).requires_grad_()
    labels = torch.randint(0, 10, (16,), generator=generator)
    found = summed_cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.equal(found, F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum"))
    own = cross_entropy(logits, labels, smoothing=smoothing)
    torch.testing.assert_close(found / batch_normaliser(labels, None), own)
    torch.testing.assert_close(
        torch.autograd.grad(found / 16, logits)[0], torch.autograd.grad(own, logits)[0]
    )


def mixture(weighted: bool) -> tuple[Tensor, Tensor, Mixed, Tensor | None]:
    """Random logits (16, 10), labels, second labels with shares (0 and 1 among them), class weights."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(16, 10, generator=generator, dtype=torch.float64).requires_grad_()
    labels, other = (torch.randint(0, 10, (16,), generator=generator) for _ in range(2))
    share = torch.rand(16, generator=generator)
    share[0], share[1], other[2] = 0.0, 1.0, labels[2]
    return logits, labels, Mixed(other, share), torch.rand(10, generator=generator) if weighted else None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mixed_batch_has_the_cross_entropy_with_the_soft_target(smoothing: float) -> None:
    """mixup: the target lambda e_i + (1 - lambda) e_j sums to one; its cross-entropy, written out."""
    logits, labels, mixed, _ = mixture(False)
    one_hot = torch.eye(10, dtype=torch.float64)
    share = mixed.share.double()[:, None]
    target = share * one_hot[labels] + (1 - share) * one_hot[mixed.other]
    target = (1 - smoothing) * target + smoothing / 10
    torch.testing.assert_close(target.sum(1), torch.ones(16, dtype=torch.float64))
    wanted = -(target * (logits - logits.logsumexp(1, keepdim=True))).sum()
    found = summed_cross_entropy(logits, labels, label_smoothing=smoothing, mixed=mixed)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits)[0], torch.autograd.grad(wanted, logits)[0], rtol=1e-5, atol=1e-6
    )
    also = F.cross_entropy(logits, target, reduction="sum")
    torch.testing.assert_close(found.double(), also.double(), rtol=1e-5, atol=1e-5)
    assert batch_normaliser(labels, None, mixed) == 16.0


def test_class_weights_of_a_mixed_batch_are_mixed_too() -> None:
    logits, labels, mixed, weights = mixture(True)
    assert weights is not None
    found = summed_cross_entropy(logits, labels, class_weights=weights, mixed=mixed)
    log_p = logits.detach().float().log_softmax(1)
    total, normaliser = 0.0, 0.0
    for i, (a, b, s) in enumerate(zip(labels, mixed.other, mixed.share, strict=True)):
        total -= float(s * weights[a] * log_p[i, a] + (1 - s) * weights[b] * log_p[i, b])
        normaliser += float(s * weights[a] + (1 - s) * weights[b])
    assert found.item() == pytest.approx(total, rel=1e-5)
    assert batch_normaliser(labels, weights, mixed) == pytest.approx(normaliser, rel=1e-6)


def test_a_share_of_one_is_the_plain_loss() -> None:
    logits, labels, mixed, _ = mixture(False)
    alone = Mixed(mixed.other, torch.ones(16))
    torch.testing.assert_close(
        summed_cross_entropy(logits, labels, mixed=alone), summed_cross_entropy(logits, labels)
    )
