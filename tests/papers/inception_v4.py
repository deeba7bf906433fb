"""Inception-v4: Szegedy et al. 2017, Figures 3 to 9, with sums over them."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, dense
from tests.papers.sums import Sum, beside, chain, layer, then


def stem() -> Sum:
    """Figure 3: 35x35x384."""
    first = chain(3, (3, 3, 32, 149), (3, 3, 32, 147), (3, 3, 64, 147))
    mixed_3a = beside(Sum(64, 0, 0), chain(64, (3, 3, 96, 73)))
    mixed_4a = beside(
        chain(160, (1, 1, 64, 73), (3, 3, 96, 71)),
        chain(160, (1, 1, 64, 73), (1, 7, 64, 73), (7, 1, 64, 73), (3, 3, 96, 71)),
    )
    mixed_5a = beside(chain(192, (3, 3, 192, 35)), Sum(192, 0, 0))
    return then(first, mixed_3a, mixed_4a, mixed_5a)


def module_a() -> Sum:
    return beside(
        chain(384, (1, 1, 96, 35)),
        chain(384, (1, 1, 64, 35), (3, 3, 96, 35)),
        chain(384, (1, 1, 64, 35), (3, 3, 96, 35), (3, 3, 96, 35)),
        chain(384, (1, 1, 96, 35)),
    )


def reduction_a() -> Sum:
    """k, l, m, n = 192, 224, 256, 384: Table 1."""
    return beside(
        Sum(384, 0, 0),
        chain(384, (3, 3, 384, 17)),
        chain(384, (1, 1, 192, 35), (3, 3, 224, 35), (3, 3, 256, 17)),
    )


def module_b() -> Sum:
    return beside(
        chain(1024, (1, 1, 128, 17)),
        chain(1024, (1, 1, 384, 17)),
        chain(1024, (1, 1, 192, 17), (1, 7, 224, 17), (7, 1, 256, 17)),
        chain(1024, (1, 1, 192, 17), (1, 7, 192, 17), (7, 1, 224, 17), (1, 7, 224, 17), (7, 1, 256, 17)),
    )


def reduction_b() -> Sum:
    return beside(
        Sum(1024, 0, 0),
        chain(1024, (1, 1, 192, 17), (3, 3, 192, 8)),
        chain(1024, (1, 1, 256, 17), (1, 7, 256, 17), (7, 1, 320, 17), (3, 3, 320, 8)),
    )


def module_c() -> Sum:
    def ends(c_in: int) -> Sum:
        return beside(chain(c_in, (1, 3, 256, 8)), chain(c_in, (3, 1, 256, 8)))

    return beside(
        chain(1536, (1, 1, 256, 8)),
        chain(1536, (1, 1, 256, 8)),
        then(chain(1536, (1, 1, 384, 8)), ends(384)),
        then(chain(1536, (1, 1, 384, 8), (1, 3, 448, 8), (3, 1, 512, 8)), ends(512)),
    )


STAGES = {
    "stem": layer(stem(), 35),
    "inception_a": layer(then(*[module_a()] * 4), 35),
    "reduction_a": layer(reduction_a(), 17),
    "inception_b": layer(then(*[module_b()] * 7), 17),
    "reduction_b": layer(reduction_b(), 8),
    "inception_c": layer(then(*[module_c()] * 3), 8),
    "avg_pool": Layer((1536,), 0, 0),
    "dropout": Layer((1536,), 0, 0),
    "linear": dense(1536, 1000),
}
MAPS = [384, 384, 1024, 1024, 1536, 1536]  # printed in Figure 9

NETWORKS = {
    "inception_v4": Network(
        input_shape=(3, 299, 299),
        classes=1000,
        parameters=42_679_816,
        macs=sum(each.macs for each in STAGES.values()),
        stages=STAGES,
        small=(75, 75),
        only_counted=True,  # 75 layers without shortcuts; test_inception_v4.py has one backward pass
    )
}
