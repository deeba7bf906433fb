"""GoogLeNet: Szegedy et al. 2015, Table 1, and sums over it."""

from __future__ import annotations

from typing import NamedTuple

from tests.papers.facts import Layer, Network, conv, dense, pool
from tests.papers.sums import beside, chain, layer


class Printed(NamedTuple):
    """A row of Table 1 as printed: output, the six columns of maps, params in K (1024), ops in M."""

    side: int
    maps: int
    columns: tuple[int, int, int, int, int, int]
    params: int
    ops: int


# fmt: off
TABLE_1 = {
    #                   #1x1 3x3r  3x3 5x5r  5x5 proj  params  ops
    "3a": Printed(28,  256, ( 64,  96, 128,  16,  32,  32),  159, 128),
    "3b": Printed(28,  480, (128, 128, 192,  32,  96,  64),  380, 304),
    "4a": Printed(14,  512, (192,  96, 208,  16,  48,  64),  364,  73),
    "4b": Printed(14,  512, (160, 112, 224,  24,  64,  64),  437,  88),
    "4c": Printed(14,  512, (128, 128, 256,  24,  64,  64),  463, 100),
    "4d": Printed(14,  528, (112, 144, 288,  32,  64,  64),  580, 119),
    "4e": Printed(14,  832, (256, 160, 320,  32, 128, 128),  840, 170),
    "5a": Printed( 7,  832, (256, 160, 320,  32, 128, 128), 1072,  54),
    "5b": Printed( 7, 1024, (384, 192, 384,  48, 128, 128), 1388,  71),
}
# What the columns of maps give: weights without biases in K (1024), and multiply-adds in M.
COMPUTED = {
    "3a": (159.5, 128.0), "3b": (379.0, 304.3), "4a": (366.8,  73.6), "4b": (438.0,  87.9),
    "4c": (497.5,  99.9), "4d": (590.5, 118.5), "4e": (847.0, 170.0), "5a": (1018.0, 51.1),
    "5b": (1409.0, 70.7),
}
# fmt: on

OUTPUTS = [256, 480, 512, 512, 512, 528, 832, 832, 1024]
REDUCED_3A = (163_328, 128_049_152, 256)  # weights, multiply-adds, maps
NAIVE_3A = (387_072, 303_464_448, 416)
SEPARABLE_STEM = (2_712, 34_019_328)  # 7 7 3 8 + 24 64 weights; Table 1: 2.7K, 34M
AUXILIARY = (3_188_840, 3_190_888)  # parameters of the heads on 4a and 4d
INFERENCE = 6_998_552
TORCHVISION_INFERENCE = 6_624_904
RECEPTIVE_FIELD = 715  # of 5b, through the 5x5 branches
LAYERS, LAYERS_OF_THE_HEADS = 58, 6  # with weights: 3 + 9 x 6 + 1, and 3 in each head


def module(c_in: int, row: Printed, *, five: int = 5, norm: int = 0, bias: int = 1) -> tuple[int, int, int]:
    """Maps, parameters and multiply-adds of an inception module, from its six columns."""
    c1, r3, c3, r5, c5, proj = row.columns
    s = row.side
    return beside(
        chain(c_in, (1, 1, c1, s), norm=norm, bias=bias),
        chain(c_in, (1, 1, r3, s), (3, 3, c3, s), norm=norm, bias=bias),
        chain(c_in, (1, 1, r5, s), (five, five, c5, s), norm=norm, bias=bias),
        chain(c_in, (1, 1, proj, s), norm=norm, bias=bias),
    )


def head(c_in: int, *, norm: int = 0, bias: int = 1) -> Layer:
    """1x1 to 128 maps of 4x4, 1024 units, 1000 classes; it is not reached at inference."""
    convolution = c_in * 128 + (norm + bias) * 128
    return Layer((), convolution + dense(2048, 1024).parameters + dense(1024, 1000).parameters, 0)


def network(stem: Layer, *, five: int = 5, norm: int = 0, bias: int = 1) -> Network:
    """Every stage at 224x224 and 1000 classes."""
    conv2 = chain(64, (1, 1, 64, 56), (3, 3, 192, 56), norm=norm, bias=bias)
    stages = {"conv1": stem, "pool1": pool(64, 56, 56), "conv2": layer(conv2, 56), "pool2": pool(192, 28, 28)}
    c_in = 192
    for place, row in TABLE_1.items():
        maps, parameters, macs = module(c_in, row, five=five, norm=norm, bias=bias)
        stages[f"inception_{place}"] = Layer((maps, row.side, row.side), parameters, macs)
        c_in = maps
    stages |= {"pool3": pool(480, 14, 14), "pool4": pool(832, 7, 7)}
    stages |= {f"auxiliary_{place}": head(c, norm=norm, bias=bias) for place, c in (("4a", 512), ("4d", 528))}
    stages |= {"avg_pool": Layer((1024,), 0, 0), "dropout": Layer((1024,), 0, 0), "linear": dense(1024, 1000)}
    return Network(
        input_shape=(3, 224, 224),
        classes=1000,
        parameters=sum(each.parameters for each in stages.values()),
        macs=sum(each.macs for each in stages.values()),
        stages=stages,
        small=(48, 48),
    )


STANDARD_STEM = conv(3, 7, 64, 112, 112)
NETWORKS = {
    "googlenet": network(STANDARD_STEM)._replace(rate=3e-4, parameters=13_378_280, macs=1_582_671_872),
    "googlenet_separable_stem": network(
        Layer((64, 112, 112), SEPARABLE_STEM[0] + 64, SEPARABLE_STEM[1])
    )._replace(rate=3e-4, macs=1_498_677_248),
    "googlenet_torchvision": network(
        STANDARD_STEM._replace(parameters=9_408 + 2 * 64), five=3, norm=2, bias=0
    )._replace(parameters=13_004_888),
}
