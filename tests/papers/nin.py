"""Network in network by arithmetic: Lin, Chen, Yan 2014 and the authors' definition for CIFAR-10."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, pool


def mlpconv(c_in: int, k: int, widths: tuple[int, int, int], side: int, after: int) -> Layer:
    """A k x k and two 1x1 convolutions, then pooling to `after`."""
    parts = [
        conv(c_in, k, widths[0], side, side),
        conv(widths[0], 1, widths[1], side, side),
        conv(widths[1], 1, widths[2], side, side),
    ]
    return Layer(
        (widths[2], after, after), sum(part.parameters for part in parts), sum(part.macs for part in parts)
    )


NETWORKS = {
    "nin": Network(
        input_shape=(3, 32, 32),
        parameters=966_986,
        stages={
            "mlpconv1": mlpconv(3, 5, (192, 160, 96), 32, 16),
            "mlpconv2": mlpconv(96, 5, (192, 192, 192), 16, 8),
            "mlpconv3": mlpconv(192, 3, (192, 192, 10), 8, 8),
            "pool": pool(10, 1, 1)._replace(output=(10,)),
        },
        small=(12, 12),
        only_counted=True,  # trained in tests/models/test_classic.py
    )
}
