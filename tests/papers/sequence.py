"""Networks for text and for series, from the tables of their papers by sums written out."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, dense
from tests.papers.resnet import network, total
from tests.papers.wavenet import conv1d


def pooled(layer: Layer, steps: int) -> Layer:
    return layer._replace(output=(layer.output[0], steps))


def char_cnn(features: int, units: int) -> Network:
    """Lengths: 1014, kernel 7: 1008, pool 3: 336, 330, 110, 108, 106, 104, 102, 34."""
    f = features
    stages = {
        "text": Layer((70, 1014), 0, 0),
        "conv1": pooled(conv1d(70, 7, f, 1008), 336),
        "conv2": pooled(conv1d(f, 7, f, 330), 110),
        "conv3": conv1d(f, 3, f, 108),
        "conv4": conv1d(f, 3, f, 106),
        "conv5": conv1d(f, 3, f, 104),
        "conv6": pooled(conv1d(f, 3, f, 102), 34),
        "fc7": dense(34 * f, units),
        "fc8": dense(units, units),
        "fc9": dense(units, 10),
    }
    return network(stages, (70, 1, 1014), classes=10, small=(1, 123))


def block(c_in: int, k: int, c_out: int) -> Layer:
    return total(Layer((), 2 * c_out, 0), conv1d(c_in, k, c_out, 128))


NETWORKS = {
    "char_cnn_large": char_cnn(1024, 2048)._replace(only_counted=True),  # 25 million parameters at any length
    "char_cnn_small": char_cnn(256, 1024),
    "series_fcn": network(
        {
            "series": Layer((1, 128), 0, 0),
            "conv1": block(1, 8, 128),
            "conv2": block(128, 5, 256),
            "conv3": block(256, 3, 128),
            "pool": Layer((128,), 0, 0),
            "output": dense(128, 10),
        },
        (1, 1, 128),
        classes=10,
        small=(1, 24),
    ),
}
