"""VGG by arithmetic: Simonyan, Zisserman 2015, Table 1, written out as kernel sizes of each convolution."""

from __future__ import annotations

from tests.papers.facts import Layer, Network, conv, dense

WIDTHS = (64, 128, 256, 512, 512)
# fmt: off
TABLE_1 = {
    "vgg_a":     ((3,),   (3,),   (3, 3),       (3, 3),       (3, 3)),
    "vgg_a_lrn": ((3,),   (3,),   (3, 3),       (3, 3),       (3, 3)),
    "vgg_b":     ((3, 3), (3, 3), (3, 3),       (3, 3),       (3, 3)),
    "vgg_c":     ((3, 3), (3, 3), (3, 3, 1),    (3, 3, 1),    (3, 3, 1)),
    "vgg_d":     ((3, 3), (3, 3), (3, 3, 3),    (3, 3, 3),    (3, 3, 3)),
    "vgg_e":     ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
WEIGHT_LAYERS = {"vgg_a": 11, "vgg_a_lrn": 11, "vgg_b": 13, "vgg_c": 16, "vgg_d": 16, "vgg_e": 19}  # printed
MILLIONS = {"vgg_a": 133, "vgg_a_lrn": 133, "vgg_b": 133, "vgg_c": 134, "vgg_d": 138, "vgg_e": 144}  # printed
PARAMETERS = {
    "vgg_a": 132_863_336, "vgg_a_lrn": 132_863_336, "vgg_b": 133_047_848,
    "vgg_c": 133_638_952, "vgg_d": 138_357_544, "vgg_e": 143_667_240,
}
GIGA_MACS = {
    "vgg_a": 7.609, "vgg_a_lrn": 7.609, "vgg_b": 11.308, "vgg_c": 11.771, "vgg_d": 15.470, "vgg_e": 19.632,
}
FIELDS = {"vgg_a": 150, "vgg_a_lrn": 150, "vgg_b": 156, "vgg_c": 156, "vgg_d": 212, "vgg_e": 268}  # at pool5
# fmt: on
DENSE = (7 * 7 * 512 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 1000 + 1000)
DENSE_OF_E = 123_642_856  # 86.06 % of E


def stages(name: str) -> dict[str, Layer]:
    """conv1 to conv5 with their pooling, fc6 to fc8, for 224x224."""
    found: dict[str, Layer] = {}
    c_in, side = 3, 224
    for number, (kernels, width) in enumerate(zip(TABLE_1[name], WIDTHS, strict=True), start=1):
        parameters = macs = 0
        for kernel in kernels:
            layer = conv(c_in, kernel, width, side, side)
            parameters, macs = parameters + layer.parameters, macs + layer.macs
            c_in = width
        side //= 2
        found[f"conv{number}"] = Layer((width, side, side), parameters, macs)
    return found | {"fc6": dense(7 * 7 * 512, 4096), "fc7": dense(4096, 4096), "fc8": dense(4096, 1000)}


NETWORKS = {
    name: Network(
        input_shape=(3, 224, 224),
        classes=1000,
        parameters=PARAMETERS[name],
        stages=stages(name),
        small=(32, 32),
        only_counted=True,  # trained in tests/models/test_classic.py
    )
    for name in TABLE_1
}
