"""Numbers that papers print, or that follow from their layers by arithmetic written out here.

Nothing in this file calls the code under test. Values marked "printed" are quoted; the others are sums and
products of the sizes in the paper, so that a reader can check each with a pencil.
"""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    output: tuple[int, ...]  # of one image
    parameters: int  # trained
    macs: int  # multiply-adds of one image, without biases


class Network(NamedTuple):
    input_shape: tuple[int, int, int]  # C, H, W
    parameters: int
    stages: dict[str, Layer]  # by the children of the network
    classes: int = 10
    macs: int | None = None  # of all layers
    small: tuple[int, int] | None = None  # an input size that is quick to compute, for the battery
    rate: float = 3e-3  # Adam's, to learn eight images by heart; less for deep networks without batch norm
    only_counted: bool = False  # too deep to train in the battery: counts and shapes alone


def conv(c_in: int, k: int, c_out: int, h: int, w: int, *, bias: bool = True) -> Layer:
    """A k x k convolution with an output of c_out x h x w."""
    weights = c_in * k * k * c_out
    return Layer((c_out, h, w), weights + bias * c_out, weights * h * w)


def dense(f_in: int, f_out: int) -> Layer:
    return Layer((f_out,), f_in * f_out + f_out, f_in * f_out)


def pool(c: int, h: int, w: int) -> Layer:
    return Layer((c, h, w), 0, 0)


# LeCun, Bottou, Bengio, Haffner 1998, section II-B.
# Table I: six maps of C3 see 3 maps of S2, nine see 4, one sees 6.
C3_KERNELS = 6 * 3 + 9 * 4 + 1 * 6
LENET5 = Network(
    input_shape=(1, 32, 32),
    parameters=60_000,  # printed: "only 60,000 trainable free parameters because of the weight sharing"
    stages={
        "c1": conv(1, 5, 6, 28, 28),
        "s2": Layer((6, 14, 14), 6 + 6, 4 * 6 * 14 * 14),
        "c3": Layer((16, 10, 10), C3_KERNELS * 25 + 16, C3_KERNELS * 25 * 10 * 10),
        "s4": Layer((16, 5, 5), 16 + 16, 4 * 16 * 5 * 5),
        "c5": conv(16, 5, 120, 1, 1),
        "f6": dense(120, 84),
        "output": Layer((10,), 0, 84 * 10),
    },
)
# printed, layer by layer
LENET5_PARAMETERS = {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
LENET5_CONNECTIONS = {"c1": 122_304, "s2": 5_880, "c3": 151_600, "s4": 2_000, "c5": 48_120}
LENET5_ALL_CONNECTIONS = 340_908  # printed total: the layers above, F6 with 10,164 and 84 x 10 for the output
LENET5_RBF_WEIGHTS = 84 * 10  # fixed, "seven by twelve bitmaps"
LENET5_LINEAR_OUTPUT = 60_000 + 84 * 10 + 10  # the option output="linear"

# The same network as libraries build it.
LENET5_MODERN = Network(
    input_shape=(1, 28, 28),
    parameters=61_706,
    stages={
        "c1": conv(1, 5, 6, 28, 28),
        "s2": pool(6, 14, 14),
        "c3": conv(6, 5, 16, 10, 10),
        "s4": pool(16, 5, 5),
        "c5": dense(400, 120),
        "f6": dense(120, 84),
        "output": dense(84, 10),
    },
)

# The lectures' perceptron for MNIST.
MLP128 = Network(
    input_shape=(1, 28, 28), parameters=101_770, stages={"fc1": dense(784, 128), "fc2": dense(128, 10)}
)

# The PyTorch tutorial's network for MNIST; conv1 and conv2 include the pooling.
TUTORIAL_CNN = Network(
    input_shape=(1, 28, 28),
    parameters=21_840,
    stages={
        "conv1": conv(1, 5, 10, 24, 24)._replace(output=(10, 12, 12)),
        "conv2": conv(10, 5, 20, 8, 8)._replace(output=(20, 4, 4)),
        "fc1": dense(320, 50),
        "fc2": dense(50, 10),
    },
)


def fastnet_block(c_in: int, c_out: int, side: int) -> Layer:
    """Two 3x3 convolutions without biases, the first before the pooling; two batch norms."""
    first, second = 9 * c_in * c_out, 9 * c_out * c_out
    parameters = first + second + 2 * 2 * c_out
    return Layer((c_out, side, side), parameters, first * (2 * side) ** 2 + second * side**2)


# Our own network, from its description.
FASTNET = Network(
    input_shape=(3, 32, 32),
    parameters=1_167_178,
    stages={
        "stem": Layer((32, 16, 16), 3 * 16 * 32 + 64, 3 * 16 * 32 * 16 * 16),
        "block1": fastnet_block(32, 64, 8),
        "block2": fastnet_block(64, 128, 4),
        "block3": fastnet_block(128, 256, 2),
        "pool": pool(256, 1, 1)._replace(output=(256,)),
        "output": dense(256, 10),
    },
)

# Every registered network has a row here.
NETWORKS = {
    "fastnet": FASTNET,
    "lenet5": LENET5,
    "lenet5_modern": LENET5_MODERN,
    "mlp128": MLP128,
    "tutorial_cnn": TUTORIAL_CNN,
}
