"""Names of the residual networks' weights. timm has torchvision's names for them.

What others call resnet50, 101 and 152 has the stride in the 3x3 convolution of a bottleneck: it is our
`resnet50_v1_5` and so on. The paper's, `resnet50`, has weights of the same names and shapes and computes
something else with them, so it has no layout here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convworks.weights.keymap import Layout

# fmt: off
TORCHVISION = (
    ("conv1.conv",                         "conv1"),
    ("conv1.bn",                           "bn1"),
    ("conv{s}_x.block{b}.branch",          "layer{s-1}.{b-1}"),
    ("conv{s}_x.block{b}.shortcut.conv",   "layer{s-1}.{b-1}.downsample.0"),
    ("conv{s}_x.block{b}.shortcut.bn",     "layer{s-1}.{b-1}.downsample.1"),
    ("fc",                                 "fc"),
)
# fmt: on
MODELS = ("resnet18", "resnet34", "resnet50_v1_5", "resnet101_v1_5", "resnet152_v1_5")


def layouts(model: str, options: Mapping[str, Any]) -> tuple[Layout, ...]:
    """Those of a network of MODELS, which have no options."""
    return (Layout(publisher="torchvision", rules=TORCHVISION), Layout(publisher="timm", rules=TORCHVISION))
