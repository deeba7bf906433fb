"""Names of AlexNet's weights. torchvision has the later form only, which is our `alexnet_torchvision`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convworks.weights.keymap import Layout

# fmt: off
TORCHVISION = (
    ("conv1.conv",  "features.0"),
    ("conv2.conv",  "features.3"),
    ("conv3.conv",  "features.6"),
    ("conv4.conv",  "features.8"),
    ("conv5.conv",  "features.10"),
    ("fc6.linear",  "classifier.1"),
    ("fc7.linear",  "classifier.4"),
    ("fc8",         "classifier.6"),
)
# fmt: on
MODELS = ("alexnet_torchvision",)


def layouts(model: str, options: Mapping[str, Any]) -> tuple[Layout, ...]:
    """Those of `alexnet_torchvision`, which has no options."""
    return (Layout(publisher="torchvision", rules=TORCHVISION),)
