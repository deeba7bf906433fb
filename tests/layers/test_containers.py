"""Named parts in a row."""

from __future__ import annotations

import torch
from torch import nn

from convworks.layers import stage


def test_children_keep_their_names_and_order() -> None:
    parts = stage(second=nn.Flatten(), first=nn.Linear(4, 2))
    assert [name for name, _ in parts.named_children()] == ["second", "first"]
    assert set(parts.state_dict()) == {"first.weight", "first.bias"}
    assert parts(torch.zeros(3, 1, 2, 2)).shape == (3, 2)
