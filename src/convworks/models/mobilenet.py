"""MobileNet V1: A. Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision
applications", 2017, Table 1, with the width multipliers of Table 6 and the resolutions of Table 7.

`mobilenet_v1_WIDTH_SIDE` for widths 100, 075, 050, 025 (per cent) and sides 224, 192, 160, 128: 4,231,976,
2,585,560, 1,331,592 and 470,072 parameters at 1000 classes, whatever the side.

The option `activation` is "relu" as in the paper, or "relu6", which published weights were trained with.

Deviations of all sixteen:
- the depthwise convolution before the last 1x1 is printed with stride 2 between two rows of 7x7 maps; it has
  stride 1, which is what these sizes need.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import nn

from convworks.layers import stage
from convworks.models.fit import Window, final_size
from convworks.models.registry import bad_option, register


class Row(NamedTuple):
    """A row of Table 1; `maps` is the last number of its filter shape."""

    type: str
    stride: int
    kernel: int
    maps: int


# fmt: off
TABLE_1 = (
    #    Type    Stride  Filter      Input size
    Row("Conv",      2,  3,   32),  # 224x224x3
    Row("Conv dw",   1,  3,   32),  # 112x112x32
    Row("Conv",      1,  1,   64),  # 112x112x32
    Row("Conv dw",   2,  3,   64),  # 112x112x64
    Row("Conv",      1,  1,  128),  # 56x56x64
    Row("Conv dw",   1,  3,  128),  # 56x56x128
    Row("Conv",      1,  1,  128),  # 56x56x128
    Row("Conv dw",   2,  3,  128),  # 56x56x128
    Row("Conv",      1,  1,  256),  # 28x28x128
    Row("Conv dw",   1,  3,  256),  # 28x28x256
    Row("Conv",      1,  1,  256),  # 28x28x256
    Row("Conv dw",   2,  3,  256),  # 28x28x256
    Row("Conv",      1,  1,  512),  # 14x14x256
    *5 * (
        Row("Conv dw",   1,  3,  512),  # 14x14x512
        Row("Conv",      1,  1,  512),  # 14x14x512
    ),
    Row("Conv dw",   2,  3,  512),  # 14x14x512
    Row("Conv",      1,  1, 1024),  # 7x7x512
    Row("Conv dw",   1,  3, 1024),  # 7x7x1024, Deviation: stride 2 is printed
    Row("Conv",      1,  1, 1024),  # 7x7x1024
)
WIDTHS = {"100": 1.0, "075": 0.75, "050": 0.5, "025": 0.25}  # Table 6
SIDES = (224, 192, 160, 128)                                 # Table 7
# fmt: on
CONFIGS = {
    f"mobilenet_v1_{width}_{side}": (factor, side) for width, factor in WIDTHS.items() for side in SIDES
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


def mobilenet_layer(c_in: int, c_out: int, row: Row, *, activation: str = "relu") -> nn.Sequential:
    """Figure 3: a convolution without a bias that keeps the size at stride 1, batch norm, activation."""
    return stage(
        conv=nn.Conv2d(
            c_in,
            c_out,
            row.kernel,
            row.stride,
            row.kernel // 2,
            groups=c_in if row.type == "Conv dw" else 1,
            bias=False,
        ),
        bn=nn.BatchNorm2d(c_out),
        relu=ACTIVATIONS[activation](),
    )


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (224, 224),
    activation: str = "relu",
) -> nn.Sequential:
    """Table 1 with all numbers of maps times the width of a row of `CONFIGS`, for images of any size.

    Raises U122 for an image without pixels and U123 for another activation.
    """
    width, side = CONFIGS[name]
    if activation not in ACTIVATIONS:
        raise bad_option(name, "activation", activation, allowed=tuple(ACTIVATIONS))
    stages: dict[str, nn.Module] = {}
    windows: list[Window] = []
    c_in, number = in_channels, 0
    for row in TABLE_1:  # conv1, then conv2_dw, conv2_pw ... conv14_dw, conv14_pw
        number += row.kernel == 3
        place = "conv1" if not stages else f"conv{number}_{'dw' if row.type == 'Conv dw' else 'pw'}"
        c_out = int(row.maps * width)
        stages[place] = mobilenet_layer(c_in, c_out, row, activation=activation)
        windows.append(Window(place, row.kernel, row.stride, row.kernel // 2))
        c_in = c_out
    final_size(name, input_size, windows, published=side)
    stages["avg_pool"] = stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())  # 7x7: (N, 1024)
    stages["fc"] = nn.Linear(c_in, num_classes)
    return stage(**stages)


for _name, (_width, _side) in CONFIGS.items():
    register(
        partial(build, _name, input_size=(_side, _side)),
        name=_name,
        source="Howard et al. 2017, MobileNets, Table 1",
        summary=f"depthwise separable convolutions, width {_width:g}, {_side}x{_side} pixels",
        deviations=("stride 1 in the last depthwise layer, where 2 is printed between maps of one size",),
    )
