"""Maxout networks by arithmetic: Goodfellow et al. 2013 and the authors' definitions."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, dense


def maxout(c_in: int, k: int, maps: int, pieces: int, side: int, pooled: int) -> Layer:
    """A convolution of maps x pieces, the largest of the pieces, then spatial pooling."""
    return conv(c_in, k, maps * pieces, side, side)._replace(output=(maps, pooled, pooled))


NETWORKS = {
    "maxout_mnist": Network(
        input_shape=(1, 28, 28),
        parameters=418_714,
        stages={
            "h0": maxout(1, 8, 48, 2, 28 - 7, 10),  # windows of 4 at 0, 2, ..., 18 of 21, the last cut
            "h1": maxout(48, 8, 48, 2, 10 + 6 - 7, 4),
            "h2": maxout(48, 5, 24, 4, 4 + 6 - 4, 3),
            "y": dense(3 * 3 * 24, 10),
        },
        small=(20, 20),
        only_counted=True,  # trained in tests/models/test_classic.py
    ),
    "maxout_cifar": Network(
        input_shape=(3, 32, 32),
        parameters=16_247_830,
        stages={
            "h0": maxout(3, 8, 96, 2, 32 + 8 - 7, 16),
            "h1": maxout(96, 8, 192, 2, 16 + 6 - 7, 7),
            "h2": maxout(192, 5, 192, 2, 7 + 6 - 4, 5),
            "h3": dense(5 * 5 * 192, 500 * 5)._replace(output=(500,)),
            "y": dense(500, 10),
        },
        small=(12, 12),
        only_counted=True,  # trained in tests/models/test_classic.py
    ),
}
