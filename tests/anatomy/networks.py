"""Small networks whose boxes and joins can be counted by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Unit(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), with a functional addition."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(maps, maps, 3, padding=1, bias=False), nn.BatchNorm2d(maps)
        self.conv2, self.bn2 = nn.Conv2d(maps, maps, 3, padding=1, bias=False), nn.BatchNorm2d(maps)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        z: Tensor = self.relu(x + y)
        return z


class Before(nn.Module):
    """x + conv(relu(bn(x))): the shortcut passes the norm by."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.bn, self.relu = nn.BatchNorm2d(maps), nn.ReLU()
        self.conv = nn.Conv2d(maps, maps, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv(self.relu(self.bn(x)))
        return y


class Fork(nn.Module):
    """Three branches side by side, one of two layers, and their concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 2, 1)
        self.three = nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 3, padding=1))
        self.pool = nn.MaxPool2d(3, 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.pool(x)], dim=1)


class Bridge(nn.Module):
    """A layer that two later ones read, across another: branches that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(x + a)
        c: Tensor = self.c(a * b)
        return c + b


def residual() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module(
        "stem", nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.BatchNorm2d(8), nn.ReLU())
    )
    net.add_module("stage1", nn.Sequential(Unit(8), Unit(8)))
    net.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)))
    return net
