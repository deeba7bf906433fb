"""Layers that reshape, join and cut maps: between convolutions and vectors, and where branches meet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convworks.ops.arguments import BadArgument, Sizes, bad_argument, one_of, per_dimension
from convworks.ops.pool_window import Place

ORDERS = ("channels_first", "channels_last")
Amount = int | Sequence[int | Sequence[int]]  # to crop: one number, one for each dimension, or pairs


class Flatten(nn.Module):
    """Maps to a vector: (N, C, H, W) -> (N, C H W), and so for any rank.

    The number of map c, row y, column x stands at
        order "channels_first":  (c H + y) W + x     map after map, each row by row; nn.Flatten's order
        order "channels_last":   (y W + x) C + c     place after place, each with its C maps; Keras's order
    so that a dense layer trained on the one cannot take the other. The spatial relations are not lost, only
    not used. The inverse is `Unflatten`. Source: lectures, reshape layers.
    Raises BadArgument for another order, and for an input without maps.
    """

    def __init__(self, *, order: str = "channels_first") -> None:
        super().__init__()
        self.order = one_of("order", order, ORDERS)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2:
            why = "a batch has at least two dimensions"
            raise bad_argument("x.shape", tuple(x.shape), why=why, fits="(N, C, ...)")
        return (x.movedim(1, -1) if self.order == "channels_last" else x).flatten(1)

    def extra_repr(self) -> str:
        return f"order='{self.order}'"


class Unflatten(nn.Module):
    """A vector back to maps: (N, C H W) -> (N, C, H, W), the inverse of `Flatten` of the same order.

    `shape` is (C, H, W), whatever the order, or (C, L), or (C, D, H, W). Raises BadArgument where the vector
    has another length. Source: lectures, reshape layers.
    """

    def __init__(self, shape: Sequence[int], *, order: str = "channels_first") -> None:
        super().__init__()
        self.shape = per_dimension("shape", shape, len(shape))
        self.order = one_of("order", order, ORDERS)

    def forward(self, x: Tensor) -> Tensor:
        length = math.prod(self.shape)
        if x.ndim != 2 or x.shape[1] != length:
            product = " x ".join(map(str, self.shape))
            raise bad_argument(
                "x.shape",
                tuple(x.shape),
                why=f"maps of {product} are {length} numbers",
                fits=f"(N, {length})",
            )
        if self.order == "channels_first":
            return x.reshape(len(x), *self.shape)
        channels, *places = self.shape
        return x.reshape(len(x), *places, channels).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.shape}, order='{self.order}'"


class Concatenate(nn.Module):
    """Inputs side by side along `dim`, by default their maps: (N, C1, H, W) and (N, C2, H, W) -> C1 + C2.

    All other dimensions are the same, which takes padding in the branches before (lectures, concatenation
    layers; Szegedy et al. 2014, inception). `names` are those of the inputs in the message: where shapes
    differ, BadArgument names both inputs, their shapes and the dimension.
    """

    def __init__(self, *, dim: int = 1, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.dim, self.names = dim, tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        names = _names(inputs, self.names)
        rank = inputs[0].ndim
        if not -rank <= self.dim < rank:
            raise bad_argument("dim", self.dim, why=f"the inputs have {rank} dimensions", fits="dim=1")
        for name, other in zip(names[1:], inputs[1:], strict=True):
            self._compare(names[0], inputs[0], name, other)
        return torch.cat(inputs, dim=self.dim)

    def _compare(self, first_name: str, first: Tensor, name: str, other: Tensor) -> None:
        a, b = tuple(first.shape), tuple(other.shape)
        joined = self.dim % len(a)
        wrong = [i for i in range(len(a)) if i != joined and a[i] != b[i]] if len(a) == len(b) else None
        if wrong == []:
            return
        if wrong is None:
            why, fits = f"they have {len(a)} and {len(b)} dimensions", "inputs of one rank"
        else:
            at = wrong[0]
            why = f"dimension {at} is {a[at]} and {b[at]}; only dimension {joined} may differ"
            fits = "padding, a crop or a stride in one branch, so that the maps have one size"
        raise _cannot_join("concatenated", first_name, a, name, b, why=why, fits=fits)

    def extra_repr(self) -> str:
        return f"dim={self.dim}" + (f", names={self.names}" if self.names else "")


class Add(nn.Module):
    """The sum of inputs of one shape, maps and all: (N, C, H, W) each -> (N, C, H, W). Nothing is broadcast.

    Source: lectures, aggregation layers ("size and number of maps must be the same"); He et al. 2015,
    "Deep residual learning", section 3.2. Where shapes differ, BadArgument names both inputs and says which
    1x1 convolution on the one would make them the same.
    """

    def __init__(self, *, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        names = _names(inputs, self.names)
        total = inputs[0]
        for name, other in zip(names[1:], inputs[1:], strict=True):
            a, b = tuple(inputs[0].shape), tuple(other.shape)
            if a != b:
                why, fits = _difference(a, b, names[0], name)
                raise _cannot_join("added", names[0], a, name, b, why=why, fits=fits)
            total = total + other
        return total

    def extra_repr(self) -> str:
        return f"names={self.names}" if self.names else ""


class Crop(nn.Module):
    """Cuts borders off: (N, C, H, W) -> (N, C, H - before - after, ...), for 1 to 3 spatial dimensions.

    `amount` is one number for every side, one for both sides of each dimension, or a (before, after) for
    each: 1, (1, 2) or ((1, 0), (2, 2)). Raises BadArgument where nothing would be left.
    Source: lectures, the Keras page (Cropping1D to 3D).
    """

    def __init__(self, amount: Amount) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        pairs = border_pairs("amount", self.amount, x.ndim - 2)
        for (before, after), n in zip(pairs, x.shape[2:], strict=True):
            if before + after >= n:
                why = f"{before} + {after} of {n} cells leaves none; the maps are {tuple(x.shape[2:])}"
                raise bad_argument("amount", self.amount, why=why, fits="amount=0 or a smaller crop")
        rows = zip(pairs, x.shape[2:], strict=True)
        inside: Place = (..., *(slice(before, n - after) for (before, after), n in rows))
        return x[inside]

    def extra_repr(self) -> str:
        return f"{self.amount}"


class Dot(nn.Module):
    """The inner product of two inputs along one axis of each, for every example by itself.

    (N, ..., J, ...) and (N, ..., J, ...) -> (N, rest of the first, rest of the second); two batches of
    vectors give (N, 1). `axes` is one axis for both or a pair, 0 being the batch. `normalize` divides by the
    lengths of the vectors first: the cosine. Raises BadArgument where the axes have different lengths.
    Source: lectures, the Keras page (Dot).
    """

    def __init__(self, axes: Sizes, *, normalize: bool = False) -> None:
        super().__init__()
        first, second = per_dimension("axes", axes, 2)
        self.axes, self.normalize = (first, second), normalize

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        for axis, x in zip(self.axes, (first, second), strict=True):
            if axis >= x.ndim:
                why = f"an input has the shape {tuple(x.shape)}"
                raise bad_argument("axes", self.axes, why=why, fits=f"axes={x.ndim - 1}")
        a, b = first.movedim(self.axes[0], -1), second.movedim(self.axes[1], -1)
        if a.shape[-1] != b.shape[-1] or len(a) != len(b):
            why = f"the inner product runs over {a.shape[-1]} and {b.shape[-1]} numbers"
            if len(a) != len(b):
                why = f"the batches have {len(a)} and {len(b)} examples"
            fits = "axes of one length, and as many examples"
            shapes = tuple(first.shape), tuple(second.shape)
            raise _cannot_join("multiplied", "input 0", shapes[0], "input 1", shapes[1], why=why, fits=fits)
        if self.normalize:
            a, b = nn.functional.normalize(a, dim=-1), nn.functional.normalize(b, dim=-1)
        product = torch.einsum("naj,nbj->nab", a.flatten(1, -2) if a.ndim > 2 else a[:, None],
                               b.flatten(1, -2) if b.ndim > 2 else b[:, None])  # fmt: skip
        shape = (*a.shape[1:-1], *b.shape[1:-1])
        return product.reshape(len(a), *(shape or (1,)))

    def extra_repr(self) -> str:
        return f"axes={self.axes}, normalize={self.normalize}"


def border_pairs(name: str, amount: Amount, rank: int) -> tuple[tuple[int, int], ...]:
    """(before, after) for each dimension, from one number, one for each, or the pairs. Raises BadArgument."""
    parts = (amount,) * rank if isinstance(amount, int) else tuple(amount)
    if len(parts) != rank:
        fits = f"one number, {rank} numbers, or {rank} pairs"
        raise bad_argument(name, amount, why=f"there are {rank} spatial dimensions", fits=fits)
    pairs = [per_dimension(name, part, 2, least=0) for part in parts]
    return tuple((before, after) for before, after in pairs)


def _names(inputs: Sequence[Tensor], names: Sequence[str]) -> Sequence[str]:
    if not inputs:
        raise bad_argument("inputs", "()", why="there is nothing to join", fits="two tensors or more")
    if names and len(names) != len(inputs):
        why = f"there are {len(inputs)} inputs and {len(names)} names"
        raise bad_argument("names", names, why=why, fits="a name for each input, or none")
    return names or [f"input {i}" for i in range(len(inputs))]


def _cannot_join(
    done: str, first: str, a: tuple[int, ...], second: str, b: tuple[int, ...], *, why: str, fits: str
) -> BadArgument:
    return bad_argument("inputs", f"{first} {a} and {second} {b}", why=f"cannot be {done}: {why}", fits=fits)


def _difference(a: tuple[int, ...], b: tuple[int, ...], first: str, second: str) -> tuple[str, str]:
    """Why two shapes cannot be added, and what on which input would help."""
    if len(a) != len(b) or a[0] != b[0] or len(a) < 3:
        return "their shapes differ", "inputs of one shape"
    why = []
    if a[1] != b[1]:
        why.append(f"{a[1]} maps and {b[1]}")
    if a[2:] != b[2:]:
        why.append(f"maps of {'x'.join(map(str, a[2:]))} and {'x'.join(map(str, b[2:]))}")
    large, small, name = (a, b, first) if math.prod(a[2:]) >= math.prod(b[2:]) else (b, a, second)
    strides = {-(-n // m) for n, m in zip(large[2:], small[2:], strict=True)}
    if len(strides) != 1:
        return "; ".join(why), f"padding or a crop on {name}"
    (stride,) = strides
    reached = all((n - 1) // stride + 1 == m for n, m in zip(large[2:], small[2:], strict=True))
    if not reached:
        return "; ".join(why), f"padding or a crop on {name}"
    return "; ".join(why), f"on {name}: a 1x1 convolution from {large[1]} to {small[1]} maps, stride {stride}"
