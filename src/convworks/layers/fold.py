"""Batch norm folded into the layer before it: a network for inference with fewer layers and the same outputs.

With population statistics batch norm is y = scale x + shift for each feature. After a convolution or a linear
layer, W <- scale W and b <- scale b + shift do the same, so the layer can go.
Sources: Ioffe and Szegedy 2015, Algorithm 2, line 11; lectures, overview of architectures, "Training a batch
normalized network".
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from convworks.errors import ConvworksError
from convworks.layers.convolution import Conv1d, Conv2d, Conv3d
from convworks.ops.batch_norm import fold_affine

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
OWN = (Conv1d, Conv2d, Conv3d)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, *OWN)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
GLOBAL_MEANS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
MEANS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


class ChannelAffine(nn.Module):
    """y = scale x + shift, one pair for each feature; (N, F, ...) -> the same."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.shift.to(x.dtype).view(shape), x, self.scale.to(x.dtype).view(shape))

    def extra_repr(self) -> str:
        return f"{self.scale.numel()}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Folded:
    """The new network, and what became of each batch norm, by its path in the old one."""

    network: nn.Module
    folded: tuple[str, ...]  # gone into the weights of the layer before
    affine: tuple[str, ...]  # no such layer before it: became a ChannelAffine in the same place
    kept: tuple[str, ...]  # has no population statistics, or two names, or is never called

    def __str__(self) -> str:
        parts = [f"{len(self.folded)} of {len(self.folded + self.affine + self.kept)} batch norms folded"]
        parts += [f"{len(self.affine)} became affine maps"] if self.affine else []
        parts += [f"{len(self.kept)} kept"] if self.kept else []
        return ", ".join(parts)


def fold_batch_norm(network: nn.Module) -> Folded:
    """A copy in evaluation mode in which every batch norm behind a convolution or a linear layer is folded.

    Between the two there may be dropout, mean pooling that counts no padding, and, where every scale is
    positive, max pooling: they can change places with the affine map. The layer before must be used once and
    by nothing else; a linear layer is taken to see (N, F). A folded batch norm is removed from a Sequential,
    and is an Identity elsewhere. The network itself stays as it is; the copy's outputs are those of
    `network.eval()` to rounding. The way from layer to layer is found by following the forward pass with
    symbols (torch.fx). Raises U162 where that cannot be done, because the pass depends on values.
    """
    copied = copy.deepcopy(network).eval()
    path = _Path()
    nodes = path.calls(copied)
    calls = Counter(str(node.target) for node in nodes)
    by_target = {str(node.target): node for node in nodes}
    names = Counter(id(each) for _, each in copied.named_modules(remove_duplicate=False))
    modules = dict(copied.named_modules())
    folded: list[str] = []
    affine, kept = [], []
    for name, layer in modules.items():
        if not isinstance(layer, _BatchNorm):
            continue
        if layer.running_mean is None or layer.running_var is None or not calls[name] or names[id(layer)] > 1:
            kept.append(name)
            continue
        scale, shift = _affine(layer)
        before = _layer_before(by_target[name], modules, calls, scale, folded) if calls[name] == 1 else None
        if before is not None:
            _fold_into(before, scale, shift)
            _remove(copied, name, path.called)
            folded.append(name)
        else:
            kind = layer.running_mean.dtype
            _replace(copied, name, ChannelAffine(scale.to(kind), shift.to(kind)))
            affine.append(name)
    return Folded(network=copied, folded=tuple(folded), affine=tuple(affine), kept=tuple(kept))


class _Path(fx.Tracer):
    """Follows a forward pass down to layers of torch, of this package, and any other without children."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def calls(self, network: nn.Module) -> list[fx.Node]:
        """The calls of layers in order. Raises U162."""
        try:
            graph = self.trace(network)
        except Exception as problem:  # torch.fx raises what the network's own code raises on a symbol
            raise ConvworksError(
                "U162",
                f"the forward pass of {type(network).__name__} cannot be followed, so nothing can be folded",
                where=f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:200]}",
                why="it depends on the values or the shape of its input, or leaves torch",
                try_="use the network with its batch norms: network.eval()",
            ) from problem
        return [node for node in graph.nodes if node.op == "call_module"]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = super().is_leaf_module(m, module_qualified_name)
        return bool(known) or next(m.children(), None) is None

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.called.add(self.path_of_module(m))
        return super().call_module(m, forward, args, kwargs)


def _affine(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    one = torch.ones_like(layer.running_mean)
    gamma = one if layer.weight is None else layer.weight.detach()
    beta = 0 * one if layer.bias is None else layer.bias.detach()
    return fold_affine(gamma, beta, layer.running_mean, layer.running_var, epsilon=layer.eps)


def _layer_before(
    node: fx.Node, modules: dict[str, nn.Module], calls: Counter[str], scale: Tensor, folded: list[str]
) -> Any:
    """The layer whose weights can take in the affine map behind it; None where there is none."""
    at = node.args[0] if node.args else None
    while isinstance(at, fx.Node) and at.op == "call_module" and len(at.users) == 1:
        name = str(at.target)
        layer = modules[name]
        if isinstance(layer, WEIGHTED):
            return layer if calls[name] == 1 and _takes(layer, len(scale)) else None
        if name not in folded and not _commutes(layer, scale):
            return None
        at = at.args[0] if at.args else None
    return None


def _commutes(layer: nn.Module, scale: Tensor) -> bool:
    """Whether scale x + shift can be taken before the layer instead of behind it."""
    if isinstance(layer, (nn.Identity, *DROPOUTS, *GLOBAL_MEANS)):
        return True
    if isinstance(layer, MAXIMA):
        return bool((scale > 0).all())  # the largest stays the largest; its padding is never the largest
    if isinstance(layer, MEANS):
        padded = layer.padding not in (0, (0,), (0, 0), (0, 0, 0))
        divisor = getattr(layer, "divisor_override", None)
        return divisor is None and not (padded and layer.count_include_pad)
    return False


def _takes(layer: Any, features: int) -> bool:
    """Whether the layer's output is linear in its weights, with these features along axis 1."""
    if is_parametrized(layer):
        return False
    if isinstance(layer, OWN):
        return layer.activation is None and layer.data_format == "channels_first"
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return bool(outputs == features)


@torch.no_grad()
def _fold_into(layer: Any, scale: Tensor, shift: Tensor) -> None:
    """W <- scale W, b <- scale b + shift along the output features."""
    weight = layer.weight.detach().double()
    if isinstance(layer, TRANSPOSED):  # (I, O/g, *K): the inputs of each group have outputs of their own
        groups, rest = layer.groups, [1] * (weight.ndim - 2)
        apart = weight.view(groups, -1, *weight.shape[1:])
        weight = (apart * scale.view(groups, 1, -1, *rest)).view_as(weight)
    else:
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    bias = shift if layer.bias is None else scale * layer.bias.detach().double() + shift
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=layer.weight.requires_grad)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=layer.weight.requires_grad)


def _parent(network: nn.Module, name: str) -> tuple[nn.Module, str, str]:
    above, _, child = name.rpartition(".")
    return network.get_submodule(above), above, child


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = _parent(network, name)
    setattr(parent, child, layer.eval())


def _remove(network: nn.Module, name: str, called: set[str]) -> None:
    """Out of a Sequential that is called as a whole; elsewhere code asks for it by name or by number."""
    parent, above, child = _parent(network, name)
    if type(parent) is nn.Sequential and above in called | {""}:
        delattr(parent, child)
    else:
        setattr(parent, child, nn.Identity())
