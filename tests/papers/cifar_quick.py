"""cuda-convnet's layers-80sec by arithmetic."""

from __future__ import annotations

from tests.papers.facts import Network, conv, dense

NETWORKS = {
    "cifar_quick": Network(
        input_shape=(3, 32, 32),
        parameters=145_578,
        stages={
            "conv1": conv(3, 5, 32, 32, 32)._replace(output=(32, 16, 16)),
            "conv2": conv(32, 5, 32, 16, 16)._replace(output=(32, 8, 8)),
            "conv3": conv(32, 5, 64, 8, 8)._replace(output=(64, 4, 4)),
            "fc64": dense(4 * 4 * 64, 64),
            "fc10": dense(64, 10),
        },
    )
}
