"""ZFNet by arithmetic: Zeiler, Fergus 2014, Figure 3; 224 -> 110 -> 55 -> 26 -> 13 -> 13 -> 6."""

from __future__ import annotations

from tests.papers.facts import Network, conv, dense

NETWORKS = {
    "zfnet": Network(
        input_shape=(3, 224, 224),
        classes=1000,
        parameters=62_357_608,
        stages={
            "conv1": conv(3, 7, 96, 110, 110)._replace(output=(96, 55, 55)),
            "conv2": conv(96, 5, 256, 26, 26)._replace(output=(256, 13, 13)),
            "conv3": conv(256, 3, 384, 13, 13),
            "conv4": conv(384, 3, 384, 13, 13),
            "conv5": conv(384, 3, 256, 13, 13)._replace(output=(256, 6, 6)),
            "fc6": dense(6 * 6 * 256, 4096),
            "fc7": dense(4096, 4096),
            "fc8": dense(4096, 1000),
        },
        small=(63, 63),
        only_counted=True,  # trained in tests/models/test_classic.py
    )
}
PRINTED_SIDES = (
    110,
    55,
    26,
    13,
    13,
    13,
    13,
    6,
)  # Figure 3: conv1, pool, conv2, pool, conv3, conv4, conv5, pool
