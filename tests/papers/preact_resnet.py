"""He, Zhang, Ren, Sun 2016: counts of the pre-activation networks, by sums written out."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, dense
from tests.papers.resnet import network, total


def bn(c: int) -> Layer:
    return Layer((), 2 * c, 0)


def weights(c_in: int, k: int, c_out: int, side: int) -> Layer:
    return conv(c_in, k, c_out, side, side, bias=False)


def basic(c_in: int, width: int, side: int, *, active: bool = True) -> Layer:
    """BN, 3x3, BN, 3x3; without the first BN where the input is active already."""
    first = [bn(c_in)] * active
    return total(*first, weights(c_in, 3, width, side), bn(width), weights(width, 3, width, side))


def bottleneck(c_in: int, width: int, side: int, *, active: bool = True) -> Layer:
    """BN, 1x1, BN, 3x3, BN, 1x1."""
    first = [bn(c_in)] * active
    one, three = weights(c_in, 1, width, side), weights(width, 3, width, side)
    return total(*first, one, bn(width), three, bn(width), weights(width, 1, 4 * width, side))


def bottlenecks(units: int, c_in: int, width: int, side: int, *, active: bool = True) -> Layer:
    """A unit with a projection, which has no BN, and others."""
    first = bottleneck(c_in, width, side, active=active)
    others = [bottleneck(4 * width, width, side)] * (units - 1)
    return total(weights(c_in, 1, 4 * width, side), first, *others)


def with_bn(layer: Layer) -> Layer:
    return layer._replace(parameters=layer.parameters + 2 * layer.output[0])


def cifar110() -> Network:
    """18 units of two 3x3 for each size, shortcuts without parameters; conv1 has the first unit's BN."""
    stages = {
        "conv1": with_bn(weights(3, 3, 16, 32)),
        "conv2_x": total(basic(16, 16, 32, active=False), *[basic(16, 16, 32)] * 17),
        "conv3_x": total(basic(16, 32, 16), *[basic(32, 32, 16)] * 17),
        "conv4_x": total(basic(32, 64, 8), *[basic(64, 64, 8)] * 17),
        "last": Layer((64, 8, 8), 128, 0),
        "pool": Layer((64,), 0, 0),
        "fc": dense(64, 10),
    }
    return network(stages, (3, 32, 32), classes=10, small=(16, 16))


def cifar_bottlenecks(n: int) -> Network:
    """9n + 2 layers: 16 maps, then 64, 128 and 256 outside of the bottlenecks."""
    stages = {
        "conv1": with_bn(weights(3, 3, 16, 32)),
        "conv2_x": bottlenecks(n, 16, 16, 32, active=False),
        "conv3_x": bottlenecks(n, 64, 32, 16),
        "conv4_x": bottlenecks(n, 128, 64, 8),
        "last": Layer((256, 8, 8), 512, 0),
        "pool": Layer((256,), 0, 0),
        "fc": dense(256, 10),
    }
    return network(stages, (3, 32, 32), classes=10, small=(16, 16))


def imagenet(depths: tuple[int, int, int, int]) -> Network:
    stages = {
        "conv1": with_bn(weights(3, 7, 64, 112)),
        "conv2_x": bottlenecks(depths[0], 64, 64, 56, active=False),
        "conv3_x": bottlenecks(depths[1], 256, 128, 28),
        "conv4_x": bottlenecks(depths[2], 512, 256, 14),
        "conv5_x": bottlenecks(depths[3], 1024, 512, 7),
        "last": Layer((2048, 7, 7), 4096, 0),
        "pool": Layer((2048,), 0, 0),
        "fc": dense(2048, 1000),
    }
    return network(stages, (3, 224, 224), classes=1000, small=(32, 32))._replace(only_counted=True)


NETWORKS = {
    "preact_resnet110_cifar": cifar110(),
    "preact_resnet164_cifar": cifar_bottlenecks(18),
    "preact_resnet1001_cifar": cifar_bottlenecks(111)._replace(only_counted=True),
    "preact_resnet152": imagenet((3, 8, 36, 3)),
    "preact_resnet200": imagenet((3, 24, 36, 3)),
}
LAYERS = {
    "preact_resnet110_cifar": 110,
    "preact_resnet164_cifar": 164,
    "preact_resnet1001_cifar": 1001,
    "preact_resnet152": 152,
    "preact_resnet200": 200,
}
# Printed with the CIFAR results, in millions.
PRINTED_MILLIONS = {
    "preact_resnet110_cifar": 1.7,
    "preact_resnet164_cifar": 1.7,
    "preact_resnet1001_cifar": 10.2,
}
