"""AlexNet by arithmetic, layer by layer: Krizhevsky, Sutskever, Hinton 2012, section 3.5 and Figure 2."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, dense


def grouped(c_in: int, k: int, c_out: int, side: int, groups: int) -> Layer:
    """A convolution in which each kernel sees c_in / groups maps."""
    return conv(c_in // groups, k, c_out, side, side)


def pooled(layer: Layer, side: int) -> Layer:
    """The same, with 3x3 pooling at stride 2 behind it."""
    return layer._replace(output=(layer.output[0], side, side))


def tower(groups: int) -> dict[str, Layer]:
    """227 -> 55 -> 27 -> 13 -> 6; conv2, conv4 and conv5 in `groups`."""
    return {
        "conv1": pooled(grouped(3, 11, 96, 55, 1), 27),
        "conv2": pooled(grouped(96, 5, 256, 27, groups), 13),
        "conv3": grouped(256, 3, 384, 13, 1),
        "conv4": grouped(384, 3, 384, 13, groups),
        "conv5": pooled(grouped(384, 3, 256, 13, groups), 6),
        "fc6": dense(6 * 6 * 256, 4096),
        "fc7": dense(4096, 4096),
        "fc8": dense(4096, 1000),
    }


ALEXNET = Network(
    input_shape=(3, 227, 227),
    classes=1000,
    parameters=60_965_224,  # printed: "60 million parameters"
    macs=724_406_816,
    stages=tower(2),
    small=(67, 67),
    only_counted=True,  # trained in tests/models/test_classic.py
)
SINGLE_TOWER = Network(
    input_shape=(3, 227, 227),
    classes=1000,
    parameters=62_378_344,
    macs=1_135_256_096,
    stages=tower(1),
    small=(67, 67),
    only_counted=True,  # trained in tests/models/test_classic.py
)
# Krizhevsky 2014, as torchvision builds it; 224x224 with padding of 2: 55, 27, 13, 6.
TORCHVISION = Network(
    input_shape=(3, 224, 224),
    classes=1000,
    parameters=61_100_840,
    stages={
        "conv1": pooled(conv(3, 11, 64, 55, 55), 27),
        "conv2": pooled(conv(64, 5, 192, 27, 27), 13),
        "conv3": conv(192, 3, 384, 13, 13),
        "conv4": conv(384, 3, 256, 13, 13),
        "conv5": pooled(conv(256, 3, 256, 13, 13), 6),
        "pool": Layer((6 * 6 * 256,), 0, 0),
        "fc6": dense(6 * 6 * 256, 4096),
        "fc7": dense(4096, 4096),
        "fc8": dense(4096, 1000),
    },
    small=(64, 64),
    only_counted=True,  # trained in tests/models/test_classic.py
)
NETWORKS = {"alexnet": ALEXNET, "alexnet_single_tower": SINGLE_TOWER, "alexnet_torchvision": TORCHVISION}

# printed: "650,000 neurons", conv1 to fc8. The paper's own list begins with 253,440, not with 55 x 55 x 96.
NEURONS = {
    "conv1": 55 * 55 * 96,
    "conv2": 27 * 27 * 256,
    "conv3": 13 * 13 * 384,
    "conv4": 13 * 13 * 384,
    "conv5": 13 * 13 * 256,
    "fc6": 4096,
    "fc7": 4096,
    "fc8": 1000,
}
ALL_NEURONS = 659_272
# 227 -> 55 -> 27 -> 27 -> 13 -> 13 -> 13 -> 13 -> 6, and what one unit sees of the image
FIELDS = {
    "conv1": 11,
    "conv1.pool": 19,
    "conv2": 51,
    "conv2.pool": 67,
    "conv3": 99,
    "conv4": 131,
    "conv5": 163,
    "conv5.pool": 195,
}

# Parameters that go with layers, and with what the layer above then sees.
FC7 = 4096 * 4096 + 4096
FC6_AND_FC7 = (9216 * 4096 + 4096) + FC7  # gross
WIDER_FC8 = 9216 * 1000 + 1000
WITHOUT_FC7 = 16_781_312
WITHOUT_FC6_AND_FC7 = 49_414_144
WITHOUT_CONV3_AND_CONV4 = {2: 1_696_512, 1: 2_507_520}  # by the number of towers
