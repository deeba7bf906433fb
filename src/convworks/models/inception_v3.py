"""Inception-v3: C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016.

The network of the authors' code, which published weights are of and torchvision ships too: 299x299 pixels,
23,834,568 parameters, and 27,161,264 with the auxiliary head on the last 17x17 maps. Convolutions are
factorised: 5x5 into two of 3x3, 7x7 into 1x7 and 7x1, and the grid shrinks in parallel branches of stride 2.

Not in the paper, and chosen here: the initial weights (He et al. 2015). In images smaller than the paper's
the windows of the auxiliary head shrink to the maps that they find.

Deviations of `inception_v3` from the paper, all but the third those of the authors' own code:
- after 64 maps Table 1 has 3x3 to 80 with stride 2 and 3x3 to 192, then 288 maps; the code has 1x1 to 80, 3x3
  to 192, and a maximum with stride 2, and its first module gives 256 maps;
- modules A keep one 5x5 branch beside the branch of two 3x3 convolutions (Figure 5 has none);
- the mean in a pooling branch counts the zeros of the border, as torchvision's does and the authors' not;
- the discount 0.4 of the auxiliary loss and dropout of 50 %, which the paper does not give, are those of the
  authors' first code and of torchvision.
"""

from __future__ import annotations

from torch import nn

from convworks.layers import stage
from convworks.models.branches import AuxiliaryHead, Headed, Module, build_module, conv_bn, windows
from convworks.models.fit import final_size
from convworks.models.initial import initialise
from convworks.models.registry import register

DISCOUNT = 0.4
HEAD = 17  # side of the maps that the auxiliary head sees at 299x299


def block_a(*, pool: int) -> Module:
    """Figure 5: 35x35 -> 35x35."""
    return ("1x1 64", "1x1 48 > 5x5 64", "1x1 64 > 3x3 96 > 3x3 96", f"avg > 1x1 {pool}")


def block_b() -> Module:
    """Figure 10: 35x35 -> 17x17."""
    return ("3x3/2 384 V", "1x1 64 > 3x3 96 > 3x3/2 96 V", "max/2 V")


def block_c(*, c7: int) -> Module:
    """Figure 6 with n = 7: 17x17 -> 17x17."""
    return (
        "1x1 192",
        f"1x1 {c7} > 1x7 {c7} > 7x1 192",
        f"1x1 {c7} > 7x1 {c7} > 1x7 {c7} > 7x1 {c7} > 1x7 192",
        "avg > 1x1 192",
    )


def block_d() -> Module:
    """Figure 10 with a 7x7 branch: 17x17 -> 8x8."""
    return ("1x1 192 > 3x3/2 320 V", "1x1 192 > 1x7 192 > 7x1 192 > 3x3/2 192 V", "max/2 V")


def block_e() -> Module:
    """Figure 7: 8x8 -> 8x8."""
    return (
        "1x1 320",
        "1x1 384 > 1x3 384 | 3x1 384",
        "1x1 448 > 3x3 384 > 1x3 384 | 3x1 384",
        "avg > 1x1 192",
    )


LAYERS: list[tuple[str, Module]] = [  # at 299x299:
    ("conv2d_1a", "3x3/2 32 V"),  # (N, 32, 149, 149)
    ("conv2d_2a", "3x3 32 V"),  # (N, 32, 147, 147)
    ("conv2d_2b", "3x3 64"),  # (N, 64, 147, 147)
    ("maxpool_3a", "max/2 V"),  # (N, 64, 73, 73)
    ("conv2d_3b", "1x1 80"),  # (N, 80, 73, 73)
    ("conv2d_4a", "3x3 192 V"),  # (N, 192, 71, 71)
    ("maxpool_5a", "max/2 V"),  # (N, 192, 35, 35)
    ("mixed_5b", block_a(pool=32)),  # (N, 256, 35, 35)
    ("mixed_5c", block_a(pool=64)),  # (N, 288, 35, 35)
    ("mixed_5d", block_a(pool=64)),  # (N, 288, 35, 35)
    ("mixed_6a", block_b()),  # (N, 768, 17, 17)
    ("mixed_6b", block_c(c7=128)),  # (N, 768, 17, 17)
    ("mixed_6c", block_c(c7=160)),  # (N, 768, 17, 17)
    ("mixed_6d", block_c(c7=160)),  # (N, 768, 17, 17)
    ("mixed_6e", block_c(c7=192)),  # (N, 768, 17, 17), auxiliary head
    ("mixed_7a", block_d()),  # (N, 1280, 8, 8)
    ("mixed_7b", block_e()),  # (N, 2048, 8, 8)
    ("mixed_7c", block_e()),  # (N, 2048, 8, 8)
]


def auxiliary_head(c_in: int, cells: tuple[int, int], num_classes: int) -> AuxiliaryHead:
    """5x5/3 mean, 1x1 to 128 maps, 5x5 to 768, linear; at 17x17 the 5x5 kernel sees the whole map."""
    mean = min(5, cells[0]), min(5, cells[1])
    left = [(side - window) // 3 + 1 for side, window in zip(cells, mean, strict=True)]  # 5x5
    return AuxiliaryHead(
        pool=nn.AvgPool2d(mean, stride=3),
        conv0=conv_bn(c_in, 128, 1),
        conv1=conv_bn(128, 768, (min(5, left[0]), min(5, left[1])), padding=0),
        mean=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(768, num_classes),
    )


def inception_v3(
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (299, 299),
    auxiliary: bool = True,
) -> Headed:
    """The rows of `LAYERS`, for images of 75x75 and more; `auxiliary=False` leaves the head out.

    Raises U122 for smaller images.
    """
    final_size("inception_v3", input_size, windows(LAYERS), published=299)
    stages: dict[str, nn.Module] = {}
    c_in = in_channels
    for name, module in LAYERS:
        stages[name], c_in = build_module(c_in, module, count_padding=True)
        if auxiliary and name == "mixed_6e":
            upto = windows(LAYERS[: 1 + LAYERS.index((name, module))])
            cells = final_size("inception_v3", input_size, upto, published=299)
            stages["auxiliary_6e"] = auxiliary_head(c_in, cells, num_classes)
    stages["avg_pool"] = stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())  # (N, 2048)
    stages["dropout"] = nn.Dropout(0.5)
    stages["linear"] = nn.Linear(c_in, num_classes)
    net = Headed(stages, discount=DISCOUNT)
    initialise(net, nn.init.kaiming_normal_)
    return net


register(
    inception_v3,
    source="Szegedy et al. 2016, Rethinking the Inception architecture for computer vision",
    summary="factorised convolutions, 299x299 pixels, one auxiliary head on the 17x17 maps",
    deviations=(
        "the stem and the first modules are those of the authors' code, not of the paper's Table 1",
        "modules A keep a 5x5 branch",
        "the mean in pooling branches counts the zeros of the border, as torchvision's does",
        "auxiliary discount 0.4 and dropout 50 %, which the paper does not give",
    ),
)
