"""What a recipe asks for besides the loss and the optimizer, as one value that the training loop carries out.

Each of it acts at one place of a step: dropout probabilities and the survival of residual branches are set in
the network; noise and the record of activations are hooks while an epoch is trained; penalties add their
gradient once to that of the whole batch; projections follow the optimizer's step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from convworks.errors import ConvworksError, unknown_name
from convworks.ops.loss import mean_activations, soft_threshold
from convworks.training.noise import activation_layers, noisy_activations
from convworks.training.regularize import (
    SparsityPenalty,
    chosen_parameters,
    dropout_layers,
    project_max_norm_,
    set_dropout_,
)
from convworks.training.stochastic_depth import residual_units, set_survival_

_EDGE = 1e-6  # mean activations are kept so far from 0 and 1, where the penalty is infinite


@dataclass(frozen=True, slots=True, kw_only=True)
class Regularizers:
    """The fields are those of a recipe's `regularize`, with their meaning; the defaults do nothing."""

    l1: float = 0.0
    proximal: bool = False
    l2_plain: float = 0.0
    max_norm: float | None = None
    sparsity: float = 0.0
    sparsity_target: float = 0.05
    sparsity_layers: tuple[str, ...] = ()
    noise: float = 0.0
    dropout: float | None = None
    stochastic_depth: float = 0.0

    @property
    def penalises(self) -> bool:
        """Whether a term is added to the loss."""
        return self.l1 > 0 or self.l2_plain > 0 or self.sparsity > 0

    # --- before training ------------------------------------------------------------------------------------

    def prepare(self, network: nn.Module) -> None:
        """Set what is part of the network: dropout probabilities, survival of residual branches.

        Raises ConvworksError where the network has nothing that a setting could act on: U210 (no dropout
        layer), U211 (no activation layer), U212 (no residual unit), U213, U214 (sparsity of no layer), U101
        (no layer of that name).
        """
        if self.dropout is not None and not set_dropout_(network, self.dropout):
            raise _nothing("U210", "regularize.dropout", "dropout layer", "=none")
        if self.noise > 0 and not activation_layers(network):
            raise _nothing("U211", "regularize.noise", "activation that is a layer", "=0")
        if self.stochastic_depth > 0 and not set_survival_(network, self.stochastic_depth):
            raise _nothing("U212", "regularize.stochastic_depth", "residual unit", "=0")
        if self.sparsity > 0:
            self._require_layers(network)

    def _require_layers(self, network: nn.Module) -> None:
        names = [name for name, _ in network.named_modules() if name]
        if not self.sparsity_layers:
            raise ConvworksError(
                "U214",
                "regularize.sparsity has no layers to act on",
                why="it is a penalty on the outputs of layers in (0, 1), such as sigmoids",
                try_=f"--set 'regularize.sparsity_layers=[\"{names[-1] if names else 'fc1'}\"]'",
            )
        for name in self.sparsity_layers:
            if name not in names:
                right = "--set 'regularize.sparsity_layers=[\"{near}\"]'"
                raise unknown_name("layer", name, names, try_=right)

    def within(self, part: nn.Module, name: str) -> Regularizers:
        """The same for a part of the network that alone is trained; `name` is its place, '' at the top.

        What has nothing to act on there is off. Raises U101 for a sparsity layer outside of the part.
        """
        inside = tuple(each.removeprefix(f"{name}.") for each in self.sparsity_layers)
        found = replace(
            self,
            noise=self.noise if activation_layers(part) else 0.0,
            dropout=self.dropout if dropout_layers(part) else None,
            stochastic_depth=self.stochastic_depth if residual_units(part) else 0.0,
            sparsity_layers=inside,
        )
        if self.sparsity > 0:
            found._require_layers(part)
        return found

    # --- while training -------------------------------------------------------------------------------------

    @contextmanager
    def active(self, network: nn.Module) -> Iterator[None]:
        """The network as it is trained: prepared, with noise on its activations while this is open."""
        self.prepare(network)
        with noisy_activations(network, self.noise):
            yield

    def recording(self, network: nn.Module) -> Any:
        """A context that gives the record of the sparsity layers' outputs, or None where there are none."""
        if not self.sparsity:
            return nullcontext(None)
        return SparsityPenalty(
            network, self.sparsity_layers, target=self.sparsity_target, strength=self.sparsity
        )

    def add_weight_gradients_(self, network: nn.Module) -> float:
        """Add lambda sign(w) and 2 lambda w to the gradients of the weights; the value of both penalties.

        With `proximal` the L1 term has no gradient: it acts after the step.
        """
        if not (self.l1 or self.l2_plain):
            return 0.0
        with torch.no_grad():
            weights: list[Tensor] = [p for p in chosen_parameters(network).values() if p.grad is not None]
            gradients = [p.grad for p in weights if p.grad is not None]
            value = 0.0
            if self.l1 and weights:
                value += self.l1 * float(torch.stack(torch._foreach_norm(weights, 1)).sum())
                if not self.proximal:
                    torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=self.l1)
            if self.l2_plain and weights:
                value += self.l2_plain * float(torch.stack(torch._foreach_norm(weights)).square().sum())
                torch._foreach_add_(gradients, weights, alpha=2 * self.l2_plain)
        return value

    @torch.no_grad()
    def project_(self, network: nn.Module, optimizer: Optimizer) -> None:
        """After the optimizer's step: soft thresholding at lr * l1, then the ball of radius `max_norm`.

        Weights without a gradient are frozen and stay. A group's own learning rate is used for its weights.
        """
        if self.l1 and self.proximal:
            chosen = set(chosen_parameters(network).values())
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    if weight in chosen and weight.grad is not None:
                        weight.copy_(soft_threshold(weight, group["lr"] * self.l1))
        if self.max_norm is not None:
            learning = [name for name, p in chosen_parameters(network).items() if p.grad is not None]
            if learning:
                project_max_norm_(network, self.max_norm, which=learning)


def sparsity_value(means: Mapping[str, Tensor], *, target: float, strength: float) -> float:
    """strength * sum -p log q - (1 - p) log(1 - q) over all units, of the mean activations q of a batch."""
    total = 0.0
    for each in means.values():
        q = each.double().clamp(_EDGE, 1 - _EDGE)
        total += float(-(target * q.log() + (1 - target) * torch.log1p(-q)).sum())
    return strength * total


def sparsity_surrogate(
    outputs: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
    *,
    target: float,
    strength: float,
    share: float,
) -> Tensor:
    """A function of a part's outputs whose gradient is the part's share of the whole batch's penalty.

    The penalty depends on the means q over the batch, which a part does not know: q are given, and its slope
    (q - p) / (q (1 - q)) there multiplies the part's own mean. `share` is the part's share of the images.
    """
    terms = []
    for name, output in outputs.items():
        q = means[name].clamp(_EDGE, 1 - _EDGE)
        slope = (q - target) / (q * (1 - q))
        terms.append((slope.detach() * mean_activations(output)).sum())
    return strength * share * torch.stack(terms).sum()


def require_probabilities(outputs: Mapping[str, Tensor]) -> None:
    """Raises U215 where the outputs of a layer leave [0, 1]."""
    for name, output in outputs.items():
        low, high = float(output.detach().min()), float(output.detach().max())
        if low < 0 or high > 1:
            raise ConvworksError(
                "U215",
                f"the outputs of the layer '{name}' go from {low:.3g} to {high:.3g}",
                why="the sparsity penalty -p log q - (1 - p) log(1 - q) needs outputs in (0, 1)",
                try_="--set regularize.sparsity=0, or the name of a sigmoid",
            )


def _nothing(code: str, setting: str, kind: str, off: str) -> ConvworksError:
    return ConvworksError(
        code,
        f"{setting} has nothing to act on: the network has no {kind}",
        try_=f"--set {setting}{off}",
    )
