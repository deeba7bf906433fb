"""Names of GoogLeNet's weights. torchvision has the form with batch norm, our `googlenet_torchvision`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convworks.models.googlenet import TABLE_1
from convworks.weights.keymap import Layout, under

# fmt: off
MODULE = (
    ("branch_1x1",         "branch1"),
    ("branch_3x3.reduce",  "branch2.0"),
    ("branch_3x3.conv",    "branch2.1"),
    ("branch_5x5.reduce",  "branch3.0"),
    ("branch_5x5.conv",    "branch3.1"),
    ("branch_pool.project", "branch4.1"),
)
HEAD = (
    ("conv",   "conv"),
    ("fc",     "fc1"),
    ("linear", "fc2"),
)
TORCHVISION = (
    ("conv1",        "conv1"),
    ("conv2.reduce", "conv2"),
    ("conv2.conv",   "conv3"),
    *(rule for place in TABLE_1 for rule in under(f"inception_{place}", f"inception{place}", MODULE)),
    *under("auxiliary_4a", "aux1", HEAD),
    *under("auxiliary_4d", "aux2", HEAD),
    ("linear",       "fc"),
)
# fmt: on
MODELS = ("googlenet_torchvision",)


def layouts(model: str, options: Mapping[str, Any]) -> tuple[Layout, ...]:
    """With the two auxiliary heads or without: a rule without a weight does nothing."""
    return (Layout(publisher="torchvision", rules=TORCHVISION),)
