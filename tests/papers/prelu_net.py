"""He, Zhang, Ren, Sun 2015, Delving deep into rectifiers: Table 3, by sums written out."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, dense
from tests.papers.resnet import network, total

BINS = 7 * 7 + 3 * 3 + 2 * 2 + 1 * 1  # 63


def conv_prelu(c_in: int, k: int, c_out: int, side: int) -> Layer:
    """Weights, a bias and a slope for each map."""
    layer = conv(c_in, k, c_out, side, side)
    return layer._replace(parameters=layer.parameters + c_out)


def dense_prelu(f_in: int, f_out: int) -> Layer:
    layer = dense(f_in, f_out)
    return layer._replace(parameters=layer.parameters + f_out)


def model(count: int, widths: tuple[int, int, int]) -> Network:
    a, b, c = widths
    stages = {
        "conv1": conv_prelu(3, 7, 96, 112),
        "conv2_x": total(conv_prelu(96, 3, a, 56), *[conv_prelu(a, 3, a, 56)] * (count - 1)),
        "conv3_x": total(conv_prelu(a, 3, b, 28), *[conv_prelu(b, 3, b, 28)] * (count - 1)),
        "conv4_x": total(conv_prelu(b, 3, c, 14), *[conv_prelu(c, 3, c, 14)] * (count - 1)),
        "spp": Layer((BINS * c,), 0, 0),
        "fc1": dense_prelu(BINS * c, 4096),
        "fc2": dense_prelu(4096, 4096),
        "fc3": dense(4096, 1000),
    }
    # 43 million parameters and more at any size, and no batch norm: tests/models trains a small one instead
    return network(stages, (3, 224, 224), classes=1000, small=(16, 16))._replace(only_counted=True)


NETWORKS = {
    "prelu_net_a": model(5, (256, 512, 512)),
    "prelu_net_b": model(6, (256, 512, 512)),
    "prelu_net_c": model(6, (384, 768, 896)),
}
LAYERS = {"prelu_net_a": 19, "prelu_net_b": 22, "prelu_net_c": 22}  # "depth (conv+fc)"
# "complexity (ops., x 10^10)"
PRINTED_OPERATIONS = {"prelu_net_a": 1.90, "prelu_net_b": 2.32, "prelu_net_c": 5.30}
