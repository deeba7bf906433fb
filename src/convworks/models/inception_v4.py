"""Inception-v4: C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi, "Inception-v4, Inception-ResNet and the impact
of residual connections on learning", AAAI 2017, Figures 3 to 9 (numbers as in arXiv:1602.07261).

42,679,816 parameters at 1000 classes, 299x299 pixels. Initial weights are not in the paper; here they are
those of He et al. 2015.

Deviations of `inception_v4`, which are those of the authors' code and of all published weights:
- 1xn and nx1 convolutions are the other way round in the long branches of the stem (Figure 3: 7x1, 1x7), of
  Inception-B (Figure 5: 1x7, 7x1, 1x7, 7x1) and of Inception-C (Figure 6: 1x3, 3x1); all counts are the same;
- Figure 5 prints 1x7 for both convolutions of the short branch of Inception-B, a misprint for 1x7 and 7x1.
"""

from __future__ import annotations

from torch import nn

from convworks.layers import stage
from convworks.models.branches import Module, build_module, windows
from convworks.models.fit import final_size
from convworks.models.initial import initialise
from convworks.models.registry import register

STEM: list[tuple[str, Module]] = [  # Figure 3, at 299x299:
    ("conv2d_1a", "3x3/2 32 V"),  # (N, 32, 149, 149)
    ("conv2d_2a", "3x3 32 V"),  # (N, 32, 147, 147)
    ("conv2d_2b", "3x3 64"),  # (N, 64, 147, 147)
    ("mixed_3a", ("max/2 V", "3x3/2 96 V")),  # (N, 160, 73, 73)
    (  # (N, 192, 71, 71); Deviation: 7x1 > 1x7 in Figure 3
        "mixed_4a",
        ("1x1 64 > 3x3 96 V", "1x1 64 > 1x7 64 > 7x1 64 > 3x3 96 V"),
    ),
    ("mixed_5a", ("3x3/2 192 V", "max/2 V")),  # (N, 384, 35, 35)
]

INCEPTION_A: Module = (  # Figure 4
    "1x1 96",
    "1x1 64 > 3x3 96",
    "1x1 64 > 3x3 96 > 3x3 96",
    "avg > 1x1 96",
)
REDUCTION_A: Module = (  # Figure 7 with k, l, m, n = 192, 224, 256, 384 (Table 1)
    "3x3/2 384 V",
    "1x1 192 > 3x3 224 > 3x3/2 256 V",
    "max/2 V",
)
INCEPTION_B: Module = (  # Figure 5
    "1x1 384",
    "1x1 192 > 1x7 224 > 7x1 256",
    "1x1 192 > 7x1 192 > 1x7 224 > 7x1 224 > 1x7 256",  # Deviation: 1x7 > 7x1 > 1x7 > 7x1 in Figure 5
    "avg > 1x1 128",
)
REDUCTION_B: Module = (  # Figure 8
    "1x1 192 > 3x3/2 192 V",
    "1x1 256 > 1x7 256 > 7x1 320 > 3x3/2 320 V",
    "max/2 V",
)
INCEPTION_C: Module = (  # Figure 6
    "1x1 256",
    "1x1 384 > 1x3 256 | 3x1 256",
    "1x1 384 > 3x1 448 > 1x3 512 > 1x3 256 | 3x1 256",  # Deviation: 1x3 > 3x1 in Figure 6
    "avg > 1x1 256",
)
FIGURE_9 = [  # name, module, how many
    ("inception_a", INCEPTION_A, 4),  # (N, 384, 35, 35)
    ("reduction_a", REDUCTION_A, 1),  # (N, 1024, 17, 17)
    ("inception_b", INCEPTION_B, 7),  # (N, 1024, 17, 17)
    ("reduction_b", REDUCTION_B, 1),  # (N, 1536, 8, 8)
    ("inception_c", INCEPTION_C, 3),  # (N, 1536, 8, 8)
]
WINDOWS = [*windows(STEM), *windows((name, module) for name, module, _ in FIGURE_9)]


def build_stem(c_in: int, layers: list[tuple[str, Module]] = STEM) -> tuple[nn.Sequential, int]:
    """The named layers of a stem in a row, and its number of output maps."""
    parts: dict[str, nn.Module] = {}
    for name, module in layers:
        parts[name], c_in = build_module(c_in, module)
    return stage(**parts), c_in


def inception_v4(
    *, num_classes: int = 1000, in_channels: int = 3, input_size: tuple[int, int] = (299, 299)
) -> nn.Sequential:
    """Figure 9, for images of 75x75 and more. Raises U122 for smaller ones."""
    final_size("inception_v4", input_size, WINDOWS, published=299)
    stages: dict[str, nn.Module] = {}
    stages["stem"], c_in = build_stem(in_channels)
    for name, module, count in FIGURE_9:
        blocks: dict[str, nn.Module] = {}
        for number in range(1, count + 1):
            blocks[f"block{number}"], c_in = build_module(c_in, module)
        stages[name] = stage(**blocks) if count > 1 else blocks["block1"]
    stages["avg_pool"] = stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())  # (N, 1536)
    stages["dropout"] = nn.Dropout(0.2)  # "keep 0.8"
    stages["linear"] = nn.Linear(c_in, num_classes)
    net = stage(**stages)
    initialise(net, nn.init.kaiming_normal_)
    return net


register(
    inception_v4,
    source="Szegedy, Ioffe, Vanhoucke, Alemi 2017, Inception-v4, Figure 9",
    summary="uniform inception modules and reductions, 299x299 pixels",
    deviations=(
        "1xn and nx1 convolutions in the order of the authors' code, which is not that of the figures",
    ),
)
