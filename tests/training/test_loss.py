"""The loss of training: its bits are those of torch's own, its numbers those of the operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

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
