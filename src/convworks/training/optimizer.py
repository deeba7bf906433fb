"""The update rules, with the two forms of momentum both named.

PyTorch:      g += wd*w;  v = m*v + g;            w -= lr*v
AlexNet 2012: v = m*v - wd*lr*w - lr*g;           w += v      (section 5 of the paper)

They differ when the rate changes: in the paper's form a step already under way keeps its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer


class AlexNetSGD(Optimizer):
    """Momentum with the learning rate inside the velocity (Krizhevsky, Sutskever, Hinton 2012, section 5)."""

    def __init__(
        self, params: Iterable[Any], *, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("AlexNetSGD takes no closure")
        for group in self.param_groups:
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if "velocity" not in self.state[weight]:
                    self.state[weight]["velocity"] = torch.zeros_like(weight)
            gradients = [weight.grad for weight in weights]
            velocities: list[Tensor] = [self.state[weight]["velocity"] for weight in weights]
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, weights, alpha=-decay * lr)
            torch._foreach_add_(velocities, gradients, alpha=-lr)
            torch._foreach_add_(weights, velocities)


def parameter_groups(
    network: nn.Module, *, weight_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    """Weights that decay and weights that do not: the vectors (biases, normalisation) are in question."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    if decay_norm_and_bias or weight_decay == 0:
        return [{"params": trainable, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(
    name: str,
    network: nn.Module,
    *,
    lr: float,
    momentum: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
) -> Optimizer:
    """One of sgd, sgd_alexnet, nesterov, adam, adamw, over the trainable parameters of a network."""
    groups = parameter_groups(network, weight_decay=weight_decay, decay_norm_and_bias=decay_norm_and_bias)
    groups = [group for group in groups if group["params"]]
    if name == "sgd_alexnet":
        return AlexNetSGD(groups, lr=lr, momentum=momentum)
    if name in {"sgd", "nesterov"}:
        return SGD(groups, lr=lr, momentum=momentum, nesterov=name == "nesterov", fused=True)
    kind: type[Adam] = {"adam": Adam, "adamw": AdamW}[name]
    return kind(groups, lr=lr, betas=(momentum, beta2), fused=True)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def state_tensors(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's memory by name: 'PARAMETER/KEY', for example 'conv1.weight/momentum_buffer'."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    found: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                found[f"{names[parameter]}/{key}"] = value
    return found


def load_state_tensors(network: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `state_tensors` gave. Raises KeyError where a parameter is unknown."""
    parameters = dict(network.named_parameters())
    optimizer.state.clear()
    for name, value in tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        parameter = parameters[parameter_name]
        restored = value.to(device=parameter.device if value.ndim else "cpu").clone()
        if restored.shape == parameter.shape and parameter.ndim == 4:
            restored = torch.empty_like(parameter).copy_(restored)  # the parameter's memory format
        optimizer.state[parameter][key] = restored
