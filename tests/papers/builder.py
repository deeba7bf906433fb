"""The default line of `stack` by arithmetic."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, dense, pool

NETWORKS = {
    "stack": Network(
        input_shape=(3, 32, 32),
        parameters=2_432 + 51_264 + 524_416 + 1_290,
        stages={
            "conv1": conv(3, 5, 32, 32, 32),
            "max1": pool(32, 16, 16),
            "conv2": conv(32, 5, 64, 16, 16),
            "max2": pool(64, 8, 8),
            "flatten1": Layer((64 * 8 * 8,), 0, 0),
            "dense1": dense(64 * 8 * 8, 128),
            "dropout1": Layer((128,), 0, 0),
            "dense2": dense(128, 10),
        },
        small=(16, 16),
    )
}
