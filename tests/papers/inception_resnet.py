"""Inception-ResNet-v1 and -v2: Szegedy et al. 2017, Figures 10 to 19, with sums over them."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, dense
from tests.papers.inception_v4 import stem as stem_of_v4
from tests.papers.sums import Sum, beside, chain, layer, then

FIRST = chain(3, (3, 3, 32, 149), (3, 3, 32, 147), (3, 3, 64, 147))  # then a maximum: 73x73
STEM_V1 = then(FIRST, chain(64, (1, 1, 80, 73), (3, 3, 192, 71), (3, 3, 256, 35)))
STEM_V2 = then(  # the authors' code: a maximum to 35x35, then four branches
    FIRST,
    chain(64, (1, 1, 80, 73), (3, 3, 192, 71)),
    beside(
        chain(192, (1, 1, 96, 35)),
        chain(192, (1, 1, 48, 35), (5, 5, 64, 35)),
        chain(192, (1, 1, 64, 35), (3, 3, 96, 35), (3, 3, 96, 35)),
        chain(192, (1, 1, 64, 35)),
    ),
)


def residual(maps: int, side: int, count: int, *branches: list[tuple[int, int, int]]) -> Layer:
    """`count` blocks: branches of (height, width, maps), joined, then 1x1 with a bias and no batch norm."""
    joined = beside(*(chain(maps, *((h, w, c, side) for h, w, c in convs)) for convs in branches))
    up = joined.maps * maps
    return Layer(
        (maps, side, side), count * (joined.parameters + up + maps), count * (joined.macs + up * side * side)
    )


def reduction_a(c_in: int, k: int, ell: int, m: int, n: int) -> Layer:
    """Figure 7: 35x35 to 17x17."""
    return layer(
        beside(
            Sum(c_in, 0, 0),
            chain(c_in, (3, 3, n, 17)),
            chain(c_in, (1, 1, k, 35), (3, 3, ell, 35), (3, 3, m, 17)),
        ),
        17,
    )


def reduction_b(c_in: int, first: int, second: int, middle: int, third: int) -> Layer:
    """Figures 12 and 18: 17x17 to 8x8."""
    return layer(
        beside(
            Sum(c_in, 0, 0),
            chain(c_in, (1, 1, 256, 17), (3, 3, first, 8)),
            chain(c_in, (1, 1, 256, 17), (3, 3, second, 8)),
            chain(c_in, (1, 1, 256, 17), (3, 3, middle, 17), (3, 3, third, 8)),
        ),
        8,
    )


def stages_v1() -> dict[str, Layer]:
    return {
        "stem": layer(STEM_V1, 35),
        "inception_resnet_a": residual(
            256, 35, 5, [(1, 1, 32)], [(1, 1, 32), (3, 3, 32)], [(1, 1, 32), (3, 3, 32), (3, 3, 32)]
        ),
        "reduction_a": reduction_a(256, 192, 192, 256, 384),
        "inception_resnet_b": residual(896, 17, 10, [(1, 1, 128)], [(1, 1, 128), (1, 7, 128), (7, 1, 128)]),
        "reduction_b": reduction_b(896, 384, 256, 256, 256),
        "inception_resnet_c": residual(1792, 8, 5, [(1, 1, 192)], [(1, 1, 192), (1, 3, 192), (3, 1, 192)]),
    }


def stages_v2(stem: Sum, blocks: tuple[int, int, int]) -> dict[str, Layer]:
    """The same branches around the widths that follow from the stem: 320, 1088, 2080 or 384, 1152, 2144."""
    a = stem.maps
    b = a + 384 + 384
    c = b + 384 + 288 + 320
    return {
        "stem": layer(stem, 35),
        "inception_resnet_a": residual(
            a, 35, blocks[0], [(1, 1, 32)], [(1, 1, 32), (3, 3, 32)], [(1, 1, 32), (3, 3, 48), (3, 3, 64)]
        ),
        "reduction_a": reduction_a(a, 256, 256, 384, 384),
        "inception_resnet_b": residual(
            b, 17, blocks[1], [(1, 1, 192)], [(1, 1, 128), (1, 7, 160), (7, 1, 192)]
        ),
        "reduction_b": reduction_b(b, 384, 288, 288, 320),
        "inception_resnet_c": residual(
            c, 8, blocks[2], [(1, 1, 192)], [(1, 1, 192), (1, 3, 224), (3, 1, 256)]
        ),
    }


def network(stages: dict[str, Layer], *, parameters: int, maps: int) -> Network:
    stages |= {
        "avg_pool": Layer((maps,), 0, 0),
        "dropout": Layer((maps,), 0, 0),
        "linear": dense(maps, 1000),
    }
    return Network(
        input_shape=(3, 299, 299),
        classes=1000,
        parameters=parameters,
        macs=sum(each.macs for each in stages.values()),
        stages=stages,
        small=(75, 75),
        only_counted=maps != 1792,  # test_inception_resnet.py has one backward pass of the larger two
    )


NETWORKS = {
    "inception_resnet_v1": network(stages_v1(), parameters=22_756_328, maps=1792),
    "inception_resnet_v2": network(
        stages_v2(STEM_V2, (10, 20, 10)) | {"conv2d_7b": layer(chain(2080, (1, 1, 1536, 8)), 8)},
        parameters=55_843_464,  # of the published weights
        maps=1536,
    ),
    "inception_resnet_v2_as_printed": network(
        stages_v2(stem_of_v4(), (5, 10, 5)), parameters=32_433_928, maps=2144
    ),
}
