"""Penalties and projections of a whole network: L2, L1, max-norm, sparse activations; dropout as an ensemble.

Each works on the parameters chosen by `which`: "weights" are those of two dimensions and more (dense and
convolutional weights, not biases, not the scales of normalisation), "all" are all that train, and a sequence
of names is these. Nothing is applied by itself: a penalty is a term for the loss, a projection is called
after the step of the optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError, unknown_name
from convworks.layers.activation import Maxout
from convworks.layers.dropout import GaussianDropout, KeepDropout
from convworks.layers.locally_connected import (
    LocallyConnected1d,
    LocallyConnected2d,
    LocallyConnected3d,
)
from convworks.ops.arguments import bad_argument, one_of
from convworks.ops.loss import (
    l1_penalty,
    l2_penalty,
    max_norm,
    mean_activations,
    soft_threshold,
    sparsity_penalty,
)

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    KeepDropout,
    GaussianDropout,
)
_LOCAL = (LocallyConnected1d, LocallyConnected2d, LocallyConnected3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PENALTIES = ("l2_half", "l2_plain", "l1")
Which: TypeAlias = str | Sequence[str]


def chosen_parameters(network: nn.Module, which: Which = "weights") -> dict[str, nn.Parameter]:
    """Parameters by name, in the network's order; frozen ones are left out unless they are named.

    Raises BadArgument for another word than "weights" or "all", and U101 for a name that no parameter has.
    """
    every = dict(network.named_parameters())
    if isinstance(which, str):
        one_of("which", which, ("weights", "all"))
        return {n: p for n, p in every.items() if p.requires_grad and (which == "all" or p.ndim > 1)}
    for name in which:
        if name not in every:
            raise unknown_name("parameter", name, every)
    return {name: parameter for name, parameter in every.items() if name in set(which)}


def penalty(network: nn.Module, *, kind: str, strength: float, which: Which = "weights") -> Tensor:
    """The term that is added to the loss, over all chosen parameters together:

    "l2_half"   lambda/2 sum w^2, gradient lambda w: what an optimizer's `weight_decay` of lambda adds.
    "l2_plain"  lambda sum w^2, gradient 2 lambda w.
    "l1"        lambda sum |w|, gradient lambda sign(w), 0 at 0.

    The lectures write "l2_plain" with the gradient of "l2_half"; both are offered by name. Raises BadArgument
    for another kind, or where nothing is chosen. Source: lectures, regularization and VGGNet.
    """
    one_of("kind", kind, PENALTIES)
    terms = [
        l1_penalty(parameter, strength=strength)
        if kind == "l1"
        else l2_penalty(parameter, strength=strength, convention=kind.removeprefix("l2_"))
        for parameter in _some(network, which).values()
    ]
    return torch.stack(terms).sum()


@torch.no_grad()
def project_max_norm_(
    network: nn.Module, c: float, *, dims: Sequence[int] | None = None, which: Which = "weights"
) -> int:
    """Bring the weights of every unit whose norm is above c back to c, in place; how many units that were.

    Call it after each step of the optimizer. `dims` are the dimensions of one unit's weights, by default
    those of `incoming_dims`. Units inside keep their bits. The lectures name c = 2 and 3, the dropout paper 3
    to 4. Source: lectures, MaxNorm regularization.
    """
    moved = 0
    chosen = _some(network, which)
    owners = {name: network.get_submodule(name.rpartition(".")[0]) for name in chosen}
    for name, parameter in chosen.items():
        over = incoming_dims(owners[name], parameter.ndim) if dims is None else tuple(dims)
        projected = max_norm(parameter, c, dims=over)
        moved += int((projected != parameter).any(dim=over).sum())
        parameter.copy_(projected)
    return moved


def incoming_dims(module: nn.Module, ndim: int) -> tuple[int, ...]:
    """The dimensions of a weight over which one unit's incoming weights stretch.

    All but the first for dense layers and convolutions; the first too for one-group transposed convolutions,
    where the second counts the outputs; for maxout one linear piece; for unshared kernels one place of a map.
    """
    if ndim < 2:
        return (0,)
    if isinstance(module, Maxout):
        return (2,)
    if isinstance(module, _LOCAL):  # (O, I, k, ..., places, ...)
        return tuple(range(1, 2 + len(module.kernel_size)))
    if isinstance(module, _TRANSPOSED) and module.groups == 1:
        return (0, *range(2, ndim))
    return tuple(range(1, ndim))


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, DROPOUTS)]


def set_dropout_(network: nn.Module, drop: float) -> int:
    """Give every dropout layer the probability to DROP; how many there are.

    `KeepDropout` counts the other way: it keeps with 1 - drop, and scales by that at test. `GaussianDropout`
    takes the variance drop / (1 - drop). Raises BadArgument outside [0, 1).
    """
    if not 0 <= drop < 1:
        raise bad_argument("drop", drop, why="it is a probability below 1", fits="drop=0.5")
    layers = dropout_layers(network)
    for layer in layers:
        if isinstance(layer, KeepDropout):
            layer.keep_probability = 1 - drop
        elif isinstance(layer, GaussianDropout):
            layer.drop_probability = drop
        else:
            layer.p = drop  # type: ignore[assignment]
    return len(layers)


@torch.no_grad()
def proximal_l1_(network: nn.Module, *, strength: float, lr: float, which: Which = "weights") -> int:
    """w -> sign(w) max(|w| - lr lambda, 0) in place; how many chosen weights are exactly 0 then.

    Called after each step, with the L1 term left out of the loss: gradient descent on the rest and this are
    the proximal gradient method, which reaches exact zeros. Source: `ops.loss.soft_threshold`.
    """
    zeros = 0
    for parameter in _some(network, which).values():
        parameter.copy_(soft_threshold(parameter, lr * strength))
        zeros += int((parameter == 0).sum())
    return zeros


class SparsityPenalty:
    """The sparsity penalty on the outputs of named layers, recorded while this is open.

        with SparsityPenalty(network, ("hidden",), target=0.05, strength=0.1) as sparsity:
            loss = cross_entropy(network(x), y) + sparsity.term()

    The layers must give (N, F) or (N, C, ...) in (0, 1): sigmoids. A layer that is called again is recorded
    with its last output, before any noise is added to it. Raises U101 for a name that no layer has.
    Source: lectures, sparsity regularization.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[str], *, target: float = 0.05, strength: float = 1.0
    ) -> None:
        modules = dict(network.named_modules())
        for name in layers:
            if name not in modules:
                raise unknown_name("layer", name, [n for n in modules if n])
        self.target, self.strength = target, strength
        self._layers = {name: modules[name] for name in layers}
        self._outputs: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> SparsityPenalty:
        for name, layer in self._layers.items():

            def keep(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                self._outputs[name] = output

            self._handles.append(layer.register_forward_hook(keep, prepend=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._outputs.clear()

    def term(self) -> Tensor:
        """strength sum_i -p log q_i - (1 - p) log(1 - q_i) over the units of all layers, of the last pass.

        Raises U176 where a layer has not been run, and BadArgument where its outputs leave (0, 1).
        """
        terms = [sparsity_penalty(output, target=self.target) for output in self._recorded().values()]
        return self.strength * torch.stack(terms).sum()

    def outputs(self) -> dict[str, Tensor]:
        """What the layers gave in the last pass. Raises U176 where one has not been run."""
        return self._recorded()

    def means(self) -> dict[str, Tensor]:
        """The mean activation q of each unit, by layer."""
        return {name: mean_activations(output.detach()) for name, output in self._recorded().items()}

    def _recorded(self) -> dict[str, Tensor]:
        missing = [name for name in self._layers if name not in self._outputs]
        if missing or not self._layers:
            raise ConvworksError(
                "U176",
                f"no activations of {', '.join(missing) or 'any layer'} are recorded",
                why="they are recorded between `with SparsityPenalty(...)` and its end, as the network runs",
                try_="call network(x) inside the `with` block first",
            )
        return self._outputs


@torch.no_grad()
def monte_carlo_probabilities(network: nn.Module, x: Tensor, *, samples: int, seed: int) -> Tensor:
    """(N, K): the mean of softmax(network(x)) over `samples` drawn dropout masks.

    Dropout trains all sub-networks with shared parameters; this is their ensemble, sampled. Weight scaling,
    `network.eval()`, stands in for it in one pass, and for one linear layer with softmax is the normalised
    geometric mean over all masks exactly. Dropout layers alone are active; batch norm keeps its statistics.
    Layers with a generator of their own draw from that, the others from a state that follows from `seed`.
    Torch's generators and the training flags are put back. Raises BadArgument without masks to draw.
    Source: lectures, dropout; Srivastava et al. 2014, section 7.5; Gal, Ghahramani 2016.
    """
    active = dropout_layers(network)
    if samples < 1 or not active:
        why = "it is a number of masks" if active else "the network has no dropout layer"
        raise bad_argument("samples", samples, why=why, fits="samples=50, and a layer nn.Dropout(0.5)")
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    for layer in active:
        layer.train()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return torch.stack([network(x).softmax(dim=1) for _ in range(samples)]).mean(dim=0)
    finally:
        for module, flag in flags:
            module.training = flag


def _some(network: nn.Module, which: Which) -> dict[str, nn.Parameter]:
    """The chosen parameters, of which there is at least one."""
    found = chosen_parameters(network, which)
    if not found:
        raise bad_argument("which", which, why="it chooses no parameter of this network", fits="which='all'")
    return found
