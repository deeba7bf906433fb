"""Inception-v3: the modules of the authors' code, with sums over them."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, dense, pool
from tests.papers.sums import Sum, beside, chain, layer

WITH_HEAD, WITHOUT_HEAD = 27_161_264, 23_834_568  # torchvision's counts


def module_a(c_in: int, proj: int) -> Sum:
    return beside(
        chain(c_in, (1, 1, 64, 35)),
        chain(c_in, (1, 1, 48, 35), (5, 5, 64, 35)),
        chain(c_in, (1, 1, 64, 35), (3, 3, 96, 35), (3, 3, 96, 35)),
        chain(c_in, (1, 1, proj, 35)),
    )


def module_b(c_in: int) -> Sum:
    return beside(
        chain(c_in, (3, 3, 384, 17)),
        chain(c_in, (1, 1, 64, 35), (3, 3, 96, 35), (3, 3, 96, 17)),
        Sum(c_in, 0, 0),
    )


def module_c(c_in: int, n: int) -> Sum:
    return beside(
        chain(c_in, (1, 1, 192, 17)),
        chain(c_in, (1, 1, n, 17), (1, 7, n, 17), (7, 1, 192, 17)),
        chain(c_in, (1, 1, n, 17), (7, 1, n, 17), (1, 7, n, 17), (7, 1, n, 17), (1, 7, 192, 17)),
        chain(c_in, (1, 1, 192, 17)),
    )


def module_d(c_in: int) -> Sum:
    return beside(
        chain(c_in, (1, 1, 192, 17), (3, 3, 320, 8)),
        chain(c_in, (1, 1, 192, 17), (1, 7, 192, 17), (7, 1, 192, 17), (3, 3, 192, 8)),
        Sum(c_in, 0, 0),
    )


def module_e(c_in: int) -> Sum:
    pair = beside(chain(384, (1, 3, 384, 8)), chain(384, (3, 1, 384, 8)))
    short, long = chain(c_in, (1, 1, 384, 8)), chain(c_in, (1, 1, 448, 8), (3, 3, 384, 8))
    return beside(
        chain(c_in, (1, 1, 320, 8)),
        Sum(768, short.parameters + pair.parameters, short.macs + pair.macs),
        Sum(768, long.parameters + pair.parameters, long.macs + pair.macs),
        chain(c_in, (1, 1, 192, 8)),
    )


STAGES = {
    "conv2d_1a": layer(chain(3, (3, 3, 32, 149)), 149),
    "conv2d_2a": layer(chain(32, (3, 3, 32, 147)), 147),
    "conv2d_2b": layer(chain(32, (3, 3, 64, 147)), 147),
    "maxpool_3a": pool(64, 73, 73),
    "conv2d_3b": layer(chain(64, (1, 1, 80, 73)), 73),
    "conv2d_4a": layer(chain(80, (3, 3, 192, 71)), 71),
    "maxpool_5a": pool(192, 35, 35),
    "mixed_5b": layer(module_a(192, 32), 35),
    "mixed_5c": layer(module_a(256, 64), 35),
    "mixed_5d": layer(module_a(288, 64), 35),
    "mixed_6a": layer(module_b(288), 17),
    "mixed_6b": layer(module_c(768, 128), 17),
    "mixed_6c": layer(module_c(768, 160), 17),
    "mixed_6d": layer(module_c(768, 160), 17),
    "mixed_6e": layer(module_c(768, 192), 17),
    # 1x1 to 128, 5x5 to 768, 1000 classes; not reached at inference
    "auxiliary_6e": Layer(
        (), 768 * 128 + 2 * 128 + 128 * 25 * 768 + 2 * 768 + dense(768, 1000).parameters, 0
    ),
    "mixed_7a": layer(module_d(768), 8),
    "mixed_7b": layer(module_e(1280), 8),
    "mixed_7c": layer(module_e(2048), 8),
    "avg_pool": Layer((2048,), 0, 0),
    "dropout": Layer((2048,), 0, 0),
    "linear": dense(2048, 1000),
}
MAPS = [256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048]

NETWORKS = {
    "inception_v3": Network(
        input_shape=(3, 299, 299),
        classes=1000,
        parameters=WITH_HEAD,
        macs=sum(each.macs for each in STAGES.values()),
        stages=STAGES,
        small=(75, 75),
    )
}
