"""VGG: the six networks of Table 1.

K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015
(arXiv 1409.1556): sections 2.1 and 2.2, Table 1; section 3.1 for the initial weights. D and E are what most
people call VGG-16 and VGG-19.

                        A            A-LRN        B            C            D            E
    weight layers       11           11           13           16           16           19
    parameters          132,863,336  132,863,336  133,047,848  133,638,952  138,357,544  143,667,240

Deviations:
- section 3.1 prints two rules for random initial weights, and the option `initial` has both: "normal", mean 0
  and variance 0.01, with which the authors trained A and then the others from A (`initialise_from_a`), and
  "glorot", of which they say that it makes these stages unnecessary. "glorot" is the default: with "normal"
  the logits of A have a standard deviation of 4 million on standardised images, and the first step diverges;
- `batch_norm=True` puts batch norm behind every convolution. It is not in the paper;
- dropout divides by the probability to keep while training.
Training at scale S and dense evaluation at scale Q are matters of the recipe.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import nn

from convworks.layers import stage
from convworks.layers.normalization import LocalResponseNorm
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise, normal
from convworks.models.registry import bad_option, register
from convworks.ops.arguments import bad_argument

SOURCE = "Simonyan, Zisserman 2015, Very deep convolutional networks for large-scale image recognition"

# Table 1: a stage is one string. A digit is a convolution with kernels of that size and ReLU, "n" is response
# normalisation; every stage ends in 2x2 maximum pooling.
WIDTHS = (64, 128, 256, 512, 512)
# fmt: off
CONFIGS = {
    "vgg_a":     ("3",  "3",  "33",   "33",   "33"),
    "vgg_a_lrn": ("3n", "3",  "33",   "33",   "33"),
    "vgg_b":     ("33", "33", "33",   "33",   "33"),
    "vgg_c":     ("33", "33", "331",  "331",  "331"),
    "vgg_d":     ("33", "33", "333",  "333",  "333"),
    "vgg_e":     ("33", "33", "3333", "3333", "3333"),
}
PARAMETERS = {
    "vgg_a": "132,863,336", "vgg_a_lrn": "132,863,336", "vgg_b": "133,047,848",
    "vgg_c": "133,638,952", "vgg_d": "138,357,544", "vgg_e": "143,667,240",
}
# fmt: on
HIDDEN = 4096  # fc6 and fc7
# Section 3.1: "the first four convolutional layers and the last three fully connected layers" of A, by the
# places of Table 1, where every column has layers of these names and shapes.
FROM_A = (
    "conv1.conv1_1",
    "conv2.conv2_1",
    "conv3.conv3_1",
    "conv3.conv3_2",
    "fc6.linear",
    "fc7.linear",
    "fc8",
)


def convolutions(number: int, layers: str, c_in: int, width: int, *, batch_norm: bool) -> nn.Sequential:
    """One stage of Table 1: conv1_1, relu1_1, ..., pool1; (N, C, H, W) -> (N, width, H / 2, W / 2)."""
    parts: dict[str, nn.Module] = {}
    at = ""
    for kind in layers:
        if kind == "n":  # A-LRN: with AlexNet's parameters, section 2.1
            parts[f"norm{at}"] = LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
            continue
        at = f"{number}_{sum(name.startswith('conv') for name in parts) + 1}"
        parts[f"conv{at}"] = nn.Conv2d(c_in, width, int(kind), padding=int(kind) // 2)
        if batch_norm:
            parts[f"bn{at}"] = nn.BatchNorm2d(width)
        parts[f"relu{at}"] = nn.ReLU()
        c_in = width
    return stage(**parts, **{f"pool{number}": nn.MaxPool2d(2)})


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (224, 224),
    initial: Literal["glorot", "normal"] = "glorot",
    batch_norm: bool = False,
) -> nn.Sequential:
    """A column of Table 1 for images from 32x32 on. Raises U122 for smaller ones, U123 for other initials."""
    if initial not in ("glorot", "normal"):
        raise bad_option(name, "initial", initial, allowed=("glorot", "normal"))
    pools = [Window(f"conv{number}", 2, 2) for number in range(1, 6)]
    height, width = final_size(name, input_size, pools, published=224)
    parts: dict[str, nn.Module] = {}
    c_in = in_channels
    # at 224x224: (N, 64, 112, 112), (N, 128, 56, 56), (N, 256, 28, 28), (N, 512, 14, 14), (N, 512, 7, 7)
    for number, (layers, maps) in enumerate(zip(CONFIGS[name], WIDTHS, strict=True), start=1):
        parts[f"conv{number}"] = convolutions(number, layers, c_in, maps, batch_norm=batch_norm)
        c_in = maps
    network = stage(
        **parts,
        fc6=stage(
            flatten=nn.Flatten(),
            linear=nn.Linear(c_in * height * width, HIDDEN),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.5),
        ),
        fc7=stage(linear=nn.Linear(HIDDEN, HIDDEN), relu=nn.ReLU(), drop=nn.Dropout(0.5)),
        fc8=nn.Linear(HIDDEN, num_classes),
    )
    initialise(network, nn.init.xavier_uniform_ if initial == "glorot" else normal(0.1))
    return network


@torch.no_grad()
def initialise_from_a(target: nn.Module, source: nn.Module) -> tuple[str, ...]:
    """Copy the layers of FROM_A from a trained A to another network of the table; the others stay.

    Returns the names of what was copied. Raises BadArgument, before anything is copied, where a layer is
    missing or has another shape, as fc8 has for another number of classes. Source: section 3.1.
    """
    theirs, ours = dict(source.named_parameters()), dict(target.named_parameters())
    names = tuple(f"{layer}.{part}" for layer in FROM_A for part in ("weight", "bias"))
    for name in names:
        shapes = [tuple(each[name].shape) if name in each else None for each in (theirs, ours)]
        if shapes[0] != shapes[1] or shapes[0] is None:
            why = (
                f"{name} is {shapes[0] or 'missing'} in the source and {shapes[1] or 'missing'} in the target"
            )
            fits = "vgg_a and another VGG with the same classes, channels and input size"
            raise bad_argument("source", type(source).__name__, why=why, fits=fits)
    for name in names:
        ours[name].copy_(theirs[name])
    return names


for _name, _stages in CONFIGS.items():
    _column = _name.removeprefix("vgg_").upper().replace("_", "-")
    _layers = sum(len(layers.replace("n", "")) for layers in _stages) + 3
    _known = "" if _column in ("A-LRN", "C") else f", known as VGG-{_layers}"
    register(
        partial(build, _name),
        name=_name,
        source=SOURCE,
        summary=f"VGG {_column}{_known}, {_layers} weight layers; {PARAMETERS[_name]} parameters",
        deviations=(
            "initial weights by the second of section 3.1's rules; initial='normal' is the first",
            "batch_norm=True is not in the paper",
            "dropout divides while training",
        ),
    )
