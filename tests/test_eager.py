"""torch's optimizers without torch's compiler: the same bits, and the compiler is not imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from convworks import eager

KINDS: dict[str, dict[str, float | bool]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, "fused": True},
    "RMSprop": {"lr": 0.01, "momentum": 0.9},
    "Adam": {"lr": 0.01, "fused": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
}
PROGRAM = """
import sys
import torch
from convworks import models
from convworks.anatomy import trace
from convworks.training.optimizer import make_optimizer
for name in ("sgd", "nesterov", "sgd_alexnet", "rmsprop", "adam", "adamw"):
    network = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(name, network, lr=0.1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
trace(models.create("lenet5_modern", num_classes=10, in_channels=1, input_size=(28, 28)), (1, 28, 28))
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""


def trained(make: Callable[..., Optimizer], settings: dict[str, float | bool]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    first, last = list(network[0].parameters()), list(network[2].parameters())
    optimizer = make(first, **settings)
    optimizer.add_param_group({"params": last, "lr": 0.03})
    for _ in range(4):
        optimizer.zero_grad()
        network(torch.randn(6, 5)).square().sum().backward()
        optimizer.step()
    return list(network.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_optimizers_compute_what_torchs_do(name: str) -> None:
    ours = trained(getattr(eager, name), KINDS[name])
    theirs = trained(getattr(torch.optim, name), KINDS[name])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in ours)


@pytest.mark.parametrize("name", KINDS)
def test_hooks_of_steps_are_called(name: str) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = getattr(eager, name)([parameter], lr=0.1)
    called: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert called == ["before", "after"]


def test_training_and_tracing_leave_torchs_compiler_alone() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"
