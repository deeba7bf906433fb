"""Pre-activation residual networks: batch norm and ReLU before each convolution, and a clean shortcut.

K. He, X. Zhang, S. Ren, J. Sun, "Identity mappings in deep residual networks", ECCV 2016: Figure 4(e),
section 4 and the appendix. The paper has ResNet-110, 164 and 1001 for CIFAR, and ResNet-101, 152 and 200 for
ImageNet; ResNet-18 to 50 in this form, which libraries offer, are not in it.

With the identity for h and f, x_L = x_l + the sum of F(x_i): what a unit gives reaches every later one
unchanged. Two units are special (appendix): the activation that follows conv1 comes before the two paths of
the first unit split, and another one follows the last addition. Where the maps get smaller or more, the
164 and 1001 layer networks project, with the pre-activation before the split ("these projection shortcuts are
also with pre-activation"), and the 110 layers keep option A of the first paper. Images of any size fit.

Deviations: none known. Not printed, and taken from the authors' code for 1001 layers (resnet-1k-layers): no
batch norm after a projection, and the stride in the first 1x1 of a bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from convworks.layers import stage
from convworks.layers.residual import Residual, shortcut
from convworks.models.prelu_net import he_normal
from convworks.models.registry import register
from convworks.models.resnet import PUBLISHED, stem

SOURCE = "He, Zhang, Ren, Sun 2016, Identity mappings in deep residual networks"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreActConfig:
    """Units of each stage. The stem has 16 maps for CIFAR and 64 for ImageNet."""

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (16, 32, 64)  # of the 3x3; a bottleneck has four times as many maps outside
    stem: Literal["imagenet", "cifar"] = "cifar"
    shortcut: Literal["A", "B"] = "B"  # B with pre-activation

    @property
    def layers(self) -> int:
        """Layers with weights, as the paper counts them: without projections."""
        return 2 + (2 if self.block == "basic" else 3) * sum(self.depths)


def imagenet(depths: tuple[int, int, int, int]) -> PreActConfig:
    """The stages of Table 1 of the first paper."""
    return PreActConfig(block="bottleneck", depths=depths, widths=(64, 128, 256, 512), stem="imagenet")


# fmt: off
CONFIGS = {
    "preact_resnet110_cifar":  PreActConfig(block="basic",      depths=(18, 18, 18), shortcut="A"),
    "preact_resnet164_cifar":  PreActConfig(block="bottleneck", depths=(18, 18, 18)),
    "preact_resnet1001_cifar": PreActConfig(block="bottleneck", depths=(111, 111, 111)),
    "preact_resnet152":        imagenet((3, 8, 36, 3)),
    "preact_resnet200":        imagenet((3, 24, 36, 3)),  # 16 more units on the maps of 28x28
}
# fmt: on


def activation(c: int) -> nn.Sequential:
    """What the paper calls an activation: batch norm, then ReLU."""
    return stage(bn=nn.BatchNorm2d(c), relu=nn.ReLU())


def convs(c_in: int, rows: list[tuple[int, int, int]], *, active: bool) -> nn.Sequential:
    """F of a unit: for each (kernel, width, stride) batch norm, ReLU, convolution; `active` for the first."""
    parts: dict[str, nn.Module] = {}
    for i, (kernel, width, stride) in enumerate(rows, start=1):
        if i > 1 or active:
            parts[f"bn{i}"], parts[f"relu{i}"] = nn.BatchNorm2d(c_in), nn.ReLU()
        parts[f"conv{i}"] = nn.Conv2d(c_in, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        c_in = width
    return stage(**parts)


def unit(config: PreActConfig, c_in: int, width: int, stride: int, *, first: bool) -> tuple[nn.Module, int]:
    """shortcut(x) + F(x), and its number of maps. The first unit's input is activated already."""
    c_out = width if config.block == "basic" else 4 * width
    beside = shortcut(config.shortcut, c_in, c_out, stride=stride, norm=False)
    projects = config.shortcut == "B" and (stride > 1 or c_in != c_out)
    rows = [(3, width, stride), (3, width, 1)]
    if config.block == "bottleneck":
        rows = [(1, width, stride), (3, width, 1), (1, c_out, 1)]
    whole = Residual(convs(c_in, rows, active=not first and not projects), beside)
    return (stage(act=activation(c_in), unit=whole) if projects and not first else whole), c_out


def build(
    config: PreActConfig,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (224, 224),  # any; the published one
) -> nn.Sequential:
    """The network of a row: conv1, conv2_x and so on, the last activation, pool, fc."""
    c_in = config.widths[0]
    stages: dict[str, nn.Module] = {"conv1": stem(config.stem, in_channels, c_in)}  # activated
    for s, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True), start=2):
        units: dict[str, nn.Module] = {}
        if s == 2 and config.stem == "imagenet":
            units["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
        for u in range(1, depth + 1):
            stride = 2 if u == 1 and s > 2 else 1
            units[f"unit{u}"], c_in = unit(config, c_in, width, stride, first=s == 2 and u == 1)
        stages[f"conv{s}_x"] = stage(**units)
    stages["last"] = activation(c_in)
    stages["pool"] = stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    stages["fc"] = nn.Linear(c_in, num_classes)
    net = stage(**stages)
    he_normal(net)
    return net


for _name, _config in CONFIGS.items():
    _kind = "bottlenecks" if _config.block == "bottleneck" else "units of two 3x3"
    register(
        partial(build, _config, **PUBLISHED[_config.stem]),
        name=_name,
        source=SOURCE,
        summary=f"{_config.layers} layers of full pre-activation, {_kind}, shortcut {_config.shortcut}",
    )
