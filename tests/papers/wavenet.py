"""The WaveNet-like stack, from its description: 32 maps, 256 before the softmax, dilations 1 to 512."""

from __future__ import annotations

from tests.papers.facts import Layer, Network
from tests.papers.resnet import network, total


def conv1d(c_in: int, k: int, c_out: int, steps: int) -> Layer:
    weights = c_in * k * c_out
    return Layer((c_out, steps), weights + c_out, weights * steps)


# Two dilated convolutions with a kernel of 2 and a 1x1.
UNIT = total(conv1d(32, 2, 32, 1024), conv1d(32, 2, 32, 1024), conv1d(32, 1, 32, 1024))

NETWORKS: dict[str, Network] = {
    "wavenet": network(
        {
            "series": Layer((1, 1024), 0, 0),
            "causal": conv1d(1, 1, 32, 1024),
            "stack": total(*[UNIT] * 10),
            "head": total(conv1d(32, 1, 256, 1024), conv1d(256, 1, 256, 1024)),
            "last": Layer((256,), 0, 0),
        },
        (1, 1, 1024),
        classes=256,
        small=(1, 48),
    )
}
PRINTED_RECEPTIVE_FIELD = 1024  # "each 1, 2, 4, ..., 512 block has receptive field of size 1024"
