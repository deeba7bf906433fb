"""BN-Inception, also called Inception-v2: S. Ioffe, C. Szegedy, "Batch normalization", ICML 2015, Figure 5.

GoogLeNet with batch norm before every ReLU, and each 5x5 convolution replaced by two of 3x3; three modules
on 28x28 maps, means for maxima in most pooling branches, and no pooling between modules: 3c and 4e have
stride 2 inside. The first convolution is separable with depth multiplier 8 (appendix). No local response
normalisation, no dropout and no auxiliary heads (sections 4.2 and 4.2.1). Initial weights are not in the
paper; here they are those of He et al. 2015.

11,188,288 parameters at 1000 classes. The 13.6 M of section 4.2 do not follow from Figure 5.

Deviations of `bn_inception`:
- Figure 5 prints 128 maps for the pooling branches of 4c and 4d, which makes 608 output maps, and 576 as
  their output. Here it is 96, which makes 576, as in the authors' later code.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from convworks.layers import SeparableConv2d, stage
from convworks.models.branches import EPSILON, Module, build_module, conv_bn, windows
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise
from convworks.models.registry import register


class Row(NamedTuple):
    """One module of Figure 5: numbers of maps; the pooling branch as printed."""

    c1: int
    r3: int
    c3: int
    rd: int
    cd: int
    pool: str

    @property
    def branches(self) -> Module:
        """Branches in the order of the columns."""
        if self.pool == "max + pass through":  # stride 2, and no 1x1 branch
            return (
                f"1x1 {self.r3} > 3x3/2 {self.c3}",
                f"1x1 {self.rd} > 3x3 {self.cd} > 3x3/2 {self.cd}",
                "max/2",
            )
        pool, maps = self.pool.split(" + ")
        return (
            f"1x1 {self.c1}",
            f"1x1 {self.r3} > 3x3 {self.c3}",
            f"1x1 {self.rd} > 3x3 {self.cd} > 3x3 {self.cd}",
            f"{pool} > 1x1 {maps}",
        )


# fmt: off
FIGURE_5 = {
    #  type   #1x1  #3x3  #3x3  dbl.   dbl.  Pool + proj
    #               red.        red.  #3x3                            output size
    "3a": Row(  64,   64,   64,   64,   96,  "avg + 32"),           # 28x28x256
    "3b": Row(  64,   64,   96,   64,   96,  "avg + 64"),           # 28x28x320
    "3c": Row(   0,  128,  160,   64,   96,  "max + pass through"), # 14x14x576
    "4a": Row( 224,   64,   96,   96,  128,  "avg + 128"),          # 14x14x576
    "4b": Row( 192,   96,  128,   96,  128,  "avg + 128"),          # 14x14x576
    "4c": Row( 160,  128,  160,  128,  160,  "avg + 96"),           # 14x14x576, Deviation: 128 is printed
    "4d": Row(  96,  128,  192,  160,  192,  "avg + 96"),           # 14x14x576, Deviation: 128 is printed
    "4e": Row(   0,  128,  192,  192,  256,  "max + pass through"), # 7x7x1024
    "5a": Row( 352,  192,  320,  160,  224,  "avg + 128"),          # 7x7x1024
    "5b": Row( 352,  192,  320,  192,  224,  "max + 128"),          # 7x7x1024
}
# fmt: on
STEM = [
    Window("conv1", 7, 2, 3),
    Window("pool1", 3, 2, ceil=True),
    Window("pool2", 3, 2, ceil=True),
]


def bn_inception(
    *, num_classes: int = 1000, in_channels: int = 3, input_size: tuple[int, int] = (224, 224)
) -> nn.Sequential:
    """Figure 5, for images of 11x11 and more. Raises U122 for smaller ones."""
    modules = {f"inception_{place}": row.branches for place, row in FIGURE_5.items()}
    final_size("bn_inception", input_size, [*STEM, *windows(modules.items())], published=224)
    stages: dict[str, nn.Module] = {
        "conv1": stage(  # (N, 64, 112, 112)
            conv=SeparableConv2d(in_channels, 64, 7, depth_multiplier=8, stride=2, padding=3, bias=False),
            bn=nn.BatchNorm2d(64, eps=EPSILON),
            relu=nn.ReLU(),
        ),
        "pool1": nn.MaxPool2d(3, stride=2, ceil_mode=True),  # (N, 64, 56, 56)
        "conv2": stage(reduce=conv_bn(64, 64, 1), conv=conv_bn(64, 192, 3)),  # (N, 192, 56, 56)
        "pool2": nn.MaxPool2d(3, stride=2, ceil_mode=True),  # (N, 192, 28, 28)
    }
    c_in = 192
    for name, branches in modules.items():
        stages[name], c_in = build_module(c_in, branches)
    stages["avg_pool"] = stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())  # 7x7/1: (N, 1024)
    stages["linear"] = nn.Linear(c_in, num_classes)
    net = stage(**stages)
    initialise(net, nn.init.kaiming_normal_)
    return net


register(
    bn_inception,
    source="Ioffe, Szegedy 2015, Batch normalization, Figure 5",
    summary="Inception-v2: GoogLeNet with batch norm, two 3x3 convolutions for each 5x5",
    deviations=(
        "96 maps in the pooling branches of 4c and 4d, where 128 is printed beside an output of 576",
    ),
)
