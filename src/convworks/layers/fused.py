"""A network whose batch norms, ReLUs, GELUs, additions and max poolings are computed together in training.

`fuse(network)` changes the classes of the layers in place, `plain(network)` changes them back. Nothing else
changes: not the names, the parameters, the state_dict, the hooks, nor the outputs beyond rounding. A group of
layers works together only in training and only while none of them has a hook, because a hook wants to see
what each layer gives; otherwise each does its own part as torch does it.

Within a group the last layer does the work and those before it pass their input on: with batch norm, ReLU,
max pooling it is the pooling, in a residual unit it is the unit, else the batch norm, whose ReLU or GELU
passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from convworks.layers.normalization import LocalResponseNorm
from convworks.layers.own_convolution import OwnConv2d
from convworks.layers.residual import Fit, Residual, ZeroPad
from convworks.ops.fused_batch_norm import (
    Activation,
    Norm,
    fused_batch_norm,
    fused_max_pool,
    fused_norm_relu_pool,
)
from convworks.ops.fused_response_norm import fused_response_norm
from convworks.ops.native.library import Window
from convworks.ops.shortcut_gradient import ShortcutGradient

M = TypeVar("M", bound=nn.Module)
_GROUP = "fused_group"  # the attribute of a fused layer; no part of the state_dict


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group:
    """Layers that are computed together: batch norm, then ReLU and pooling, GELU, or a residual unit."""

    norm: nn.BatchNorm2d | None = None
    relu: nn.ReLU | None = None
    gelu: nn.GELU | None = None
    pool: nn.MaxPool2d | None = None
    unit: Residual | None = None
    response: LocalResponseNorm | None = None
    around: tuple[nn.Module, ...] = ()  # what gives a value from within the group
    entry: tuple[nn.Module, ...] = ()  # what a unit's branch begins with, what that is in, and the shortcut

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """Those that are fused."""
        every = (self.norm, self.relu, self.gelu, self.pool, self.unit, self.response)
        return tuple(each for each in every if each is not None)

    @property
    def activation(self) -> Activation:
        """Behind the batch norm."""
        if self.relu is not None:
            return "relu"
        return "none" if self.gelu is None else "gelu"

    def together(self) -> bool:
        """Whether this pass is fused: in training, and nobody looks at what is inside."""
        if self.unit is not None and self.unit.survival < 1:
            return False
        if not all(each.training for each in self.layers):
            return False
        return not any(hooked(each) for each in (*self.layers, *self.around))

    def first(self) -> OwnConv2d | None:
        """The convolution that a unit's branch begins with, where kernels of ours compute it, unobserved."""
        first = self.entry[0] if self.entry else None
        return first if isinstance(first, OwnConv2d) and not any(map(hooked, self.entry)) else None


def hooked(layer: nn.Module) -> bool:
    return bool(
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


def _group(layer: nn.Module) -> Group:
    group: Group = layer.__dict__[_GROUP]
    return group


def is_grouped(layer: nn.Module) -> bool:
    """Whether a layer belongs to a group."""
    return _GROUP in layer.__dict__


def pools_alone(layer: nn.Module) -> bool:
    """Whether a pooling does the work of no other layer, fused or not."""
    return not is_grouped(layer) or len(_group(layer).layers) == 1


def pooling_of(layer: nn.Module) -> tuple[Window, bool] | None:
    """The window of the fused pooling of a layer, and whether it does a ReLU; None with a batch norm."""
    group: Group | None = layer.__dict__.get(_GROUP)
    if group is None or group.pool is None or group.norm is not None:
        return None
    return window_of(group.pool), group.relu is not None


class FusedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that also does the ReLU or GELU behind it, or leaves its work to the pooling or unit."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same. Raises BadArgument in training for one value of each channel."""
        group = _group(self)
        if not group.together():
            return super().forward(x)
        if group.pool is not None or group.unit is not None:
            return x
        return fused_batch_norm(x, moving(self), activation=group.activation)


class FusedReLU(nn.ReLU):
    """A ReLU that a batch norm before it or a pooling beside it has done or will do."""

    def forward(self, x: Tensor) -> Tensor:
        return x if _group(self).together() else super().forward(x)


class FusedGELU(nn.GELU):
    """A GELU that a batch norm before it has done."""

    def forward(self, x: Tensor) -> Tensor:
        return x if _group(self).together() else super().forward(x)


class FusedMaxPool2d(nn.MaxPool2d):
    """A max pooling that also does the ReLU and the batch norm before it."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        group = _group(self)
        if not group.together():
            y: Tensor = super().forward(x)
            return y
        if group.norm is not None:
            return fused_norm_relu_pool(x, moving(group.norm), window_of(self))
        return fused_max_pool(x, window_of(self), relu=group.relu is not None)


class FusedLocalResponseNorm(LocalResponseNorm):
    """A local response norm that also does the ReLU before it."""

    def forward(self, a: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        group = _group(self)
        if not group.together():
            return super().forward(a)
        return fused_response_norm(
            a,
            size=self.size,
            alpha=self.alpha,
            beta=self.beta,
            k=self.k,
            form=self.form,
            relu=group.relu is not None,
        )


class FusedResidual(Residual):
    """A residual unit that does the last batch norm of its branch, the addition and the ReLU at once."""

    def forward(self, x: Tensor) -> Tensor:
        group = _group(self)
        if not group.together():
            return super().forward(x)
        y, past = self._branch(x, group.first())
        same = self.shortcut(x, y) if isinstance(self.shortcut, Fit) else self.shortcut(x)
        zeros = type(self.shortcut) is ZeroPad  # to which autograd then gives nothing
        assert group.norm is not None
        return fused_batch_norm(
            y,
            moving(group.norm),
            activation=group.activation,
            residual=same,
            past=past if zeros or same is x else None,
        )

    def _branch(self, x: Tensor, first: OwnConv2d | None) -> tuple[Tensor, ShortcutGradient | None]:
        """What the branch gives its last batch norm, and what its first convolution awaits of that."""
        if first is None:
            return self.branch(x), None
        past = ShortcutGradient(self.shortcut.stride if isinstance(self.shortcut, ZeroPad) else 1)
        first.begins(past)
        try:
            y = self.branch(x)
        finally:
            first.awaits_nothing()
        return y, past if past.awaited else None


_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: FusedBatchNorm2d,
    nn.ReLU: FusedReLU,
    nn.GELU: FusedGELU,
    nn.MaxPool2d: FusedMaxPool2d,
    Residual: FusedResidual,
    LocalResponseNorm: FusedLocalResponseNorm,
}
_PLAIN = {fused: original for original, fused in _FUSED.items()}


def moving(norm: nn.BatchNorm2d) -> Norm:
    """The parameters of a training pass; counts the batch, as torch does."""
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:  # the mean over all batches so far
            momentum = 1.0 / float(norm.num_batches_tracked)
    return Norm(
        weight=norm.weight,
        bias=norm.bias,
        running_mean=norm.running_mean,
        running_var=norm.running_var,
        momentum=momentum,
        epsilon=norm.eps,
    )


def window_of(pool: nn.MaxPool2d) -> Window:
    """(kernel, stride, padding) of a pooling, each along height and width."""
    kernel, stride, padding = (_pair(each) for each in (pool.kernel_size, pool.stride, pool.padding))
    return kernel, stride, padding


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def fuse(network: nn.Module) -> int:
    """Fuse what can be fused, in place; returns the number of groups. A second call changes nothing.

    Layers that stand in `nn.Sequential`s one behind the other are found, also across the borders of such that
    lie in each other, and the batch norm at the end of the branch of a `Residual`. A layer with two names, a
    subclass of torch's own, a GELU by tanh, a pooling with dilation, rounded-up size or indices stays as it
    is.
    """
    shared = shared_layers(network)
    groups = list(_units(network, shared))
    taken = {id(each) for group in groups for each in group.layers}
    for row in rows(network):
        groups += _in_a_row(row, shared | taken)
    for group in groups:
        for layer in group.layers:
            layer.__class__ = _FUSED[type(layer)]
            layer.__dict__[_GROUP] = group
    return len(groups)


def plain(network: nn.Module) -> nn.Module:
    """Undo `fuse`, in place; returns the same network."""
    for layer in network.modules():
        original = _PLAIN.get(type(layer))
        if original is not None:
            layer.__class__ = original
            layer.__dict__.pop(_GROUP, None)
    return network


def is_fused(network: nn.Module) -> bool:
    """Whether any layer is fused."""
    return any(type(layer) in _PLAIN for layer in network.modules())


def shared_layers(network: nn.Module) -> set[int]:
    """Layers under more than one name: they are called from more than one place."""
    counts = Counter(id(each) for _, each in network.named_modules(remove_duplicate=False))
    return {key for key, count in counts.items() if count > 1}


def _units(network: nn.Module, shared: set[int]) -> Iterator[Group]:
    for unit in network.modules():
        if type(unit) is not Residual or id(unit) in shared:
            continue
        branch = list(_flat(unit.branch))
        last = branch[-1] if branch else None
        relu = unit.activation if type(unit.activation) is nn.ReLU else None
        known = relu is not None or type(unit.activation) is nn.Identity
        if known and last is not None and id(relu) not in shared:
            norm = _free(last.layer, nn.BatchNorm2d, shared)
            if norm is not None:
                around, entry = (unit.add, *last.inside), _entry(branch, unit.shortcut, shared)
                yield Group(norm=norm, relu=relu, unit=unit, around=around, entry=entry)


def _entry(branch: list[Place], shortcut: nn.Module, shared: set[int]) -> tuple[nn.Module, ...]:
    """What a branch begins with, what that is in, and the shortcut, where no layer unknown to us follows."""
    first, *others = branch
    known = all(type(each.layer).__module__.startswith(("torch.nn.", "convworks.")) for each in others)
    return (first.layer, *first.inside, shortcut) if known and id(first.layer) not in shared else ()


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A layer in a row, and the Sequentials that it is in, from the outermost."""

    layer: nn.Module
    inside: tuple[nn.Module, ...]


def rows(network: nn.Module) -> Iterator[list[Place]]:
    """The layers of every Sequential that lies in no other."""
    inner = {id(child) for each in network.modules() if type(each) is nn.Sequential for child in each}
    for each in network.modules():
        if type(each) is nn.Sequential and id(each) not in inner:
            yield list(_flat(each))


def _flat(module: nn.Module, inside: tuple[nn.Module, ...] = ()) -> Iterator[Place]:
    if type(module) is nn.Sequential:
        for child in module:
            yield from _flat(child, (*inside, module))
    else:
        yield Place(module, inside)


def _in_a_row(row: list[Place], taken: set[int]) -> Iterator[Group]:
    """The groups among layers that follow each other; those in `taken` stay as they are."""
    at = 0
    while at < len(row):
        first, second, third = (*[each.layer for each in row[at : at + 3]], None, None)[:3]
        norm, pool = _free(first, nn.BatchNorm2d, taken), _pooling(first, taken)
        relu = _free(second if norm or pool else first, nn.ReLU, taken)
        gelu = _exact(second, taken) if norm else None
        if norm and relu:
            pool = _pooling(third, taken)
        elif relu and not pool:
            pool = _pooling(second, taken)
        response = _free(second if relu else first, LocalResponseNorm, taken)
        if response and not (norm or pool):
            size = 1 + (relu is not None)
            yield Group(relu=relu, response=response, around=partly(row[at : at + size]))
            at += size
        elif norm or pool:
            size = sum(each is not None for each in (norm, relu, gelu, pool))
            yield Group(norm=norm, relu=relu, gelu=gelu, pool=pool, around=partly(row[at : at + size]))
            at += size
        else:
            at += 1


def partly(places: list[Place]) -> tuple[nn.Module, ...]:
    """The Sequentials that hold some of the layers and not all."""
    held = Counter(each for place in places for each in place.inside)
    return tuple(each for each, count in held.items() if count < len(places))


def _free(layer: nn.Module | None, kind: type[M], taken: set[int]) -> M | None:
    return layer if type(layer) is kind and id(layer) not in taken else None


def _exact(layer: nn.Module | None, taken: set[int]) -> nn.GELU | None:
    """A GELU by the normal distribution itself, not by tanh."""
    gelu = _free(layer, nn.GELU, taken)
    return gelu if gelu is not None and gelu.approximate == "none" else None


def _pooling(layer: nn.Module | None, taken: set[int]) -> nn.MaxPool2d | None:
    pool = _free(layer, nn.MaxPool2d, taken)
    if pool is None or pool.ceil_mode or pool.return_indices or pool.dilation not in (1, (1, 1)):
        return None
    return pool
