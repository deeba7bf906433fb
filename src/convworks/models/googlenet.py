"""GoogLeNet: C. Szegedy et al., "Going deeper with convolutions", CVPR 2015, Table 1 and Figure 3.

`googlenet` has the 7x7 convolution that Table 1 names as its first layer: 6,998,552 parameters without and
13,378,280 with the two auxiliary classifiers of section 5, and 1.583 G multiply-adds. Table 1 gives 2.7 K
weights and 34 M operations for that layer, which no 7x7 convolution has. `googlenet_separable_stem` has a
separable one with depth multiplier 8, as later code of the authors does: 2,712 weights and 34,019,328
multiply-adds, 1.499 G in all, the paper's 1.5 G.

Not in the paper, and chosen here: the initial weights (He et al. 2015, so that a signal passes 22 layers
without batch norm) and the constants of local response normalisation (AlexNet's). In images smaller than the
paper's the 5x5 mean of an auxiliary classifier shrinks to the maps that it finds, and its linear layer fits.

Deviations of `googlenet` and `googlenet_separable_stem`: none.

Deviations of `googlenet_torchvision`, the form of torchvision's weights:
- batch norm with eps 0.001 after each convolution, which has no bias then; no local response normalisation;
- the branch called 5x5 has 3x3 kernels;
- pool4 is 2x2 with stride 2, and dropout before the linear layer is 20 %;
- an auxiliary classifier takes the adaptive mean to 4x4, and its 1x1 convolution has batch norm;
- torch's own initial weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import nn

from convworks.layers import SeparableConv2d, stage
from convworks.layers.normalization import LocalResponseNorm
from convworks.models.branches import AuxiliaryHead, Branches, Headed, conv_bn
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise
from convworks.models.registry import register

SOURCE = "Szegedy et al. 2015, Going deeper with convolutions"
DISCOUNT = 0.3  # of the auxiliary losses, section 5


class Row(NamedTuple):
    """One inception module of Table 1: numbers of maps."""

    c1: int
    r3: int
    c3: int
    r5: int
    c5: int
    proj: int

    @property
    def out(self) -> int:
        return self.c1 + self.c3 + self.c5 + self.proj


# fmt: off
TABLE_1 = {
    #  type   #1x1  #3x3  #3x3  #5x5  #5x5  pool
    #               red.        red.        proj      output size
    "3a": Row(  64,   96,  128,   16,   32,   32),  # 28x28x256
    "3b": Row( 128,  128,  192,   32,   96,   64),  # 28x28x480, then max pool
    "4a": Row( 192,   96,  208,   16,   48,   64),  # 14x14x512, softmax0
    "4b": Row( 160,  112,  224,   24,   64,   64),  # 14x14x512
    "4c": Row( 128,  128,  256,   24,   64,   64),  # 14x14x512
    "4d": Row( 112,  144,  288,   32,   64,   64),  # 14x14x528, softmax1
    "4e": Row( 256,  160,  320,   32,  128,  128),  # 14x14x832, then max pool
    "5a": Row( 256,  160,  320,   32,  128,  128),  # 7x7x832
    "5b": Row( 384,  192,  384,   48,  128,  128),  # 7x7x1024
}
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogLeNetConfig:
    """One network of the family; what is not given is the paper's."""

    separable_stem: bool = False
    batch_norm: bool = False  # for local response normalisation and biases
    kernel_5x5: int = 5
    pool4: int = 3
    adaptive_head: bool = False
    dropout: float = 0.4


CONFIGS = {
    "googlenet": GoogLeNetConfig(),
    "googlenet_separable_stem": GoogLeNetConfig(separable_stem=True),
    "googlenet_torchvision": GoogLeNetConfig(  # Deviation: see above
        batch_norm=True, kernel_5x5=3, pool4=2, adaptive_head=True, dropout=0.2
    ),
}


def conv(c_in: int, c_out: int, kernel: int, *, stride: int = 1, batch_norm: bool = False) -> nn.Sequential:
    """A convolution that keeps the size, and ReLU: "including those inside the modules" (section 5)."""
    if batch_norm:
        return conv_bn(c_in, c_out, kernel, stride=stride)
    return stage(conv=nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2), relu=nn.ReLU())


def inception(c_in: int, row: Row, form: GoogLeNetConfig = CONFIGS["googlenet"]) -> Branches:
    """Figure 2(b): 1x1 convolutions reduce before 3x3 and 5x5. (N, c_in, H, W) -> (N, row.out, H, W).

    Module 3a has 163,328 weights and 128.05 M multiply-adds on maps of 28x28.
    """
    norm = form.batch_norm
    return Branches(
        branch_1x1=conv(c_in, row.c1, 1, batch_norm=norm),
        branch_3x3=stage(
            reduce=conv(c_in, row.r3, 1, batch_norm=norm), conv=conv(row.r3, row.c3, 3, batch_norm=norm)
        ),
        branch_5x5=stage(
            reduce=conv(c_in, row.r5, 1, batch_norm=norm),
            conv=conv(row.r5, row.c5, form.kernel_5x5, batch_norm=norm),
        ),
        branch_pool=stage(
            pool=nn.MaxPool2d(3, stride=1, padding=1), project=conv(c_in, row.proj, 1, batch_norm=norm)
        ),
    )


def naive_inception(c_in: int, row: Row) -> Branches:
    """Figure 2(a), without reductions; the pooling passes all of its maps through.

    (N, c_in, H, W) -> (N, c1 + c3 + c5 + c_in, H, W). In the place of 3a it has 387,072 weights, 303.5 M
    multiply-adds and 416 maps, 2.37 times the cost of `inception`; it is in no network of the paper.
    """
    return Branches(
        branch_1x1=conv(c_in, row.c1, 1),
        branch_3x3=conv(c_in, row.c3, 3),
        branch_5x5=conv(c_in, row.c5, 5),
        branch_pool=nn.MaxPool2d(3, stride=1, padding=1),
    )


def auxiliary_head(
    c_in: int, cells: tuple[int, int], num_classes: int, form: GoogLeNetConfig
) -> AuxiliaryHead:
    """Section 5: 5x5/3 mean, 1x1 convolution to 128 maps, 1024 units, 70 % dropout, linear."""
    height, width = (min(5, side) for side in cells)
    pool: nn.Module = nn.AvgPool2d((height, width), stride=3)  # (N, c_in, 4, 4)
    left = (cells[0] - height) // 3 + 1, (cells[1] - width) // 3 + 1
    if form.adaptive_head:
        pool, left = nn.AdaptiveAvgPool2d(4), (4, 4)
    return AuxiliaryHead(
        pool=pool,
        conv=conv(c_in, 128, 1, batch_norm=form.batch_norm),
        flatten=nn.Flatten(),
        fc=nn.Linear(128 * left[0] * left[1], 1024),
        relu=nn.ReLU(),
        dropout=nn.Dropout(0.7),
        linear=nn.Linear(1024, num_classes),
    )


def build_stem(in_channels: int, form: GoogLeNetConfig) -> dict[str, nn.Module]:
    """Up to inception 3a. Normalisation stands where Figure 3 has it: after pool1, before pool2."""
    norm = form.batch_norm
    first = conv(in_channels, 64, 7, stride=2, batch_norm=norm)
    if form.separable_stem:
        separable = SeparableConv2d(in_channels, 64, 7, depth_multiplier=8, stride=2, padding=3)
        nn.init.kaiming_normal_(separable.depthwise.weight, nonlinearity="linear")  # no ReLU between
        nn.init.kaiming_normal_(separable.pointwise.weight)
        first = stage(conv=separable, relu=nn.ReLU())
    return {
        "conv1": first,  # (N, 64, 112, 112)
        "pool1": stage(  # (N, 64, 56, 56)
            pool=nn.MaxPool2d(3, stride=2, ceil_mode=True),
            **({} if norm else {"norm": LocalResponseNorm()}),
        ),
        "conv2": stage(  # (N, 192, 56, 56)
            reduce=conv(64, 64, 1, batch_norm=norm),
            conv=conv(64, 192, 3, batch_norm=norm),
            **({} if norm else {"norm": LocalResponseNorm()}),
        ),
        "pool2": nn.MaxPool2d(3, stride=2, ceil_mode=True),  # (N, 192, 28, 28)
    }


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (224, 224),
    auxiliary: bool = True,
) -> Headed:
    """A row of `CONFIGS`, for images of 47x47 and more; `auxiliary=False` leaves the two heads out.

    Raises U122 for smaller images.
    """
    form = CONFIGS[name]
    windows = [
        Window("conv1", 7, 2, 3),
        Window("pool1", 3, 2, ceil=True),
        Window("pool2", 3, 2, ceil=True),
        Window("pool3", 3, 2, ceil=True),
        Window("pool4", form.pool4, 2, ceil=True),
    ]
    final_size(name, input_size, windows, published=224)
    stages, c_in = build_stem(in_channels, form), 192
    for place, row in TABLE_1.items():
        stages[f"inception_{place}"] = inception(c_in, row, form)
        c_in = row.out
        if auxiliary and place in ("4a", "4d"):
            cells = final_size(name, input_size, windows[:-1], published=224)  # 14x14
            stages[f"auxiliary_{place}"] = auxiliary_head(c_in, cells, num_classes, form)
        if place == "3b":
            stages["pool3"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)  # (N, 480, 14, 14)
        if place == "4e":
            stages["pool4"] = nn.MaxPool2d(form.pool4, stride=2, ceil_mode=True)  # (N, 832, 7, 7)
    stages["avg_pool"] = stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())  # 7x7/1: (N, 1024)
    stages["dropout"] = nn.Dropout(form.dropout)
    stages["linear"] = nn.Linear(c_in, num_classes)
    net = Headed(stages, discount=DISCOUNT)
    if not form.batch_norm:
        initialise(net, nn.init.kaiming_normal_)  # variance 2 / fan-in, biases 0
    return net


SUMMARIES = {
    "googlenet": "22 layers, nine inception modules, two auxiliary heads; 7x7 convolution first",
    "googlenet_separable_stem": "as googlenet, with the separable first layer that Table 1's numbers mean",
    "googlenet_torchvision": "as torchvision ships it: batch norm, 3x3 kernels in the 5x5 branch",
}
TORCHVISION = (
    "batch norm (eps 0.001) for local response normalisation and biases",
    "3x3 kernels in the 5x5 branch",
    "pool4 is 2x2; dropout before the linear layer is 20 %",
    "auxiliary heads take the adaptive mean to 4x4",
    "torch's own initial weights",
)
for _name in CONFIGS:
    register(
        partial(build, _name),
        name=_name,
        source=SOURCE + ", Table 1",
        summary=SUMMARIES[_name],
        deviations=TORCHVISION if _name == "googlenet_torchvision" else (),
    )
