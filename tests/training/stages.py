"""A plan of a small network, with and without layers by kernels of ours, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convworks.training.loop import StepSettings
from convworks.training.optimizer import make_optimizer
from convworks.training.own_convolutions import Result
from convworks.training.planner import Plan, make_plan
from tests.training.trial import batch

WINOGRAD, AMX = "Winograd's algorithm: ", "matrix units (AMX): "
Gains = dict[str, dict[str, float]]


class Network(nn.Module):
    """Nothing is fused; three convolutions fit Winograd's algorithm, four and a dense layer AMX."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 5, padding=2)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 8, 3)
        self.drop = nn.Dropout(0.5)
        self.dense = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.norm(self.first(x))))
        y: Tensor = self.dense(self.drop(self.last(x)).mean((2, 3)))
        return y


def network() -> Network:
    torch.manual_seed(0)
    return Network().to(memory_format=torch.channels_last)


def plan(net: nn.Module | None = None, kernels: Callable[[bool], str] = lambda _: "", **wanted: Any) -> Plan:
    settings: dict[str, Any] = {"precision": "bf16", "memory_format": "channels_last", "threads": 1}
    return make_plan(
        network() if net is None else net,
        batch(),
        make_optimizer=lambda trainee: make_optimizer("sgd", trainee, lr=0.1),
        settings=StepSettings(seed=0, lr=0.1),
        device="cpu",
        batch_path="RAM",
        allocator="test",
        steps=10,
        kernels=kernels,
        **{**settings, **wanted},
    )


def reason(found: Plan | Result, begin: str) -> str:
    (line,) = (line for line in found.reasons if line.startswith(begin))
    return line.removeprefix(begin)


def both_reasons(found: Plan | Result) -> list[str]:
    return [reason(found, WINOGRAD), reason(found, AMX)]
