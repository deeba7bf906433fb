"""Which part of a network learns: its stages, a frozen backbone with its features, stages that join in time.

A stage is a child of the network with parameters, in the order of the forward pass: conv1, conv2_x, ...,
fc. The last one, with what follows it, is the head. Whatever does not learn is in evaluation mode, so that
its batch norms keep the statistics that it came with and its dropout is off.

Sources: lectures, transfer learning (a pre-trained network as feature extractor; fine-tuning); Yosinski et
al., "How transferable are features in deep neural networks?", 2014; Howard, Ruder, "Universal language
model fine-tuning for text classification", 2018, sections 3.2 and 3.3 (discriminative rates, gradual
unfreezing)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError
from convworks.layers.auxiliary import AUXILIARY
from convworks.layers.fold import DROPOUTS
from convworks.training.optimizer import belongs, require_part

CLOSE = 1e-3  # of the largest logit: how far a head on features may be from the whole network


def stages(network: nn.Module) -> tuple[str, ...]:
    """Names of the children that have parameters, first to last; auxiliary classifiers are none."""
    return tuple(
        name
        for name, child in network.named_children()
        if not name.startswith(AUXILIARY) and next(child.parameters(), None) is not None
    )


def head_names(network: nn.Module) -> tuple[str, ...]:
    """The children that make up the head: the last stage, dropout right before it, and all behind it.

    Raises U230 where there is no stage before it.
    """
    names = [name for name, _ in network.named_children()]
    found = stages(network)
    if len(found) < 2:
        raise ConvworksError(
            "U230",
            f"{type(network).__name__} has no part that could be frozen: {len(found)} of its children learn",
            why="the last stage learns, and a backbone is what comes before it",
            try_="--freeze none",
        )
    first = names.index(found[-1])
    while isinstance(network.get_submodule(names[first - 1]), DROPOUTS):
        first -= 1
    return tuple(names[first:])


def head_of(network: nn.Module) -> nn.Sequential:
    """The head as a network of its own, over the same parameters, under the same names. Raises U230."""
    return nn.Sequential(OrderedDict((name, network.get_submodule(name)) for name in head_names(network)))


def freeze_backbone(network: nn.Module) -> None:
    """Only the head learns from now on. Raises U230, and U231 where none of the head could learn."""
    parts = head_names(network)
    for name, child in network.named_children():
        if name not in parts:
            child.requires_grad_(False)
    if not any(p.requires_grad for p in network.parameters()):
        raise ConvworksError("U231", "no parameter would learn", try_="--freeze none")


@torch.no_grad()
def head_inputs(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(what the head sees of a batch, the network's outputs); the network is used in the mode it is in."""
    seen: list[Any] = []
    first = network.get_submodule(head_names(network)[0])
    handle = first.register_forward_pre_hook(lambda module, inputs: seen.append(_copied(inputs)))
    try:
        outputs = network(x)
    finally:
        handle.remove()
    if len(seen) != 1 or len(seen[0]) != 1 or not isinstance(seen[0][0], Tensor):
        raise _not_in_a_row(network)
    return seen[0][0], outputs


def _copied(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The head may change its input in place."""
    return tuple(each.clone() if isinstance(each, Tensor) else each for each in inputs)


@torch.no_grad()
def require_in_a_row(network: nn.Module, features: Tensor, outputs: Tensor) -> None:
    """Raises U231 where the head on its inputs does not give what the whole network gives."""
    if not bool(outputs.isfinite().all()):  # nothing can be compared; training will say which step diverges
        return
    head = head_of(network).eval()(features)
    if head.shape != outputs.shape or not bool(
        ((head - outputs).abs().max() <= CLOSE * outputs.abs().max().clamp(min=1e-6)).item()
    ):
        raise _not_in_a_row(network)


def _not_in_a_row(network: nn.Module) -> ConvworksError:
    return ConvworksError(
        "U231",
        f"the last stage of {type(network).__name__} cannot be trained on stored features",
        why="its outputs do not follow from one tensor that enters it",
        try_="--set transfer.freeze=none --set transfer.unfreeze=1000",
    )


def lr_scales(network: nn.Module, decay: float) -> dict[str, float]:
    """Stage -> share of the learning rate: decay^distance from the last stage (1). Howard, Ruder 2018,
    3.2."""
    found = stages(network)
    return {name: decay ** (len(found) - 1 - place) for place, name in enumerate(found)}


def learning_stages(count: int, *, every: int, epoch: int) -> int:
    """How many of `count` stages learn in an epoch counted from 0: one more after every so many epochs."""
    return min(count, 1 + epoch // every)


def fixed_parameters(network: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that do not learn; of a new network, those that its definition keeps fixed."""
    return tuple(name for name, parameter in network.named_parameters() if not parameter.requires_grad)


class StagedUnfreezing:
    """The last stage learns first; after every `every` epochs one more, from the end.

    A parameter that does not learn yet has no gradient, so that the optimizer passes it over and has no
    memory of it. Make the optimizer before the first `begin_epoch`, while all parameters learn. `fixed` are
    parameters that never do, such as whitening filters: those of `fixed_parameters` of a new network."""

    def __init__(self, network: nn.Module, *, every: int, fixed: Collection[str] = ()) -> None:
        """Raises U230 for a network without stages."""
        if not stages(network):
            raise ConvworksError("U230", f"{type(network).__name__} has no stages", try_="--unfreeze 0")
        self.network, self.every = network, every
        self.fixed = [network.get_parameter(name) for name in fixed]

    def begin_epoch(self, epoch: int) -> None:
        """Let the stages of this epoch, counted from 0, learn, and no others; the network is in training
        mode."""
        found = stages(self.network)
        first = found[len(found) - learning_stages(len(found), every=self.every, epoch=epoch)]
        names = [name for name, _ in self.network.named_children()]
        resting = names[: names.index(first)]
        for name, child in self.network.named_children():
            child.requires_grad_(name not in resting)
            child.train(name not in resting)
        for parameter in self.fixed:
            parameter.requires_grad_(False)


def resting_after(
    network: nn.Module, parts: Mapping[str, int], begin: Callable[[int], None] | None = None
) -> Callable[[int], None] | None:
    """What begins an epoch, counted from 0: `begin`, then each part stops learning after its epochs.

    A part that rests has no gradient any more, so that the optimizer passes it over, and backpropagation ends
    behind the first layer that learns. Nothing to do gives None. Raises U101 for a name that no parameter
    has, U231 where nothing would go on learning.
    Source: Brock et al., "FreezeOut: accelerate training by progressively freezing layers", 2017.
    """
    if not parts:
        return begin
    for part in parts:
        require_part(network, part, "transfer.freeze_after", example=3)
    learning = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if all(any(belongs(name, part) for part in parts) for name in learning):
        raise ConvworksError(
            "U231",
            f"no parameter would learn after epoch {max(parts.values())}",
            why="transfer.freeze_after names all of them",
            try_="leave the last layer out of it",
        )

    def begin_epoch(epoch: int) -> None:
        if begin is not None:
            begin(epoch)
        for name, parameter in network.named_parameters():
            if any(belongs(name, part) and epoch >= last for part, last in parts.items()):
                parameter.requires_grad_(False)
                parameter.grad = None

    return begin_epoch
