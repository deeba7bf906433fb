"""The arithmetic of shapes: padding, output sizes, what fits, and which padding to choose. No tensors.

With input size N, kernel size F, stride S, dilation D and padding P on each side, a window spans
E = D (F - 1) + 1 and the output has floor((N - E + 2P) / S) + 1 positions (lectures, "spatial dimensions" and
"output size"; Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

from convworks.ops.arguments import BadArgument, Sizes, bad_argument, one_of, per_dimension

Padding: TypeAlias = int | str | Sequence[int] | Sequence[Sequence[int]]
Pair: TypeAlias = tuple[int, int]  # (before, after)

PADDING_MODES = ("full", "same", "valid", "causal", "tf_same")


@dataclass(frozen=True, slots=True)
class Fit:
    """How the windows of one dimension fit: (padded - span) / stride + 1, floored and exact."""

    output: int
    remainder: int  # padded cells that no window reaches; 0 where it fits
    quotient: float  # the size before the floor: 2.33 means "does not fit"

    @property
    def exact(self) -> bool:
        return self.remainder == 0


def span(kernel: int, dilation: int = 1) -> int:
    """Cells from the first to the last tap of a kernel: D (F - 1) + 1."""
    return dilation * (kernel - 1) + 1


def resolve_padding(
    padding: Padding, *, size: Sizes, kernel: Sizes, stride: Sizes = 1, dilation: Sizes = 1
) -> tuple[Pair, ...]:
    """Any padding as (before, after) for each dimension of `size`; with E = D (F - 1) + 1:

    - a number, a number for each dimension, or a (before, after) for each dimension: as given
    - "valid": none. "full": E - 1 on each side, so that every overlap counts
    - "same": (E - 1) / 2 on each side at any stride; E must be odd (the lectures' k/2 is a floor)
    - "causal": E - 1 before, none after, so that no output sees a later input
    - "tf_same": TensorFlow's SAME, output ceil(N / S); the odd cell stands after the input

    Source: lectures, "padding"; numpy.convolve for the names full, same and valid; van den Oord et al.,
    "WaveNet", 2016, for causal; TensorFlow's documentation of `tf.nn` for SAME.
    Raises BadArgument for another word, negative numbers, a wrong count, and "same" with an even span.
    """
    sizes, kernels, strides, dilations = _dimensions(size, kernel, stride, dilation)
    if not isinstance(padding, str):
        return _numbers(padding, len(sizes))
    mode = one_of("padding", padding, PADDING_MODES)
    rows = zip(sizes, kernels, strides, dilations, strict=True)
    if mode == "valid":
        return ((0, 0),) * len(sizes)
    if mode == "full":
        return tuple((span(f, d) - 1, span(f, d) - 1) for _, f, _, d in rows)
    if mode == "causal":
        return tuple((span(f, d) - 1, 0) for _, f, _, d in rows)
    if mode == "same":
        return tuple(_centred(kernel, f, d) for _, f, _, d in rows)
    totals = (max(0, (-(-n // s) - 1) * s + span(f, d) - n) for n, f, s, d in rows)
    return tuple((total // 2, total - total // 2) for total in totals)


def _dimensions(size: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> tuple[tuple[int, ...], ...]:
    rank = 1 if isinstance(size, int) else len(size)
    given = {"size": size, "kernel_size": kernel, "stride": stride, "dilation": dilation}
    return tuple(per_dimension(name, value, rank) for name, value in given.items())


def _numbers(padding: int | Sequence[int] | Sequence[Sequence[int]], rank: int) -> tuple[Pair, ...]:
    """Numeric padding as pairs."""
    if isinstance(padding, Sequence) and any(isinstance(part, Sequence) for part in padding):
        fits = f"a (before, after) for each of {rank} dimensions, such as padding={((1, 2),) * rank}"
        if len(padding) != rank:
            raise bad_argument("padding", padding, why=f"it has {len(padding)} parts", fits=fits)
        pairs = []
        for given in padding:
            part: object = given
            if not isinstance(part, Sequence) or isinstance(part, str) or len(part) != 2:
                raise bad_argument("padding", padding, why=f"{part} is no (before, after)", fits=fits)
            before, after = per_dimension("padding", part, 2, least=0)
            pairs.append((before, after))
        return tuple(pairs)
    same = per_dimension("padding", padding, rank, least=0)  # type: ignore[arg-type]  # pairs are done above
    return tuple((n, n) for n in same)


def _centred(kernel: Sizes, size: int, dilation: int) -> Pair:
    wide = span(size, dilation)
    if wide % 2 == 0:
        spans = f" (a span of {wide} with dilation {dilation})" if dilation > 1 else ""
        raise bad_argument(
            "kernel_size",
            kernel,
            why=f"{size} is even{spans}, and padding='same' puts (kernel_size - 1) / 2 on each side",
            fits=f"an odd one such as kernel_size={size + 1}, or padding='tf_same', which is asymmetric",
        )
    return (wide - 1) // 2, (wide - 1) // 2


def fit(size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> Fit:
    """Output, remainder and exact quotient along one dimension; `padding` is the same on each side.

    7 with 3 at stride 3 gives 2, remainder 1, quotient 2.33: it does not fit (lectures, "7x7 input").
    Raises BadArgument where the kernel is larger than the padded input.
    """
    (pair,) = resolve_padding(padding, size=size, kernel=kernel, stride=stride, dilation=dilation)
    return _fit(size, kernel, stride, pair, dilation, shown=kernel, at="")


def _fit(size: int, kernel: int, stride: int, pair: Pair, dilation: int, *, shown: Sizes, at: str) -> Fit:
    padded, wide = size + sum(pair), span(kernel, dilation)
    if wide > padded:
        spans = f" (it spans {wide})" if dilation > 1 else ""
        largest = (padded - 1) // dilation + 1
        inside = f"{padded} = {size} + {pair[0]} + {pair[1]}"
        raise bad_argument(
            "kernel_size",
            shown,
            why=f"{at}{kernel} is larger{spans} than the padded input, {inside}",
            fits=f"kernel_size={largest} or less, or padding={-(-(wide - size) // 2)} or more",
        )
    output, remainder = divmod(padded - wide, stride)
    return Fit(output=output + 1, remainder=remainder, quotient=(padded - wide) / stride + 1)


@overload
def output_size(
    size: int,
    kernel: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    strict: bool = False,
) -> int: ...
@overload
def output_size(
    size: Sequence[int],
    kernel: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    strict: bool = False,
) -> tuple[int, ...]: ...
def output_size(
    size: Sizes,
    kernel: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    strict: bool = False,
) -> int | tuple[int, ...]:
    """floor((N - E + before + after) / S) + 1 for each dimension, E = D (F - 1) + 1.

    An int for an int `size`, else a tuple. 227 with 11 at stride 4 gives 55 (lectures, "AlexNet").
    Raises BadArgument where a kernel is larger than the padded input and, with `strict`, where windows do not
    fit: 224 with 11 at stride 4 would give 54.25.
    """
    pairs = resolve_padding(padding, size=size, kernel=kernel, stride=stride, dilation=dilation)
    sizes, kernels, strides, dilations = _dimensions(size, kernel, stride, dilation)
    found = []
    for i, (n, f, s, pair, d) in enumerate(zip(sizes, kernels, strides, pairs, dilations, strict=True)):
        at = f"along dimension {i}, " if len(sizes) > 1 else ""
        row = _fit(n, f, s, pair, d, shown=kernel, at=at)
        if strict and not row.exact:
            raise _does_not_fit(n, f, s, pair, d, row=row, shown=stride, at=at)
        found.append(row.output)
    return found[0] if isinstance(size, int) else tuple(found)


def _does_not_fit(
    size: int, kernel: int, stride: int, pair: Pair, dilation: int, *, row: Fit, shown: Sizes, at: str
) -> BadArgument:
    wide = span(kernel, dilation)
    free = size + sum(pair) - wide
    sum_ = f"({size} - {wide} + {sum(pair)}) / {stride} + 1 = {row.quotient:.2f}"
    strides = [s for s in range(1, min(free, 2 * stride) + 1) if free % s == 0]
    ways = [f"stride={' or '.join(str(s) for s in strides[-3:])}"]
    exact = [p.padding for p in solve_padding(size, kernel, stride, dilation).rows if p.remainder == 0]
    if exact:
        ways.append(f"padding={' or '.join(str(p) for p in exact[:3])}")
    ways.append(f"padding of {pair[0]} before and {pair[1] + stride - row.remainder} after")
    why = f"{at}{sum_}, remainder {row.remainder}"
    return bad_argument("stride", shown, why=why, fits=", ".join(ways))


@dataclass(frozen=True, slots=True)
class PaddingRow:
    """One padding on each side, the output it gives, and the cells that no window reaches."""

    padding: int
    output: int
    remainder: int


@dataclass(frozen=True, slots=True)
class PaddingTable:
    """Every padding from 0 to E - 1, and in words which of them fit."""

    size: int
    kernel: int
    stride: int
    dilation: int
    rows: tuple[PaddingRow, ...]

    @property
    def exact(self) -> tuple[PaddingRow, ...]:
        """The rows without a remainder."""
        return tuple(row for row in self.rows if row.remainder == 0)

    @property
    def verdict(self) -> str:
        """Which paddings fit, or plainly that none does and what would."""
        if self.exact:
            return "fits exactly: " + ", ".join(f"P = {r.padding} gives {r.output}" for r in self.exact)
        free = self.size - span(self.kernel, self.dilation)
        if self.stride % 2 == 0 and free % 2:
            why = f"{self.size} - {span(self.kernel, self.dilation)} + 2P is odd and the stride even"
            before, after = self._asymmetric()
            output = (self.size + before + after - span(self.kernel, self.dilation)) // self.stride + 1
            return f"no whole P fits exactly: {why}; {before} before and {after} after gives {output}"
        return f"no P below {span(self.kernel, self.dilation)} fits exactly; more would see only padding"

    def _asymmetric(self) -> Pair:
        """The padding of TensorFlow's SAME; where that is none, what the last window lacks."""
        (pair,) = resolve_padding(
            "tf_same", size=self.size, kernel=self.kernel, stride=self.stride, dilation=self.dilation
        )
        free = self.size - span(self.kernel, self.dilation)
        return pair if sum(pair) else (0, -free % self.stride)


def solve_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> PaddingTable:
    """Each padding P < E with its output and remainder (lectures, "F = 5, S = 2, P = whatever fits").

    For N = 32, F = 5, S = 2 no whole P fits (P = 1 gives 15, P = 2 gives 16, remainder 1); for N = 33 P = 0
    gives 15 and P = 2 gives 17, exactly. A P that leaves the kernel larger than the padded input has no row.
    """
    _dimensions(size, kernel, stride, dilation)
    wide = span(kernel, dilation)
    rows = []
    for p in range(wide):
        if size + 2 * p >= wide:
            output, remainder = divmod(size + 2 * p - wide, stride)
            rows.append(PaddingRow(padding=p, output=output + 1, remainder=remainder))
    return PaddingTable(size=size, kernel=kernel, stride=stride, dilation=dilation, rows=tuple(rows))


def pooled_size(
    size: Sequence[int],
    kernel: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> tuple[int, ...]:
    """(W - F) / S + 1 for each dimension, rounded down, or with `ceil_mode` up as Caffe does.

    The stride is the kernel's size where none is given. 55 with 3 at stride 2 gives 27 (lectures, "AlexNet").
    A window that ceil mode adds must begin inside the input or the padding before it. Depth is unchanged and
    there are no parameters. Raises BadArgument as `output_size` does.
    """
    steps = kernel if stride is None else stride
    floors = output_size(size, kernel, stride=steps, padding=padding, dilation=dilation)
    if not ceil_mode:
        return floors
    pairs = resolve_padding(padding, size=size, kernel=kernel, stride=steps, dilation=dilation)
    sizes, kernels, strides, dilations = _dimensions(size, kernel, steps, dilation)
    found = []
    for n, f, s, (before, after), d in zip(sizes, kernels, strides, pairs, dilations, strict=True):
        output = math.ceil((n + before + after - span(f, d)) / s) + 1
        found.append(output - 1 if (output - 1) * s >= n + before else output)
    return tuple(found)


def transposed_size(
    size: Sequence[int],
    kernel: Sizes,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
) -> tuple[int, ...]:
    """S (N - 1) + E - before - after + extra for each dimension: the input size of the convolution undone.

    `padding` is the padding of that convolution; `output_padding` (less than stride or dilation) chooses
    among the sizes that the floor made equal. Source: Dumoulin and Visin 2016, relationship 14.
    Raises BadArgument where nothing is left, or for "tf_same", which depends on the size to be found.
    """
    if padding == "tf_same":
        why = "it depends on the size that is to be found"
        raise bad_argument("padding", padding, why=why, fits="numbers, or padding='same' with an odd kernel")
    pairs = resolve_padding(padding, size=size, kernel=kernel, stride=stride, dilation=dilation)
    sizes, kernels, strides, dilations = _dimensions(size, kernel, stride, dilation)
    extras = per_dimension("output_padding", output_padding, len(sizes), least=0)
    found = []
    for n, f, s, pair, d, extra in zip(sizes, kernels, strides, pairs, dilations, extras, strict=True):
        if extra >= max(s, d):
            why = f"it must be less than the stride {s} or the dilation {d}"
            raise bad_argument("output_padding", output_padding, why=why, fits=f"up to {max(s, d) - 1}")
        output = s * (n - 1) + span(f, d) - sum(pair) + extra
        if output < 1:
            why = f"the output would have {output}"
            raise bad_argument(
                "padding", padding, why=why, fits=f"at most {(s * (n - 1) + span(f, d) - 1) // 2}"
            )
        found.append(output)
    return tuple(found)
