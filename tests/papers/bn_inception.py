"""BN-Inception: Ioffe, Szegedy 2015, Figure 5, and sums over it."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, dense, pool
from tests.papers.sums import Sum, beside, chain, layer

# fmt: off
FIGURE_5 = {
    # side, #1x1, 3x3r, 3x3, dbl r, dbl, pool proj; side is that of the output
    "3a": (28,  64,  64,  64,  64,  96,  32),
    "3b": (28,  64,  64,  96,  64,  96,  64),
    "3c": (14,   0, 128, 160,  64,  96,   0),
    "4a": (14, 224,  64,  96,  96, 128, 128),
    "4b": (14, 192,  96, 128,  96, 128, 128),
    "4c": (14, 160, 128, 160, 128, 160,  96),  # 128 is printed
    "4d": (14,  96, 128, 192, 160, 192,  96),  # 128 is printed
    "4e": ( 7,   0, 128, 192, 192, 256,   0),
    "5a": ( 7, 352, 192, 320, 160, 224, 128),
    "5b": ( 7, 352, 192, 320, 192, 224, 128),
}
# fmt: on
OUTPUTS = [256, 320, 576, 576, 576, 576, 576, 1024, 1024, 1024]  # printed


def module(c_in: int, side: int, c1: int, r3: int, c3: int, rd: int, cd: int, proj: int) -> Sum:
    if c1:
        return beside(
            chain(c_in, (1, 1, c1, side)),
            chain(c_in, (1, 1, r3, side), (3, 3, c3, side)),
            chain(c_in, (1, 1, rd, side), (3, 3, cd, side), (3, 3, cd, side)),
            chain(c_in, (1, 1, proj, side)),
        )
    before = 2 * side  # stride 2 in the last convolution of each branch
    return beside(
        chain(c_in, (1, 1, r3, before), (3, 3, c3, side)),
        chain(c_in, (1, 1, rd, before), (3, 3, cd, before), (3, 3, cd, side)),
        Sum(c_in, 0, 0),  # pass through
    )


def network() -> Network:
    separable = 7 * 7 * 3 * 8 + 24 * 64  # depth multiplier 8
    conv2 = chain(64, (1, 1, 64, 56), (3, 3, 192, 56))
    stages = {
        "conv1": Layer((64, 112, 112), separable + 2 * 64, separable * 112 * 112),
        "pool1": pool(64, 56, 56),
        "conv2": layer(conv2, 56),
        "pool2": pool(192, 28, 28),
    }
    c_in = 192
    for place, (side, *columns) in FIGURE_5.items():
        total = module(c_in, side, *columns)
        stages[f"inception_{place}"] = layer(total, side)
        c_in = total.maps
    stages |= {"avg_pool": Layer((1024,), 0, 0), "linear": dense(1024, 1000)}
    return Network(
        input_shape=(3, 224, 224),
        classes=1000,
        parameters=11_188_288,
        macs=sum(each.macs for each in stages.values()),
        stages=stages,
        small=(32, 32),
    )


NETWORKS = {"bn_inception": network()}
