"""Residual networks for ImageNet and CIFAR-10, with their plain twins.

K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", CVPR 2016 (arXiv 2015):
Table 1, Figures 3 and 5, sections 3.3 and 3.4, the shortcuts A, B and C of section 4.1, and section 4.2 with
n = 3, 5, 7, 9, 18, 200 for CIFAR-10. A batch norm follows each convolution and precedes the ReLU; there is no
dropout; the weights begin as in [13], "Delving deep into rectifiers". Images of any size fit, because each
convolution pads and the last maps are averaged.

`plainN` is `resnetN` without shortcuts, and has the parameters of `resnetN_a`, whose shortcuts have none.

Deviations:
- resnet18 has shortcut B, as published weights have it; Table 2 of the paper has A, which is resnet18_a;
- resnet50_v1_5, resnet101_v1_5, resnet152_v1_5 halve the maps in the 3x3 of a bottleneck, not in its first
  1x1. Most libraries call this form ResNet-50; it costs 6 % more and comes from later training code
  (fb.resnet.torch, 2016).
Deviations of the others: none. Of the two rules of [13] the one with the fan-in is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import nn

from convworks.layers import stage
from convworks.layers.residual import OPTIONS, Option, Residual, shortcut
from convworks.models.prelu_net import he_normal
from convworks.models.registry import register
from convworks.ops.arguments import one_of

SOURCE = "He, Zhang, Ren, Sun 2015, Deep residual learning for image recognition"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNetConfig:
    """A column of Table 1, or a depth of section 4.2. Raises BadArgument for a word that is not known."""

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]  # blocks in conv2_x, conv3_x, ...
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: Literal["imagenet", "cifar"] = "imagenet"
    shortcut: Option | None = "B"  # None is the paper's plain network
    stride_on: Literal["1x1", "3x3"] = "1x1"  # of a bottleneck: the paper; "3x3" is the later "v1.5"

    def __post_init__(self) -> None:
        one_of("block", self.block, ("basic", "bottleneck"))
        one_of("stem", self.stem, PUBLISHED)
        if self.shortcut is not None:
            one_of("shortcut", self.shortcut, OPTIONS)
        one_of("stride_on", self.stride_on, ("1x1", "3x3"))

    @property
    def layers(self) -> int:
        """Layers with weights, as the paper counts them: without projections."""
        return 2 + (2 if self.block == "basic" else 3) * sum(self.depths)


PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "imagenet": {"num_classes": 1000, "input_size": (224, 224)},
    "cifar": {"num_classes": 10, "input_size": (32, 32)},
}


def cifar(n: int) -> ResNetConfig:
    """Section 4.2: 6n + 2 layers, 2n for each of the map sizes 32, 16 and 8, with option A."""
    return ResNetConfig(block="basic", depths=(n, n, n), widths=(16, 32, 64), stem="cifar", shortcut="A")


# Table 1 (blocks in conv2_x, conv3_x, conv4_x, conv5_x), and the shortcuts of Tables 2 and 3.
# fmt: off
CONFIGS = {
    "resnet18":  ResNetConfig(block="basic",      depths=(2, 2, 2, 2)),
    "resnet34":  ResNetConfig(block="basic",      depths=(3, 4, 6, 3)),
    "resnet50":  ResNetConfig(block="bottleneck", depths=(3, 4, 6, 3)),
    "resnet101": ResNetConfig(block="bottleneck", depths=(3, 4, 23, 3)),
    "resnet152": ResNetConfig(block="bottleneck", depths=(3, 8, 36, 3)),
}
# fmt: on
CONFIGS |= {f"plain{d}": replace(CONFIGS[f"resnet{d}"], shortcut=None) for d in (18, 34)}
CONFIGS |= {f"resnet{d}_a": replace(CONFIGS[f"resnet{d}"], shortcut="A") for d in (18, 34)}
CONFIGS["resnet34_c"] = replace(CONFIGS["resnet34"], shortcut="C")
CONFIGS |= {f"resnet{d}_v1_5": replace(CONFIGS[f"resnet{d}"], stride_on="3x3") for d in (50, 101, 152)}
CONFIGS |= {f"resnet{6 * n + 2}_cifar": cifar(n) for n in (3, 5, 7, 9, 18, 200)}
CONFIGS |= {f"plain{6 * n + 2}_cifar": replace(cifar(n), shortcut=None) for n in (3, 5, 7, 9)}

DEVIATIONS = {"resnet18": ("shortcut B, as published weights have it; the paper's is resnet18_a",)}
DEVIATIONS |= {
    f"resnet{d}_v1_5": ("the stride of a bottleneck sits in its 3x3, not in its first 1x1",)
    for d in (50, 101, 152)
}


def convs(c_in: int, rows: list[tuple[int, int, int]]) -> nn.Sequential:
    """F of a block: for each (kernel, width, stride) a convolution, batch norm, and ReLU between them."""
    parts: dict[str, nn.Module] = {}
    for i, (kernel, width, stride) in enumerate(rows, start=1):
        parts[f"conv{i}"] = nn.Conv2d(c_in, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        parts[f"bn{i}"] = nn.BatchNorm2d(width)
        if i < len(rows):
            parts[f"relu{i}"] = nn.ReLU()
        c_in = width
    return stage(**parts)


def block(config: ResNetConfig, c_in: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """Figure 5, left or right: relu(shortcut(x) + F(x)), or relu(F(x)); and its number of maps."""
    if config.block == "basic":
        c_out = width
        branch = convs(c_in, [(3, width, stride), (3, width, 1)])
    else:
        c_out = 4 * width
        reduce, spatial = (stride, 1) if config.stride_on == "1x1" else (1, stride)
        branch = convs(c_in, [(1, width, reduce), (3, width, spatial), (1, c_out, 1)])
    if config.shortcut is None:
        return stage(branch=branch, activation=nn.ReLU()), c_out
    beside = shortcut(config.shortcut, c_in, c_out, stride=stride)
    return Residual(branch, beside, activation=nn.ReLU()), c_out


def stem(kind: str, in_channels: int, width: int) -> nn.Sequential:
    """conv1, with batch norm and ReLU; the max pooling is the first layer of conv2_x, as in Table 1."""
    kernel, stride = (7, 2) if kind == "imagenet" else (3, 1)
    return stage(
        conv=nn.Conv2d(in_channels, width, kernel, stride=stride, padding=kernel // 2, bias=False),
        bn=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
    )


def build(
    config: ResNetConfig,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (224, 224),  # any; the published one
) -> nn.Sequential:
    """The network of a row: conv1, conv2_x and so on, pool, fc. Stages halve the maps but the first."""
    c_in = config.widths[0]
    stages: dict[str, nn.Module] = {"conv1": stem(config.stem, in_channels, c_in)}  # (N, 64, 112, 112)
    for s, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True), start=2):
        blocks: dict[str, nn.Module] = {}
        if s == 2 and config.stem == "imagenet":
            blocks["pool"] = nn.MaxPool2d(3, stride=2, padding=1)  # (N, 64, 56, 56)
        for b in range(1, depth + 1):
            stride = 2 if b == 1 and s > 2 else 1
            blocks[f"block{b}"], c_in = block(config, c_in, width, stride)
        stages[f"conv{s}_x"] = stage(**blocks)
    stages["pool"] = stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    stages["fc"] = nn.Linear(c_in, num_classes)
    net = stage(**stages)
    he_normal(net)
    return net


def summary(config: ResNetConfig) -> str:
    """One line: "34 layers, plain" or "50 layers, bottlenecks, shortcut B"."""
    words = [f"{config.layers} layers for {'ImageNet' if config.stem == 'imagenet' else 'CIFAR-10'}"]
    words += ["bottlenecks"] if config.block == "bottleneck" else []
    words += ["plain: no shortcuts" if config.shortcut is None else f"shortcut {config.shortcut}"]
    return ", ".join(words)


for _name, _config in CONFIGS.items():
    register(
        partial(build, _config, **PUBLISHED[_config.stem]),
        name=_name,
        source=SOURCE,
        summary=summary(_config),
        deviations=DEVIATIONS.get(_name, ()),
    )
