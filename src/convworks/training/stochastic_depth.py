"""Stochastic depth: residual branches that are left out at random in training, more of them near the end.

Huang, Sun, Liu, Sedra, Weinberger, "Deep networks with stochastic depth", 2016: branch l of L survives a
training step with probability p_l = 1 - l/L (1 - p_L) (equation 4), and counts with p_l at test (equation 5).
`layers.Residual` does both; here are the probabilities of a whole network, and the form in which a finished
network is kept: p_l multiplied into the last weights of each branch, so that no file needs to know of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from convworks.errors import ConvworksError
from convworks.layers.residual import Residual

_AFFINE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, _BatchNorm)


def residual_units(network: nn.Module) -> dict[str, Residual]:
    """The residual units by name, in the order of the network."""
    return {name: module for name, module in network.named_modules() if isinstance(module, Residual)}


def set_survival_(network: nn.Module, last_skipped: float) -> int:
    """Give unit l of L the survival probability 1 - l/L * last_skipped; the number of units.

    Raises U213 where a branch does not end in weights into which its probability could be multiplied.
    """
    units = residual_units(network)
    for number, (name, unit) in enumerate(units.items(), start=1):
        unit.survival = 1 - number / len(units) * last_skipped
        if unit.survival < 1:
            last_affine(unit, name)
    return len(units)


def survivals(network: nn.Module) -> dict[str, float]:
    """Name -> survival probability of the units that may be left out."""
    return {name: unit.survival for name, unit in residual_units(network).items() if unit.survival < 1}


@torch.no_grad()
def fold_survival_(network: nn.Module, probabilities: Mapping[str, float]) -> None:
    """Multiply each unit's probability into the last weights of its branch; the unit is an ordinary one then.

    y = f(p F(x) + x) with F = W G(x) + b is f((p W) G(x) + p b + x): the same function to rounding.
    """
    for name, probability in probabilities.items():
        unit = network.get_submodule(name)
        assert isinstance(unit, Residual)
        layer = last_affine(unit, name)
        for parameter in (layer.weight, layer.bias):
            if isinstance(parameter, Tensor):
                parameter.mul_(probability)
        unit.survival = 1.0


def last_affine(unit: Residual, name: str) -> nn.Module:
    """The convolution, dense layer or batch norm that ends a branch. After it may stand what commutes with
    a positive factor: a scaling, a ReLU, a pooling, dropout. Raises U213 for another end.
    """
    after: list[nn.Module] = []
    for module in reversed(_sequence(unit.branch)):
        if isinstance(module, _AFFINE) and module.weight is not None:
            if all(_commutes(each, module) for each in after):
                return module
            break
        after.append(module)
    raise ConvworksError(
        "U213",
        f"the branch of the residual unit '{name}' cannot be left out at random",
        why="its survival probability must go into the weights of a convolution, a dense layer or a batch "
        "norm at its end",
        try_="--set regularize.stochastic_depth=0",
    )


def _sequence(module: nn.Module) -> list[nn.Module]:
    """The modules of nested sequences, one after the other."""
    if isinstance(module, nn.Sequential):
        return [each for child in module for each in _sequence(child)]
    return [module]


def _commutes(module: nn.Module, affine: nn.Module) -> bool:
    """Whether module(z / 2) = module(z) / 2 at test, for z such as `affine` gives."""
    if module.state_dict():  # it changes in training
        return False
    weight = affine.weight
    assert isinstance(weight, Tensor)
    rank, size = 0 if isinstance(affine, nn.Linear) else max(weight.ndim - 2, 2), len(weight)
    z = torch.linspace(-1, 1, size * 5**rank).reshape(1, size, *(5,) * rank)
    training, found = module.training, False
    module.eval()
    try:
        with torch.no_grad():
            found = torch.allclose(module(z / 2), module(z) / 2)
    except (RuntimeError, ValueError, TypeError):
        found = False
    module.train(training)
    return found
