"""He, Zhang, Ren, Sun 2015: counts of the residual networks and their plain twins, from Table 1.

Sums and products of the table's numbers; nothing here calls the code under test.
"""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, dense, pool


def total(*layers: Layer) -> Layer:
    """Layers in a row: the output of the last, and the sums."""
    return Layer(
        layers[-1].output, sum(each.parameters for each in layers), sum(each.macs for each in layers)
    )


def conv_bn(c_in: int, k: int, c_out: int, side: int) -> Layer:
    """A convolution without biases, and the two numbers of batch norm for each map."""
    layer = conv(c_in, k, c_out, side, side, bias=False)
    return layer._replace(parameters=layer.parameters + 2 * c_out)


def basic(c_in: int, width: int, side: int) -> Layer:
    """3x3, 3x3; `side` is that of the output."""
    return total(conv_bn(c_in, 3, width, side), conv_bn(width, 3, width, side))


def bottleneck(c_in: int, width: int, side: int, *, first_side: int) -> Layer:
    """1x1, 3x3, 1x1; `first_side` is that of the first 1x1, twice as large with the stride in the 3x3."""
    return total(
        conv_bn(c_in, 1, width, first_side),
        conv_bn(width, 3, width, side),
        conv_bn(width, 1, 4 * width, side),
    )


def stage_of(
    kind: str, blocks: int, c_in: int, width: int, side: int, *, option: str, stride: int, late: bool = False
) -> Layer:
    """conv2_x to conv5_x: one block that changes the shape and `blocks` - 1 that do not."""
    if kind == "basic":
        c_out = width
        first, other = basic(c_in, width, side), basic(c_out, width, side)
    else:
        c_out = 4 * width
        first = bottleneck(c_in, width, side, first_side=side * stride if late else side)
        other = bottleneck(c_out, width, side, first_side=side)
    changes = stride > 1 or c_in != c_out
    project = (option == "B" and changes) + (option == "C")  # projections in the first block
    projections = [conv_bn(c_in, 1, c_out, side)] * project
    projections += [conv_bn(c_out, 1, c_out, side)] * ((blocks - 1) * (option == "C"))
    return total(*projections, first, *[other] * (blocks - 1))


def imagenet(kind: str, depths: tuple[int, ...], *, option: str, late: bool = False) -> Network:
    """Table 1; 3x224x224 and 1000 classes."""
    e = 1 if kind == "basic" else 4
    of = {"option": option, "late": late}
    stages = {
        "conv1": conv_bn(3, 7, 64, 112),
        "conv2_x": stage_of(kind, depths[0], 64, 64, 56, stride=1, **of),
        "conv3_x": stage_of(kind, depths[1], 64 * e, 128, 28, stride=2, **of),
        "conv4_x": stage_of(kind, depths[2], 128 * e, 256, 14, stride=2, **of),
        "conv5_x": stage_of(kind, depths[3], 256 * e, 512, 7, stride=2, **of),
        "pool": Layer((512 * e,), 0, 0),
        "fc": dense(512 * e, 1000),
    }
    return network(stages, (3, 224, 224), classes=1000, small=(32, 32))


def cifar(n: int, *, option: str = "A") -> Network:
    """Section 4.2: 3x32x32, ten classes, 2n layers at each of 32x32, 16x16 and 8x8."""
    stages = {
        "conv1": conv_bn(3, 3, 16, 32),
        "conv2_x": stage_of("basic", n, 16, 16, 32, option=option, stride=1),
        "conv3_x": stage_of("basic", n, 16, 32, 16, option=option, stride=2),
        "conv4_x": stage_of("basic", n, 32, 64, 8, option=option, stride=2),
        "pool": pool(64, 1, 1)._replace(output=(64,)),
        "fc": dense(64, 10),
    }
    return network(stages, (3, 32, 32), classes=10, small=(16, 16))


def network(
    stages: dict[str, Layer], shape: tuple[int, int, int], *, classes: int, small: tuple[int, int]
) -> Network:
    parameters = sum(each.parameters for each in stages.values())
    macs = sum(each.macs for each in stages.values())
    return Network(shape, parameters, stages, classes=classes, macs=macs, small=small)


R18, R34, R50 = ("basic", (2, 2, 2, 2)), ("basic", (3, 4, 6, 3)), ("bottleneck", (3, 4, 6, 3))
R101, R152 = ("bottleneck", (3, 4, 23, 3)), ("bottleneck", (3, 8, 36, 3))

NETWORKS = {
    "resnet18": imagenet(*R18, option="B"),
    "resnet34": imagenet(*R34, option="B"),
    "resnet50": imagenet(*R50, option="B"),
    "resnet101": imagenet(*R101, option="B"),
    "resnet152": imagenet(*R152, option="B"),
    "resnet18_a": imagenet(*R18, option="A"),
    "resnet34_a": imagenet(*R34, option="A"),
    "resnet34_c": imagenet(*R34, option="C"),
    "plain18": imagenet(*R18, option=""),
    "plain34": imagenet(*R34, option=""),
    "resnet50_v1_5": imagenet(*R50, option="B", late=True),
    "resnet101_v1_5": imagenet(*R101, option="B", late=True),
    "resnet152_v1_5": imagenet(*R152, option="B", late=True),
}
NETWORKS |= {f"resnet{6 * n + 2}_cifar": cifar(n) for n in (3, 5, 7, 9, 18, 200)}
NETWORKS |= {f"plain{6 * n + 2}_cifar": cifar(n, option="") for n in (3, 5, 7, 9)}
# Deep plain networks learn on larger maps only.
NETWORKS["plain34"] = NETWORKS["plain34"]._replace(small=(64, 64))
NETWORKS |= {name: NETWORKS[name]._replace(small=(32, 32)) for name in ("plain44_cifar", "plain56_cifar")}
# Too deep to train in a test: their pieces are those of resnet34, resnet50 and resnet110_cifar.
DEEP = ("resnet34_c", "resnet101", "resnet152", "resnet1202_cifar")
DEEP += ("resnet50_v1_5", "resnet101_v1_5", "resnet152_v1_5")
NETWORKS |= {name: NETWORKS[name]._replace(only_counted=True) for name in DEEP}

LAYERS = {name: int("".join(c for c in name.split("_")[0] if c.isdigit())) for name in NETWORKS}

# Known counts, 1000 and 10 classes.
PARAMETERS = {
    "resnet18_a": 11_515_688,
    "resnet18": 11_689_512,
    "resnet34_a": 21_623_848,
    "resnet34": 21_797_672,
    "resnet34_c": 22_716_840,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet20_cifar": 269_722,
    "resnet32_cifar": 464_154,
    "resnet44_cifar": 658_586,
    "resnet56_cifar": 853_018,
    "resnet110_cifar": 1_727_962,
    "resnet1202_cifar": 19_421_274,
}
# Options without a name: shortcut, depth, parameters.
OPTION_C_18, OPTION_A_50, OPTION_C_50 = 12_043_816, 22_780_456, 40_128_552
# "FLOPs" of Table 1 are multiply-adds: 1.8, 3.6, 3.8, 7.6 and 11.3 x 10^9, of which 3.6 and 3.8 are cut off,
# not rounded. In 10^9:
GIGA_MACS = {
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 3.858,
    "resnet101": 7.570,
    "resnet152": 11.282,
    "resnet50_v1_5": 4.089,
    "resnet101_v1_5": 7.801,
    "resnet152_v1_5": 11.514,
}
PRINTED_GIGA_FLOPS = {"resnet18": 1.8, "resnet34": 3.6, "resnet50": 3.8, "resnet101": 7.6, "resnet152": 11.3}
# Table 6, in millions.
PRINTED_MILLIONS = {
    "resnet20_cifar": 0.27,
    "resnet32_cifar": 0.46,
    "resnet44_cifar": 0.66,
    "resnet56_cifar": 0.85,
    "resnet110_cifar": 1.7,
    "resnet1202_cifar": 19.4,
}

# Of a unit of conv5_x; the first three are printed by Araujo, Norris, Sim 2019.
RECEPTIVE_FIELDS = {
    "resnet50": 483,
    "resnet101": 1027,
    "resnet152": 1507,
    "resnet50_v1_5": 427,
    "resnet101_v1_5": 971,
    "resnet152_v1_5": 1451,
}
