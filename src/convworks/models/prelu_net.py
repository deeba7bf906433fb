"""PReLU-nets: plain networks with parametric rectifiers, and the initial weights made for rectifiers.

K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers: surpassing human-level performance on ImageNet
classification", ICCV 2015: Table 3 (models A, B and C), sections 2.1 (PReLU, a = 0.25 at the start, one for
each map), 2.2 (initial weights) and 4 (dropout of half of the units after the first two dense layers).

The multiply-adds at 224x224, dense layers included, are 1.906, 2.322 and 5.346 x 10^10; Table 3 prints 1.90,
2.32 and 5.30. Those of A and B confirm the widths below, that of C to 1 %.

Deviations:
- padding is not in Table 3: 3 in conv1 and 1 in the others, which the printed sizes of the maps ask for;
- the borders of the pyramid's bins are not in the paper: they are those of the SPP-net paper (He et al. 2014,
  appendix A), bin i of n on maps of s cells from floor((i - 1) s / n) to ceil(i s / n);
- a level of the pyramid with more bins than the maps have cells is left out. At 224x224 all levels are there;
  for images of less than 111 pixels the pyramid gets smaller, and fc1 with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.layers import stage
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise
from convworks.models.registry import register

SOURCE = "He, Zhang, Ren, Sun 2015, Delving deep into rectifiers"
SLOPE = 0.25  # initial a of every map


class Convs(NamedTuple):
    """A cell of Table 3: 2x2 maxpool, /2, and then `layers` times "3x3, width"."""

    layers: int
    width: int


# Table 3. All begin with "7x7, 96, /2" and end with "spp {7, 3, 2, 1}" and fc 4096, 4096, 1000.
# fmt: off
CONFIGS = {
    # size of the maps:  56             28             14
    "prelu_net_a": (Convs(5, 256), Convs(5, 512), Convs(5, 512)),
    "prelu_net_b": (Convs(6, 256), Convs(6, 512), Convs(6, 512)),
    "prelu_net_c": (Convs(6, 384), Convs(6, 768), Convs(6, 896)),
}
# fmt: on
PYRAMID = (7, 3, 2, 1)


def he_normal(net: nn.Module, *, slope: float = 0.0) -> None:
    """Normal weights of variance 2 / ((1 + slope^2) fan-in) and zero biases, in place (equation 15).

    With a slope of 0 this is the rule for ReLU, equation 10. The paper says that fan-in and fan-out
    (equation 14) serve equally well, and takes the rule for the first layer too.
    """
    initialise(net, partial(nn.init.kaiming_normal_, a=slope, mode="fan_in", nonlinearity="leaky_relu"))


class SpatialPyramidPooling(nn.Module):
    """The largest value in each of n x n bins, for every n: (N, C, H, W) -> (N, C * sum of n^2)."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.adaptive_max_pool2d(x, n).flatten(1) for n in self.levels], dim=1)

    def extra_repr(self) -> str:
        return f"{self.levels}"


def conv(c_in: int, c_out: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """A convolution and its PReLU, with one slope for each map ("channel-wise")."""
    return stage(
        conv=nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2),
        prelu=nn.PReLU(c_out, init=SLOPE),
    )


def convs(c_in: int, cell: Convs) -> nn.Sequential:
    """One cell of Table 3."""
    layers = {f"conv{i + 1}": conv(c_in if i == 0 else cell.width, cell.width, 3) for i in range(cell.layers)}
    return stage(pool=nn.MaxPool2d(2), **layers)


def dense(f_in: int, f_out: int) -> nn.Sequential:
    return stage(linear=nn.Linear(f_in, f_out), prelu=nn.PReLU(f_out, init=SLOPE), dropout=nn.Dropout(p=0.5))


def build(
    config: tuple[Convs, Convs, Convs],
    *,
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (224, 224),
) -> nn.Sequential:
    """A column of Table 3, for images from 15x15 on. Raises U122 for smaller ones."""
    windows = [Window("conv1", 7, 2, 3)]
    windows += [Window(f"the pooling of {each}", 2, 2) for each in ("conv2_x", "conv3_x", "conv4_x")]
    cells = min(final_size(name, input_size, windows, published=224))
    levels = [n for n in PYRAMID if n <= cells]
    second, third, fourth = config
    net = stage(  # at 224x224, model A:
        conv1=conv(in_channels, 96, 7, stride=2),  # (N, 96, 112, 112)
        conv2_x=convs(96, second),  # (N, 256, 56, 56)
        conv3_x=convs(second.width, third),  # (N, 512, 28, 28)
        conv4_x=convs(third.width, fourth),  # (N, 512, 14, 14)
        spp=SpatialPyramidPooling(levels),  # (N, 63 * 512)
        fc1=dense(fourth.width * sum(n * n for n in levels), 4096),
        fc2=dense(4096, 4096),
        fc3=nn.Linear(4096, num_classes),
    )
    he_normal(net, slope=SLOPE)
    return net


for _name, _config in CONFIGS.items():
    register(
        partial(build, _config, name=_name),
        name=_name,
        source=SOURCE,
        summary=f"model {_name[-1].upper()} of Table 3: plain, PReLU, spatial pyramid pooling",
        deviations=(
            "padding, not printed, is half of the kernel",
            "the bins of the pyramid, not printed, are those of SPP-net's appendix A",
            "levels of the pyramid that are finer than the maps are left out, for small images",
        ),
    )
