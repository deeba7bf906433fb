"""Names of VGG's weights: vgg11, 13, 16 and 19 elsewhere, with and without batch norm.

Others number the layers of all stages in one row, ReLU and pooling included. timm writes the two hidden dense
layers as convolutions, 7x7 and 1x1, so its weights have other shapes and the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convworks.models.vgg import CONFIGS
from convworks.weights.keymap import Layout, Rule

# fmt: off
TORCHVISION = (
    ("fc6.linear", "classifier.0"),
    ("fc7.linear", "classifier.3"),
    ("fc8",        "classifier.6"),
)
TIMM = (
    ("fc6.linear", "pre_logits.fc1"),
    ("fc7.linear", "pre_logits.fc2"),
    ("fc8",        "head.fc"),
)
# fmt: on
TIMM_WINDOWS = {"fc6.linear.weight": (7, 7), "fc7.linear.weight": (1, 1)}
MODELS = ("vgg_a", "vgg_b", "vgg_d", "vgg_e")


def features(model: str, *, batch_norm: bool) -> tuple[Rule, ...]:
    """conv1_1 -> features.0, ...: every convolution, batch norm, ReLU and pooling counts one."""
    rules, number = [], 0
    for stage, kernels in enumerate(CONFIGS[model], start=1):
        for layer in range(1, 1 + len(kernels)):
            rules.append((f"conv{stage}.conv{stage}_{layer}", f"features.{number}"))
            if batch_norm:
                number += 1
                rules.append((f"conv{stage}.bn{stage}_{layer}", f"features.{number}"))
            number += 2
        number += 1
    return tuple(rules)


def layouts(model: str, options: Mapping[str, Any]) -> tuple[Layout, ...]:
    """Those of one column of the paper's Table 1; the option `batch_norm` decides the numbers."""
    first = features(model, batch_norm=bool(options.get("batch_norm", False)))
    return (
        Layout(publisher="torchvision", rules=first + TORCHVISION),
        Layout(publisher="timm", rules=first + TIMM, folded=TIMM_WINDOWS),
    )
