"""A first convolution whose filters whiten the patches of the training images.

Jordan 2024 (arXiv:2404.00498), section 3.2, after Page 2019: with C channels and k x k patches the filters
are the D = C k^2 principal directions of the patches, each divided by the root of its variance, and then the
same with the other sign, so that a rectifier behind them loses nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convworks.ops.arguments import bad_argument
from convworks.ops.whitening import fit_whitening

EPSILON = 5e-5  # share of the largest variance that is added to every variance
MOST_PATCHES = 2**21


@torch.no_grad()
def whitening_filters(images: Tensor, *, kernel: tuple[int, int], epsilon: float = EPSILON) -> Tensor:
    """(2 D, C, kH, kW) from images (N, C, H, W): D directions, largest variance first, then their negatives.

    The sign of a direction is that which makes its largest entry positive. Raises BadArgument where the
    images are smaller than the kernel, and where all patches are the same.
    """
    C, (kH, kW) = images.shape[1], kernel
    if images.shape[2] < kH or images.shape[3] < kW:
        size = f"{images.shape[2]}x{images.shape[3]}"
        raise bad_argument("images", size, why=f"a patch has {kH}x{kW} pixels", fits="larger images")
    patches = images.unfold(2, kH, 1).unfold(3, kW, 1).permute(0, 2, 3, 1, 4, 5)
    rows = patches.reshape(-1, C * kH * kW)
    rows = rows[:: max(1, len(rows) // MOST_PATCHES)]
    matrix = fit_whitening(
        rows, method="pca", epsilon=epsilon
    ).matrix.float()  # (D, D), a direction in each row
    largest = matrix.abs().argmax(dim=1, keepdim=True)
    matrix = matrix * matrix.gather(1, largest).sign()
    return torch.cat([matrix, -matrix]).reshape(-1, C, kH, kW)


@torch.no_grad()
def whiten_first_layer(network: nn.Module, images: Tensor) -> str:
    """Put these filters into the network's first convolution; its name.

    A layer with fewer than 2 D filters takes the first half of them of each sign. Raises BadArgument where
    there is no convolution over whole patches, or one with an odd number of filters or more than 2 D.
    """
    name, layer = next(
        ((name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d)), ("", None)
    )
    if layer is None or layer.groups != 1 or layer.in_channels != images.shape[1]:
        raise bad_argument(
            "network",
            type(network).__name__,
            why="its first layer is no convolution of the images",
            fits="airbench94",
        )
    height, width = layer.kernel_size
    filters = whitening_filters(images, kernel=(height, width))
    count, most = layer.out_channels, len(filters)
    if count % 2 or count > most:
        raise bad_argument(
            "network",
            f"{count} filters in {name}",
            why=f"patches of {height}x{width} pixels have {most // 2} directions, each with two signs",
            fits=f"an even number up to {most}",
        )
    layer.weight.copy_(torch.cat([filters[: count // 2], filters[most // 2 : most // 2 + count // 2]]))
    if layer.bias is not None:
        layer.bias.zero_()
    return name
