"""Names of MobileNet V1's weights. torchvision has no such network; timm has `mobilenetv1_100`.

timm groups the thirteen separable layers by the size of their maps, and trained with ReLU6: the same weights
with ReLU compute something else, so this layout needs the option activation="relu6".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convworks.models.mobilenet import SIDES, WIDTHS
from convworks.weights.keymap import Layout, Rule

GROUPS = (1, 2, 2, 6, 2)  # separable layers with 64, 128, 256, 512 and 1024 maps
MODELS = tuple(f"mobilenet_v1_{width}_{side}" for width in WIDTHS for side in SIDES)


def blocks() -> tuple[Rule, ...]:
    """conv2_dw, conv2_pw -> blocks.0.0, and so on to conv14 -> blocks.4.1."""
    places = [(group, place) for group, count in enumerate(GROUPS) for place in range(count)]
    rules = []
    for number, (group, place) in enumerate(places, start=2):
        for kind, norm in (("dw", "bn1"), ("pw", "bn2")):
            rules.append((f"conv{number}_{kind}.conv", f"blocks.{group}.{place}.conv_{kind}"))
            rules.append((f"conv{number}_{kind}.bn", f"blocks.{group}.{place}.{norm}"))
    return tuple(rules)


# fmt: off
TIMM = (
    ("conv1.conv", "conv_stem"),
    ("conv1.bn",   "bn1"),
    *blocks(),
    ("fc",         "classifier"),
)
# fmt: on


def layouts(model: str, options: Mapping[str, Any]) -> tuple[Layout, ...]:
    """The one of all sixteen; published weights exist for width 1 only."""
    return (Layout(publisher="timm", rules=TIMM, needs={"activation": "relu6"}),)
