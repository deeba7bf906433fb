"""Independent networks with published names: torchvision's, and a MobileNet V1 written out here.

torchvision is for tests only and is installed without its dependencies. Its compiled part does not fit every
build of torch; its networks are plain Python and need of it only that two operators exist.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STUBS: list[torch.library.Library] = []  # a definition lives as long as its library


@cache
def _load() -> ModuleType | str:
    """torchvision.models, or why there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("torchvision.models")
        except ImportError as problem:
            return f"torchvision is not installed ({problem}); make test installs it"
        except RuntimeError:  # operator torchvision::nms does not exist
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _STUBS.append(library)
        return importlib.import_module("torchvision.models")


def torchvision_models() -> Any:
    """torchvision.models; without it the test is skipped, and in CI it fails."""
    found = _load()
    if isinstance(found, str):
        if os.environ.get("CI") == "true":
            pytest.fail(found)
        pytest.skip(found)
    return found


def filled(build: Callable[[], nn.Module], *, gain: float = 0.6, seed: int = 0) -> nn.Module:
    """A network in eval mode with random weights and statistics.

    `gain` is the middle of batch norm's factors: signals shall neither die nor grow on their way.
    """
    with torch.device("meta"):
        network = build()
    network.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = (6 / module.weight[0].numel()) ** 0.5
                module.weight.uniform_(-bound, bound, generator=draw)
                if module.bias is not None:
                    module.bias.uniform_(-0.1, 0.1, generator=draw)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(gain - 0.3, gain + 0.3, generator=draw)
                module.bias.uniform_(-0.2, 0.2, generator=draw)
                module.running_mean.uniform_(-0.3, 0.3, generator=draw)
                module.running_var.uniform_(0.7, 1.5, generator=draw)
                module.num_batches_tracked.zero_()
    return network.eval()


def images(side: int, *, count: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """16 digits that stand for all names and shapes."""
    lines = sorted(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# MobileNet V1 by Table 1 of the paper: strides of the separable layers, grouped by their maps as timm does.
STRIDES = ((1,), (2, 1), (2, 1), (2, 1, 1, 1, 1, 1), (2, 1))
MAPS = (64, 128, 256, 512, 1024)


def mobilenet_weights(*, width: float, classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under timm's names."""
    draw = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def convolution(name: str, *shape: int) -> None:
        bound = (6 / (shape[1] * shape[2] * shape[3])) ** 0.5
        weights[f"{name}.weight"] = torch.empty(shape).uniform_(-bound, bound, generator=draw)

    def norm(name: str, maps: int) -> None:
        for part, low, high in (("weight", 0.5, 1.5), ("bias", -0.2, 0.2), ("running_mean", -0.3, 0.3)):
            weights[f"{name}.{part}"] = torch.empty(maps).uniform_(low, high, generator=draw)
        weights[f"{name}.running_var"] = torch.empty(maps).uniform_(0.7, 1.5, generator=draw)
        weights[f"{name}.num_batches_tracked"] = torch.tensor(0)

    c_in = int(32 * width)
    convolution("conv_stem", c_in, 3, 3, 3)
    norm("bn1", c_in)
    for group, strides in enumerate(STRIDES):
        for place in range(len(strides)):
            at, c_out = f"blocks.{group}.{place}", int(MAPS[group] * width)
            convolution(f"{at}.conv_dw", c_in, 1, 3, 3)
            norm(f"{at}.bn1", c_in)
            convolution(f"{at}.conv_pw", c_out, c_in, 1, 1)
            norm(f"{at}.bn2", c_out)
            c_in = c_out
    weights["classifier.weight"] = torch.empty(classes, c_in).uniform_(-0.1, 0.1, generator=draw)
    weights["classifier.bias"] = torch.empty(classes).uniform_(-0.1, 0.1, generator=draw)
    return weights


def mobilenet(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """(N, 3, H, W) -> logits, written out with functions alone; ReLU6 as in published weights."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(0, 6)

    x = norm(F.conv2d(x, weights["conv_stem.weight"], stride=2, padding=1), "bn1")
    for group, strides in enumerate(STRIDES):
        for place, stride in enumerate(strides):
            at = f"blocks.{group}.{place}"
            depthwise = weights[f"{at}.conv_dw.weight"]
            x = F.conv2d(x, depthwise, stride=stride, padding=1, groups=len(depthwise))
            x = norm(F.conv2d(norm(x, f"{at}.bn1"), weights[f"{at}.conv_pw.weight"]), f"{at}.bn2")
    return x.mean(dim=(2, 3)) @ weights["classifier.weight"].T + weights["classifier.bias"]
