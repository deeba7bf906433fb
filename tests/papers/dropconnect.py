"""The DropConnect network by arithmetic: Wan et al. 2013 and cuda-convnet's layers-conv-local-11pct."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, dense


def local(c_in: int, k: int, c_out: int, side: int) -> Layer:
    """A kernel and a bias for each place of the output."""
    weights = c_in * k * k * c_out * side * side
    return Layer((c_out, side, side), weights + c_out * side * side, weights)


NETWORKS = {
    "dropconnect_cifar": Network(
        input_shape=(3, 24, 24),
        parameters=1_253_834,
        stages={
            "conv1": conv(3, 5, 64, 24, 24)._replace(output=(64, 12, 12)),
            "conv2": conv(64, 5, 64, 12, 12)._replace(output=(64, 6, 6)),
            "local3": local(64, 3, 32, 6),
            "local4": local(32, 3, 32, 6),
            "fc128": dense(6 * 6 * 32, 128),
            "fc10": dense(128, 10),
        },
        small=(12, 12),
    )
}
