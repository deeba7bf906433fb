"""The network of 1989 for handwritten zip codes, the first convolutional network trained by back-propagation.

Y. LeCun, B. Boser, J. S. Denker, D. Henderson, R. E. Howard, W. Hubbard, L. D. Jackel, "Backpropagation
applied to handwritten zip code recognition", Neural Computation 1(4), 1989: section 4 and Figure 3.

Units of a map share their kernel and have a bias each. Beyond its edge a map has a constant background of -1.
9,760 free parameters and 64,660 connections in 1,256 units, those of the 16x16 image included.

Deviations:
- which eight maps of H1 a map of H2 sees follows "a scheme that will not be described here". Here maps 0 to 3
  of H2 see maps 0 to 7 of H1, maps 4 to 7 see 4 to 11, and maps 8 to 11 see 0 to 3 and 8 to 11, so that every
  map of H1 is seen by eight of H2;
- where the windows begin is not printed: two cells outside the image here, on either side;
- the constants of the scaled hyperbolic tangent are those of LeNet-5, 1.7159 tanh(2a/3);
- the output units are linear, for softmax cross-entropy in place of squared errors of squashed outputs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.layers import ScaledTanh, stage
from convworks.models.fit import Window, final_size
from convworks.models.registry import register

MAPS = 12  # of H1 and of H2
SEEN = ((0, 8), (4, 12), (0, 4), (8, 12))  # maps of H1: the first four of H2, the next four, and both ranges
BLOCKS = 3  # of four maps of H2 with the same inputs
BACKGROUND = -1.0
WINDOWS = [Window("H1", 5, 2, 2), Window("H2", 5, 2, 2)]


class SharedKernels(nn.Module):
    """5x5 kernels at stride 2, one for each map, and a bias for each unit: (N, I, H, W) -> (N, 12, H/2, W/2).

    In `blocks` of maps with inputs of their own, `inputs` for each map; H and W are rounded up.
    """

    def __init__(self, inputs: int, output: tuple[int, int], *, blocks: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.blocks = (5, 5), (2, 2), (2, 2), blocks
        self.weight = nn.Parameter(torch.empty(MAPS, inputs, 5, 5))
        self.bias = nn.Parameter(torch.empty(MAPS, *output))

    def forward(self, x: Tensor) -> Tensor:
        framed = F.pad(x, (2, 2, 2, 2), value=BACKGROUND)
        y = F.conv2d(framed, self.weight, stride=2, groups=self.blocks)
        return y + self.bias.to(y.dtype)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image: outputs times the inputs that each of them has."""
        return math.prod(output) * self.weight[0].numel()

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} inputs for each of {MAPS} maps, kernel_size=5, stride=2"


class Scheme(nn.Module):
    """The maps of H1 that each block of H2 sees, one after the other: (N, 12, H, W) -> (N, 24, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, first:last] for first, last in SEEN], dim=1)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Uniform in +-2.4/F with F the fan-in of the unit, biases too (section 4)."""
    for layer in network.modules():
        if isinstance(layer, SharedKernels | nn.Linear):
            bound = 2.4 / layer.weight[0].numel()
            layer.weight.uniform_(-bound, bound)
            layer.bias.uniform_(-bound, bound)


def lecun1989(
    *, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (16, 16)
) -> nn.Sequential:
    """The network of Figure 3, for images of any size; the paper's are 16x16. Raises U122 for no pixels."""
    of_h1 = final_size("lecun1989", input_size, WINDOWS[:1], published=16)
    of_h2 = final_size("lecun1989", input_size, WINDOWS, published=16)
    units = MAPS * math.prod(of_h2)
    network = stage(  # at 16x16:
        H1=stage(kernels=SharedKernels(in_channels, of_h1), squash=ScaledTanh()),  # (N, 12, 8, 8)
        H2=stage(
            scheme=Scheme(), kernels=SharedKernels(8, of_h2, blocks=BLOCKS), squash=ScaledTanh()
        ),  # (N, 12, 4, 4)
        H3=stage(flatten=nn.Flatten(), linear=nn.Linear(units, 30), squash=ScaledTanh()),  # (N, 30)
        output=nn.Linear(30, num_classes),
    )
    initialise(network)
    return network


register(
    lecun1989,
    source="LeCun et al. 1989, Backpropagation applied to handwritten zip code recognition",
    summary="the zip-code network of 1989: shared kernels, a bias for each unit; 9,760 parameters",
    deviations=(
        "which eight maps of H1 a map of H2 sees, a scheme that the paper does not describe",
        "windows begin two cells outside the image, where the paper prints no place",
        "the squashing function's constants are those of LeNet-5",
        "linear outputs for softmax cross-entropy, in place of squared errors of squashed outputs",
    ),
)
