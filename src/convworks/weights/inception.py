"""Names of the weights of Inception-v3, -v4 and Inception-ResNet-v2.

The others' names for Inception-v3 are those of its port to torch: torchvision and timm share them.
Inception-v4 and Inception-ResNet-v2 are in timm only. `side0` is the 1x3 and `side1` the 3x1 convolution at
the end of a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convworks.weights.keymap import Layout, Rule, under

# Inception-v3, by the blocks of `models/inception_v3.py`.
# fmt: off
V3_A = (
    ("branch0.conv1",    "branch1x1"),
    ("branch1.conv{i}",  "branch5x5_{i}"),
    ("branch2.conv{i}",  "branch3x3dbl_{i}"),
    ("branch3.conv1",    "branch_pool"),
)
V3_B = (
    ("branch0.conv1",    "branch3x3"),
    ("branch1.conv{i}",  "branch3x3dbl_{i}"),
)
V3_C = (
    ("branch0.conv1",    "branch1x1"),
    ("branch1.conv{i}",  "branch7x7_{i}"),
    ("branch2.conv{i}",  "branch7x7dbl_{i}"),
    ("branch3.conv1",    "branch_pool"),
)
V3_D = (
    ("branch0.conv{i}",  "branch3x3_{i}"),
    ("branch1.conv{i}",  "branch7x7x3_{i}"),
)
V3_E = (
    ("branch0.conv1",              "branch1x1"),
    ("branch1.split.side0.conv1",  "branch3x3_2a"),
    ("branch1.split.side1.conv1",  "branch3x3_2b"),
    ("branch1.conv{i}",            "branch3x3_{i}"),
    ("branch2.split.side0.conv1",  "branch3x3dbl_3a"),
    ("branch2.split.side1.conv1",  "branch3x3dbl_3b"),
    ("branch2.conv{i}",            "branch3x3dbl_{i}"),
    ("branch3.conv1",              "branch_pool"),
)
V3_MODULES = {
    "5b": V3_A, "5c": V3_A, "5d": V3_A, "6a": V3_B, "6b": V3_C, "6c": V3_C, "6d": V3_C, "6e": V3_C,
    "7a": V3_D, "7b": V3_E, "7c": V3_E,
}
V3 = (
    ("conv2d_1a.conv1", "Conv2d_1a_3x3"),
    ("conv2d_2a.conv1", "Conv2d_2a_3x3"),
    ("conv2d_2b.conv1", "Conv2d_2b_3x3"),
    ("conv2d_3b.conv1", "Conv2d_3b_1x1"),
    ("conv2d_4a.conv1", "Conv2d_4a_3x3"),
    *(rule for at, rules in V3_MODULES.items() for rule in under(f"mixed_{at}", f"Mixed_{at}", rules)),
    ("auxiliary_6e.conv{i}", "AuxLogits.conv{i}"),
    ("auxiliary_6e.linear",  "AuxLogits.fc"),
    ("linear",               "fc"),
)

# Inception-v4: a plain branch of several convolutions is branchN.0, branchN.1 ...
V4_PLAIN = (
    ("branch0.conv1",   "branch0"),
    ("branch{k}.conv{i}", "branch{k}.{i-1}"),
)
V4_POOLED = (  # the last branch begins with the pooling
    ("branch3.conv1",   "branch3.1"),
    *V4_PLAIN,
)
V4_LONG = (("branch{k}.conv{i}", "branch{k}.{i-1}"),)
V4_C = (
    ("branch0.conv1",              "branch0"),
    ("branch1.split.side0.conv1",  "branch1_1a"),
    ("branch1.split.side1.conv1",  "branch1_1b"),
    ("branch2.split.side0.conv1",  "branch2_3a"),
    ("branch2.split.side1.conv1",  "branch2_3b"),
    ("branch1.conv{i}",            "branch1_{i-1}"),
    ("branch2.conv{i}",            "branch2_{i-1}"),
    ("branch3.conv1",              "branch3.1"),
)
# fmt: on


def numbered(ours: str, first: int, count: int, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Rules of blocks 1 to `count` of a stage, which are features.`first` and the next."""
    rows = [under(f"{ours}.block{1 + i}", f"features.{first + i}", rules) for i in range(count)]
    return tuple(rule for row in rows for rule in row)


# fmt: off
V4 = (
    ("stem.conv2d_1a.conv1",         "features.0"),
    ("stem.conv2d_2a.conv1",         "features.1"),
    ("stem.conv2d_2b.conv1",         "features.2"),
    ("stem.mixed_3a.branch1.conv1",  "features.3.conv"),
    *under("stem.mixed_4a", "features.4", V4_LONG),
    ("stem.mixed_5a.branch0.conv1",  "features.5.conv"),
    *numbered("inception_a", 6, 4, V4_POOLED),
    *under("reduction_a", "features.10", V4_PLAIN),
    *numbered("inception_b", 11, 7, V4_POOLED),
    *under("reduction_b", "features.18", V4_LONG),
    *numbered("inception_c", 19, 3, V4_C),
    ("linear",                       "last_linear"),
)

# Inception-ResNet-v2: timm's last block C stands alone, as block8.
RESNET_BLOCK = (
    ("branch.branches.branch0.conv1",      "branch0"),
    ("branch.branches.branch{k}.conv{i}",  "branch{k}.{i-1}"),
    ("branch.up",                          "conv2d"),
)
RESNET_V2 = (
    ("stem.conv2d_{i}a.conv1",  "conv2d_{i}a"),
    ("stem.conv2d_{i}b.conv1",  "conv2d_{i}b"),
    *under("stem.mixed_5b", "mixed_5b", V4_POOLED),
    *under("inception_resnet_a.block{b}", "repeat.{b-1}", RESNET_BLOCK),
    *under("reduction_a", "mixed_6a", V4_PLAIN),
    *under("inception_resnet_b.block{b}", "repeat_1.{b-1}", RESNET_BLOCK),
    *under("reduction_b", "mixed_7a", V4_LONG),
    *under("inception_resnet_c.block10", "block8", RESNET_BLOCK),
    *under("inception_resnet_c.block{b}", "repeat_2.{b-1}", RESNET_BLOCK),
    ("conv2d_7b",               "conv2d_7b"),
    ("linear",                  "classif"),
)
# fmt: on
LAYOUTS = {
    "inception_v3": (
        Layout(publisher="torchvision", rules=V3),
        Layout(publisher="timm", rules=V3),
    ),
    "inception_v4": (Layout(publisher="timm", rules=V4),),
    "inception_resnet_v2": (Layout(publisher="timm", rules=RESNET_V2, needs={"residual_scale": None}),),
}
MODELS = tuple(LAYOUTS)


def layouts(model: str, options: Mapping[str, Any]) -> tuple[Layout, ...]:
    """Those of a network of MODELS, with its auxiliary head or without."""
    return LAYOUTS[model]
