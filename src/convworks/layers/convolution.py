"""Convolutions that torch lacks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConnectionTableConv2d(nn.Module):
    """A convolution whose output maps each see only some of the input maps, as a connection table says.

    (N, I, H, W) -> (N, O, H-k+1, W-k+1). `table` has I rows of O characters, "X" where an input map (row) is
    connected to an output map (column) and "." where it is not: the layout of Table I. There is one k x k
    kernel for each X and one bias for each output map; nothing is stored for a ".". `weight` is (X, k, k),
    ordered by output map and then by input map.
    Raises ValueError for a table of another form, or with an output map that sees nothing.
    Source: LeCun et al. 1998, section II-B, layer C3 and Table I.
    """

    position: Tensor  # (X,) place of each kernel in the flattened (O, I) grid

    def __init__(self, table: Sequence[str], kernel_size: int) -> None:
        super().__init__()
        rows = [row.replace(" ", "") for row in table]
        if not rows or len({len(row) for row in rows}) != 1 or not set("".join(rows)) <= {"X", "."}:
            raise ValueError(f"a connection table is rows of one length made of X and '.', got {list(table)}")
        inputs, outputs = len(rows), len(rows[0])
        pairs = [(o, i) for o in range(outputs) for i in range(inputs) if rows[i][o] == "X"]
        self.inputs_of = tuple(sum(out == o for out, _ in pairs) for o in range(outputs))
        if 0 in self.inputs_of:
            raise ValueError(
                f"output map {self.inputs_of.index(0)} of the connection table sees no input map"
            )
        self.in_channels, self.out_channels = inputs, outputs
        self.kernel_size = (kernel_size, kernel_size)
        self.stride, self.padding = (1, 1), (0, 0)
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.register_buffer(
            "position", torch.tensor([o * inputs + i for o, i in pairs], dtype=torch.int64), persistent=False
        )
        self.reset_parameters()

    def fan_in(self) -> tuple[Tensor, Tensor]:
        """Inputs of the unit that each kernel (X,) and each bias (O,) belongs to."""
        area = self.kernel_size[0] * self.kernel_size[1]
        of_map = torch.tensor(self.inputs_of, dtype=torch.float32) * area
        return of_map[(self.position // self.in_channels).cpu()], of_map

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan-in), torch's rule for its own convolutions, with the fan-in of each map."""
        of_kernel, of_map = self.fan_in()
        self.weight.uniform_(-1, 1).div_(of_kernel.sqrt()[:, None, None])
        self.bias.uniform_(-1, 1).div_(of_map.sqrt())

    def dense_weight(self) -> Tensor:
        """The kernels as an ordinary (O, I, k, k) weight with zeros where the table has no connection."""
        grid = self.weight.new_zeros(self.out_channels * self.in_channels, *self.kernel_size)
        dense = grid.index_copy(0, self.position, self.weight)
        return dense.view(self.out_channels, self.in_channels, *self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.dense_weight(), self.bias)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image for an output (O, H, W): only the connections of the table count."""
        return math.prod(output[1:]) * self.weight.numel()

    def extra_repr(self) -> str:
        k = self.kernel_size[0]
        return f"{self.in_channels}, {self.out_channels}, kernel_size={k}, kernels={self.weight.shape[0]}"
