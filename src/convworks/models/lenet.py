"""LeNet-5, as published and as it is usually built today.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998: section II-B, Table I, Figures 2 and 3, appendix A.

`lenet5` has the trainable sub-sampling layers, the connection table of C3, the squashing function
1.7159 tanh(2a/3) after every layer up to F6, the RBF output with fixed codes, and the paper's initial
weights. At 32x32 pixels, one channel and ten classes it has 60,000 trainable parameters and 340,908
connections. Its outputs are -y_i, so that softmax cross-entropy is the criterion of equation 9.

Deviations of `lenet5`:
- equation 9's constant e^-j of the "rubbish" class is not in the loss;
- the ten 7x12 bitmaps are drawn after Figure 3, which is a picture; for other numbers of classes the codes
  are rows of a Hadamard matrix, an error-correcting code as the paper suggests;
- `output="linear"` is not in the paper: a trained layer in place of the fixed codes, 60,850 parameters.

Deviations of `lenet5_modern` (61,706 parameters at 28x28, the form that most libraries call LeNet-5):
ReLU for the squashing function, maximum pooling without parameters for S2 and S4, C3 connected to all maps,
a linear output, padding of 2 in C1 for 28x28 images, and torch's own initial weights.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from convworks.layers import ConnectionTableConv2d, RBFOutput, ScaledTanh, Subsampling, stage
from convworks.models.registry import bad_option, misfit, register

SOURCE = "LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition"

# Table I: rows are the maps of S2, columns the maps of C3.
# fmt: off
TABLE_I = (
    # 0 1 2 3 4 5 6 7 8 9 ...     15
    "X . . . X X X . . X X X X . X X",
    "X X . . . X X X . . X X X X . X",
    "X X X . . . X X X . . X . X X X",
    ". X X X . . X X X X . . X . X X",
    ". . X X X . . X X X X . X X . X",
    ". . . X X X . . X X X X . X X X",
)

# The targets of F6: ten bitmaps of 7x12, one digit each, in the manner of Figure 3.
DIGITS = (
    "....... ....... ....... ....... ....... ....... ....... ....... ....... .......",
    "..###.. ...##.. ..####. .#####. .....#. ####### ..####. ####### ..###.. ..###..",
    ".#...#. ..###.. .#....# #.....# ....##. #...... .#..... #.....# .#...#. .#...#.",
    "#.....# .#.##.. #.....# ......# ...#.#. #...... #...... ......# #.....# #.....#",
    "#.....# ...##.. ......# ......# ..#..#. #...... #...... .....#. #.....# #.....#",
    "#.....# ...##.. .....#. ..####. .#...#. #####.. #.###.. .....#. .#####. .#....#",
    "#.....# ...##.. ....#.. ......# #....#. .....#. ##...#. ....#.. .#...#. ..####.",
    "#.....# ...##.. ...#... ......# ####### ......# #.....# ....#.. #.....# ......#",
    "#.....# ...##.. ..#.... ......# .....#. ......# #.....# ...#... #.....# ......#",
    ".#...#. ...##.. .#..... #.....# .....#. #....#. .#...#. ...#... .#...#. .....#.",
    "..###.. .###### ####### .#####. .....#. .####.. ..###.. ..#.... ..###.. ..###..",
    "....... ....... ....... ....... ....... ....... ....... ....... ....... .......",
)
# fmt: on


def digit_codes() -> Tensor:
    """(10, 84) codes of +1 (ink) and -1 (paper), each a 7x12 bitmap read row by row."""
    columns = zip(*(row.split() for row in DIGITS), strict=True)  # ten tuples of twelve rows
    return torch.tensor([[1.0 if c == "#" else -1.0 for c in "".join(rows)] for rows in columns])


def hadamard_codes(count: int) -> Tensor:
    """(count, 84) codes of +-1 at a distance of 42 from each other, for up to 168 classes.

    Rows of Paley's Hadamard matrix of order 83 + 1, and after the 84th row their negatives (at 42 or 84).
    """
    q = 83  # a prime of the form 4m + 3
    squares = {x * x % q for x in range(1, q)}
    jacobsthal = [[0 if i == j else 1 if (i - j) % q in squares else -1 for j in range(q)] for i in range(q)]
    skew = torch.zeros(q + 1, q + 1)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = torch.tensor(jacobsthal, dtype=torch.float32)
    hadamard = skew + torch.eye(q + 1)
    return torch.cat([hadamard, -hadamard])[:count]


class LeNet5(nn.Sequential):
    """The network of Figure 2; its children are the paper's layers, each with its squashing function."""

    def __init__(self, *, num_classes: int, in_channels: int, output: str) -> None:
        final: nn.Module
        if output == "rbf":
            final = RBFOutput(digit_codes() if num_classes == 10 else hadamard_codes(num_classes))
        else:
            final = nn.Linear(84, num_classes)
        super().__init__(
            OrderedDict(
                c1=stage(conv=nn.Conv2d(in_channels, 6, 5), squash=ScaledTanh()),  # (N, 6, 28, 28)
                s2=stage(pool=Subsampling(6), squash=ScaledTanh()),  # (N, 6, 14, 14)
                c3=stage(conv=ConnectionTableConv2d(TABLE_I, 5), squash=ScaledTanh()),  # (N, 16, 10, 10)
                s4=stage(pool=Subsampling(16), squash=ScaledTanh()),  # (N, 16, 5, 5)
                c5=stage(conv=nn.Conv2d(16, 120, 5), squash=ScaledTanh()),  # (N, 120, 1, 1)
                f6=stage(flatten=nn.Flatten(), linear=nn.Linear(120, 84), squash=ScaledTanh()),  # (N, 84)
                output=final,  # (N, K)
            )
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-2.4/F with F the fan-in of the unit, biases too (appendix A)."""
        for layer in self.modules():
            if isinstance(layer, ConnectionTableConv2d):
                of_kernel, of_map = layer.fan_in()
                layer.weight.uniform_(-2.4, 2.4).div_(of_kernel[:, None, None])
                layer.bias.uniform_(-2.4, 2.4).div_(of_map)
            elif isinstance(layer, Subsampling):
                layer.coefficient.uniform_(-2.4 / 4, 2.4 / 4)
                layer.bias.uniform_(-2.4 / 4, 2.4 / 4)
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                bound = 2.4 / layer.weight[0].numel()
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound)


def lenet5(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    input_size: tuple[int, int] = (32, 32),
    output: Literal["rbf", "linear"] = "rbf",
) -> LeNet5:
    """LeNet-5 as published, for images of 32x32 pixels.

    Raises U122 for another size, U123 for another output and for more than 168 classes with the RBF output.
    """
    if input_size != (32, 32):
        raise misfit(
            "lenet5",
            input_size,
            why="the 5x5 kernels of C5 cover the whole of S4, which has 5x5 units only for 32x32 pixels",
            fits="32x32, to which training pads or resizes images by itself",
            size=32,
        )
    if output not in ("rbf", "linear"):
        raise bad_option("lenet5", "output", output, allowed=("rbf", "linear"))
    if output == "rbf" and num_classes > 168:
        raise bad_option("lenet5", "output", f"rbf with {num_classes} classes", allowed=("linear",))
    return LeNet5(num_classes=num_classes, in_channels=in_channels, output=output)


def lenet5_modern(
    *, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)
) -> nn.Sequential:
    """LeNet-5 with ReLU and maximum pooling, for images from 12x12 on. Raises U122 for smaller ones."""
    if min(input_size) < 12:
        raise misfit(
            "lenet5_modern",
            input_size,
            why="C3 and S4 would be left without a pixel",
            fits="12x12 and larger",
            size=28,
        )
    s4 = 16 * ((input_size[0] // 2 - 4) // 2) * ((input_size[1] // 2 - 4) // 2)
    # ReLU and the maximum commute: after the pooling there are four times fewer units to rectify.
    return stage(  # at 28x28:
        c1=stage(conv=nn.Conv2d(in_channels, 6, 5, padding=2)),  # (N, 6, 28, 28)
        s2=stage(pool=nn.MaxPool2d(2), relu=nn.ReLU()),  # (N, 6, 14, 14)
        c3=stage(conv=nn.Conv2d(6, 16, 5)),  # (N, 16, 10, 10)
        s4=stage(pool=nn.MaxPool2d(2), relu=nn.ReLU()),  # (N, 16, 5, 5)
        c5=stage(flatten=nn.Flatten(), linear=nn.Linear(s4, 120), relu=nn.ReLU()),
        f6=stage(linear=nn.Linear(120, 84), relu=nn.ReLU()),
        output=nn.Linear(84, num_classes),
    )


register(
    lenet5,
    source=SOURCE,
    summary="LeNet-5 as published: trainable sub-sampling, connection table, RBF output; 60,000 parameters",
    deviations=(
        "the constant e^-j of equation 9 is not in the loss",
        "the RBF bitmaps are drawn after Figure 3; other numbers of classes take Hadamard codes",
        "output='linear' replaces the fixed codes by a trained layer (60,850 parameters)",
    ),
)
register(
    lenet5_modern,
    source=SOURCE,
    summary="LeNet-5 as usually built today: ReLU, maximum pooling, linear output; 61,706 parameters",
    deviations=(
        "ReLU for 1.7159 tanh(2a/3)",
        "maximum pooling without parameters for the trainable sub-sampling",
        "C3 sees all maps of S2, not those of Table I",
        "a linear output for the RBF output",
        "C1 pads by 2, for 28x28 images",
        "torch's initial weights",
    ),
)
