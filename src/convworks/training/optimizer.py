"""The update rules, with the two forms of momentum both named.

PyTorch:      g += wd*w;  v = m*v + g;            w -= lr*v
AlexNet 2012: v = m*v - wd*lr*w - lr*g;           w += v      (section 5 of the paper)

They differ when the rate changes: in the paper's form a step already under way keeps its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from convworks.eager import SGD, Adam, AdamW, EagerOptimizer, RMSprop
from convworks.errors import unknown_name


class AlexNetSGD(EagerOptimizer):
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
    network: nn.Module,
    *,
    weight_decay: float,
    decay_norm_and_bias: bool,
    group_decay: Mapping[str, float] | None = None,
    lr_scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups of one weight decay and one share of the learning rate.

    Vectors (biases, normalisation) decay only with `decay_norm_and_bias`. `group_decay` gives parts of the
    network a decay of their own, by name: "fc6" is all of fc6, "conv1.conv1_1.weight" one tensor; the longest
    name wins, and a vector is meant only where all may decay or it is named in full. `lr_scales` gives parts
    a share of the rate, which `set_learning_rate` multiplies. Groups stand in the order of their first
    parameter, those that decay by the general rule before the vectors that do not; parameters in that of the
    network. Raises U101 for a name that no parameter has.
    """
    decays, scales = dict(group_decay or {}), dict(lr_scales or {})
    for setting, parts, example in (("group_decay", decays, 0.001), ("group_rate", scales, 10)):
        for part in parts:
            require_part(network, part, f"optimizer.{setting}", example=example)
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    spared = not decay_norm_and_bias and weight_decay != 0
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        vector = spared and parameter.ndim <= 1
        own = _longest(name, decays)
        if own is not None and (decay_norm_and_bias or parameter.ndim > 1 or own == name):
            decay, vector = decays[own], False
        elif own is not None or vector:
            decay, vector = 0.0, True
        else:
            decay = weight_decay
        place = _longest(name, scales)
        scale = 1.0 if place is None else scales[place]
        groups.setdefault((scale, decay, vector), []).append(parameter)
    order = {key: place for place, key in enumerate(groups)}
    keys = sorted(groups, key=lambda key: (key[2], order[key]))
    return [
        {"params": groups[key], "weight_decay": key[1], **({"lr_scale": key[0]} if scales else {})}
        for key in keys
    ]


def require_part(network: nn.Module, part: str, setting: str, *, example: float) -> None:
    """Raises U101 for the name of a part that no parameter has."""
    names = [name for name, _ in network.named_parameters()]
    if not any(belongs(name, part) for name in names):
        parts = dict.fromkeys(each for name in names for each in parts_of(name))
        try_ = f"--set {setting}.{{near}}={example:g}"
        raise unknown_name("part of the network", part, parts, try_=try_)


def belongs(name: str, part: str) -> bool:
    """Whether a parameter or layer is that part of a network or lies in it: conv1 holds conv1.weight."""
    return name == part or name.startswith(part + ".")


def parts_of(name: str) -> list[str]:
    """'conv1.conv1_1.weight' -> conv1, conv1.conv1_1, conv1.conv1_1.weight."""
    words = name.split(".")
    return [".".join(words[: n + 1]) for n in range(len(words))]


def _longest(name: str, parts: Mapping[str, float]) -> str | None:
    return max((part for part in parts if belongs(name, part)), key=len, default=None)


def make_optimizer(
    name: str,
    network: nn.Module,
    *,
    lr: float,
    momentum: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    group_decay: Mapping[str, float] | None = None,
    lr_scales: Mapping[str, float] | None = None,
) -> Optimizer:
    """One of sgd, sgd_alexnet, nesterov, rmsprop, adam, adamw, over the trainable parameters of a network.

    `group_decay` and `lr_scales` are those of `parameter_groups`.
    """
    groups = parameter_groups(
        network,
        weight_decay=weight_decay,
        decay_norm_and_bias=decay_norm_and_bias,
        group_decay=group_decay,
        lr_scales=lr_scales,
    )
    if name == "sgd_alexnet":
        return AlexNetSGD(groups, lr=lr, momentum=momentum)
    if name in {"sgd", "nesterov"}:
        descent = SGD(groups, lr=lr, momentum=momentum, nesterov=name == "nesterov", fused=True)
        descent.register_step_pre_hook(_begin_velocities)
        return descent
    if name == "rmsprop":  # v = b v + (1 - b) g^2;  m = momentum m + g / sqrt(v);  w -= lr m
        return RMSprop(groups, lr=lr, alpha=beta2, momentum=momentum)
    kind: type[Adam] | type[AdamW] = {"adam": Adam, "adamw": AdamW}[name]
    return kind(groups, lr=lr, betas=(momentum, beta2), fused=True)


def _begin_velocities(optimizer: Optimizer, args: object, kwargs: object) -> None:
    """A parameter that joins later begins with the velocity 0, which gives v = g as on a first step.

    torch's fused step takes a group's velocities only where all of them are there, or none.
    """
    for group in optimizer.param_groups:
        learning = [p for p in group["params"] if p.grad is not None]
        new = [p for p in learning if optimizer.state.get(p, {}).get("momentum_buffer") is None]
        if group["momentum"] and 0 < len(new) < len(learning):
            for parameter in new:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """The rate of every group: `lr`, or its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


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
