"""Inception-ResNet-v1 and -v2: C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi, "Inception-v4, Inception-ResNet
and the impact of residual connections on learning", AAAI 2017 (figures as numbered in arXiv:1602.07261).

A block adds to its input what its branches give, joined, brought to as many maps by a 1x1 convolution without
batch norm or ReLU, and scaled (section 3.3: "between 0.1 and 0.3"; the numbers here are those of the authors'
code); ReLU follows. `residual_scale` sets one factor for all blocks, and 1 is no scaling. Initial weights are
not in the paper; here they are those of He et al. 2015.

`inception_resnet_v1` is Figures 7 and 10 to 15. `inception_resnet_v2` is the network of the authors' code and
of all published weights, 55,843,464 parameters at 1000 classes. `inception_resnet_v2_as_printed` is that of
the paper's figures, which has no published weights.

Deviations of `inception_resnet_v1`: none.

Deviations of `inception_resnet_v2`:
- the stem is that of Inception-v3 with a module of four branches, 320 maps (Figure 3: 384);
- 10, 20 and 10 blocks (Figure 15: 5, 10 and 5), of which the last has factor 1 and no ReLU;
- blocks have 320, 1088 and 2080 maps, which follow from the stem (figures: 384, 1152 and 2144);
- a 1x1 convolution to 1536 maps before the mean.

Deviations of `inception_resnet_v2_as_printed`: 1152 and 2144 maps in blocks B and C, where Figures 17 and 19
print 1154 and 2048, which cannot be added to their inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from convworks.layers import stage
from convworks.layers.residual import Residual
from convworks.models.branches import Module, build_module, conv_bn, windows
from convworks.models.fit import final_size
from convworks.models.inception_v4 import STEM as STEM_V4
from convworks.models.inception_v4 import build_stem
from convworks.models.initial import initialise
from convworks.models.registry import bad_option, register

STEM_V3: list[tuple[str, Module]] = [  # at 299x299:
    ("conv2d_1a", "3x3/2 32 V"),  # (N, 32, 149, 149)
    ("conv2d_2a", "3x3 32 V"),  # (N, 32, 147, 147)
    ("conv2d_2b", "3x3 64"),  # (N, 64, 147, 147)
    ("maxpool_3a", "max/2 V"),  # (N, 64, 73, 73)
    ("conv2d_3b", "1x1 80"),  # (N, 80, 73, 73)
    ("conv2d_4a", "3x3 192 V"),  # (N, 192, 71, 71)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class InceptionResNetConfig:
    """One network: its stem, then blocks A, a reduction, blocks B, a reduction, blocks C (Figure 15)."""

    stem: list[tuple[str, Module]]
    a: Module
    reduction_a: Module
    b: Module
    reduction_b: Module
    c: Module
    blocks: tuple[int, int, int]
    bare_last: bool = False  # the last block C without ReLU and scaling
    last_maps: int = 0  # of a 1x1 convolution before the mean
    scales: tuple[float, float, float] = (0.17, 0.10, 0.20)


V2_A: Module = ("1x1 32", "1x1 32 > 3x3 32", "1x1 32 > 3x3 48 > 3x3 64")  # Figure 16
V2_B: Module = ("1x1 192", "1x1 128 > 1x7 160 > 7x1 192")  # Figure 17
V2_C: Module = ("1x1 192", "1x1 192 > 1x3 224 > 3x1 256")  # Figure 19
V2_REDUCTION_A: Module = ("3x3/2 384 V", "1x1 256 > 3x3 256 > 3x3/2 384 V", "max/2 V")  # Figure 7, Table 1
V2_REDUCTION_B: Module = (  # Figure 18
    "1x1 256 > 3x3/2 384 V",
    "1x1 256 > 3x3/2 288 V",
    "1x1 256 > 3x3 288 > 3x3/2 320 V",
    "max/2 V",
)
MIXED_5B: Module = ("1x1 96", "1x1 48 > 5x5 64", "1x1 64 > 3x3 96 > 3x3 96", "avg > 1x1 64")

CONFIGS = {
    "inception_resnet_v1": InceptionResNetConfig(
        stem=[*STEM_V3, ("conv2d_4b", "3x3/2 256 V")],  # Figure 14: (N, 256, 35, 35)
        a=("1x1 32", "1x1 32 > 3x3 32", "1x1 32 > 3x3 32 > 3x3 32"),  # Figure 10
        reduction_a=("3x3/2 384 V", "1x1 192 > 3x3 192 > 3x3/2 256 V", "max/2 V"),  # (N, 896, 17, 17)
        b=("1x1 128", "1x1 128 > 1x7 128 > 7x1 128"),  # Figure 11
        reduction_b=(  # Figure 12: (N, 1792, 8, 8)
            "1x1 256 > 3x3/2 384 V",
            "1x1 256 > 3x3/2 256 V",
            "1x1 256 > 3x3 256 > 3x3/2 256 V",
            "max/2 V",
        ),
        c=("1x1 192", "1x1 192 > 1x3 192 > 3x1 192"),  # Figure 13
        blocks=(5, 10, 5),
    ),
    "inception_resnet_v2": InceptionResNetConfig(  # Deviation: see above
        stem=[*STEM_V3, ("maxpool_5a", "max/2 V"), ("mixed_5b", MIXED_5B)],  # (N, 320, 35, 35)
        a=V2_A,
        reduction_a=V2_REDUCTION_A,  # (N, 1088, 17, 17)
        b=V2_B,
        reduction_b=V2_REDUCTION_B,  # (N, 2080, 8, 8)
        c=V2_C,
        blocks=(10, 20, 10),
        bare_last=True,
        last_maps=1536,
    ),
    "inception_resnet_v2_as_printed": InceptionResNetConfig(
        stem=STEM_V4,  # Figure 3: (N, 384, 35, 35)
        a=V2_A,
        reduction_a=V2_REDUCTION_A,  # (N, 1152, 17, 17)
        b=V2_B,
        reduction_b=V2_REDUCTION_B,  # (N, 2144, 8, 8)
        c=V2_C,
        blocks=(5, 10, 5),
    ),
}


class Scale(nn.Module):
    """factor * x, section 3.3."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


def residual_block(maps: int, module: Module, *, scale: float, relu: bool = True) -> Residual:
    """x + scale * (1x1 convolution of the branches), then ReLU; the shape stays (Figure 20)."""
    branches, joined = build_module(maps, module)
    up = nn.Conv2d(joined, maps, 1)  # linear, with a bias
    return Residual(
        stage(branches=branches, up=up, scale=Scale(scale)),
        nn.Identity(),
        activation=nn.ReLU() if relu else None,
    )


def blocks(maps: int, module: Module, *, count: int, scale: float, bare_last: bool = False) -> nn.Sequential:
    """`count` residual blocks; with `bare_last` the last has neither scaling nor ReLU."""
    made: dict[str, nn.Module] = {}
    for number in range(1, count + 1):
        bare = bare_last and number == count
        made[f"block{number}"] = residual_block(maps, module, scale=1.0 if bare else scale, relu=not bare)
    return stage(**made)


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (299, 299),
    residual_scale: float | None = None,
) -> nn.Sequential:
    """A row of `CONFIGS`, for images of 75x75 and more.

    Raises U122 for smaller ones, and U123 for a scale that is not above 0.
    """
    form = CONFIGS[name]
    if residual_scale is not None and not residual_scale > 0:
        raise bad_option(name, "residual_scale", residual_scale, allowed=("0.1", "0.3", "1", "above 0"))
    reductions = [("reduction_a", form.reduction_a), ("reduction_b", form.reduction_b)]
    final_size(name, input_size, windows([*form.stem, *reductions]), published=299)
    scale_a, scale_b, scale_c = form.scales if residual_scale is None else (residual_scale,) * 3
    count_a, count_b, count_c = form.blocks
    stages: dict[str, nn.Module] = {}
    stages["stem"], maps = build_stem(in_channels, form.stem)
    stages["inception_resnet_a"] = blocks(maps, form.a, count=count_a, scale=scale_a)
    stages["reduction_a"], maps = build_module(maps, form.reduction_a)
    stages["inception_resnet_b"] = blocks(maps, form.b, count=count_b, scale=scale_b)
    stages["reduction_b"], maps = build_module(maps, form.reduction_b)
    stages["inception_resnet_c"] = blocks(
        maps, form.c, count=count_c, scale=scale_c, bare_last=form.bare_last
    )
    if form.last_maps:
        stages["conv2d_7b"], maps = conv_bn(maps, form.last_maps, 1), form.last_maps
    stages["avg_pool"] = stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    stages["dropout"] = nn.Dropout(0.2)  # "keep 0.8"
    stages["linear"] = nn.Linear(maps, num_classes)
    net = stage(**stages)
    initialise(net, nn.init.kaiming_normal_)
    return net


DEVIATIONS = {
    "inception_resnet_v1": (),
    "inception_resnet_v2": (
        "the network of the authors' code: stem of Inception-v3, 320 maps",
        "10, 20 and 10 blocks of 320, 1088 and 2080 maps; the last without factor and ReLU",
        "a 1x1 convolution to 1536 maps before the mean",
    ),
    "inception_resnet_v2_as_printed": (
        "1152 and 2144 maps in blocks B and C, where 1154 and 2048 are printed",
    ),
}
SUMMARIES = {
    "inception_resnet_v1": "inception modules as residual blocks, about the cost of Inception-v3",
    "inception_resnet_v2": "inception modules as residual blocks, wider: the authors' code",
    "inception_resnet_v2_as_printed": "inception modules as residual blocks, wider: the paper's figures",
}
for _name in CONFIGS:
    register(
        partial(build, _name),
        name=_name,
        source="Szegedy, Ioffe, Vanhoucke, Alemi 2017, Inception-ResNet, Figure 15",
        summary=SUMMARIES[_name],
        deviations=DEVIATIONS[_name],
    )
