"""The fast CIFAR-10 network by arithmetic: Jordan 2024, section 3.1."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv


def block(c_in: int, c_out: int, side: int) -> Layer:
    """Two 3x3 convolutions with 2x2 pooling behind the first; a normalisation learns its shift alone."""
    half = side // 2
    first, second = (
        conv(c_in, 3, c_out, side, side, bias=False),
        conv(c_out, 3, c_out, half, half, bias=False),
    )
    norms = 2 * c_out
    return Layer((c_out, half, half), first.parameters + second.parameters + norms, first.macs + second.macs)


AIRBENCH94 = Network(
    input_shape=(3, 32, 32),
    parameters=1_971_352,  # that are trained; with 288 fixed filters and 1,152 fixed scales 1,972,792
    stages={
        "whiten": conv(3, 2, 24, 31, 31)._replace(parameters=24),  # its filters are fixed
        "block1": block(24, 64, 31),
        "block2": block(64, 256, 15),
        "block3": block(256, 256, 7),
        "pool": Layer((256,), 0, 0),
        "output": Layer((10,), 2_560, 2_560),
    },
)
AIRBENCH95 = Network(
    input_shape=(3, 32, 32),
    parameters=4_604_440,  # that are trained; with 288 fixed filters and 1,792 fixed scales 4,606,520
    stages={
        "whiten": conv(3, 2, 24, 31, 31)._replace(parameters=24),
        "block1": block(24, 128, 31),
        "block2": block(128, 384, 15),
        "block3": block(384, 384, 7),
        "pool": Layer((384,), 0, 0),
        "output": Layer((10,), 3_840, 3_840),
    },
)
NETWORKS = {"airbench94": AIRBENCH94, "airbench95": AIRBENCH95}
