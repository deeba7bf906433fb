"""Finite differences: is a gradient the derivative of its function?

For each entry w of a tensor, the analytic gradient a is compared with the central difference

    n = (f(w + h) - f(w - h)) / 2h,      error = |a - n| / max(|a|, |n|, r / tolerance),

in float64, with h = eps^(1/3) max(1, |w|) = 6e-6 first, and r what float64 cannot resolve at that step:
64 eps |f| / h. So an entry is wrong where the two differ by more than r and by more than the tolerance times
the larger. f may return many terms (their sum is the function): they are subtracted one by one, and |f| is
the length of those that changed, so that rounding stays small. Where an entry disagrees, further steps are
tried, those whose rounding is below 1e-4 of the gradient, and the best agreement counts.

A function with a kink at the point (ReLU at 0, a maximum of equal values) has no derivative there: its
one-sided differences disagree at every step, and any value between them is right. Such an entry is counted
as a kink, not as an error. Entries that were not sampled are checked together along a random direction,
which is halved towards the entry when it disagrees.

Sources: lectures, introduction to convolutional networks (gradients as "how much E varies when the parameter
is varied"); Nocedal and Wright, "Numerical Optimization", 2006, section 8.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from convworks.errors import ConvworksError
from convworks.ops.arguments import bad_argument
from convworks.ops.backprop import Chain

EPS = torch.finfo(torch.float64).eps
FIRST_STEP = EPS ** (1 / 3)
LADDER = (1.0, 1 / 8, 8.0, 1 / 64, 1 / 512)  # times the first step, in the order tried
ROUNDING = 64  # roundings of f that add up, in units of eps
RESOLVED = 1e-4  # a step is of use where rounding is below this part of the gradient
SEARCH = 200  # directions that a search for a wrong entry may take; kinks can mislead it

Function = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One number of a tensor and both of its gradients."""

    tensor: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float

    def __str__(self) -> str:
        place = f"{self.tensor}[{', '.join(map(str, self.index))}]"
        return f"{place}: analytic {self.analytic:.8g}, numeric {self.numeric:.8g}, error {self.error:.1e}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCheck:
    """What was found in one tensor. `worst` leaves kinks out; `first_wrong` is the first in order of index.

    `along` is the error of all entries together along a random direction, where not all were checked alone.
    One that disagrees while no entry does has met kinks, and counts as one.
    """

    tensor: str
    size: int
    checked: int
    kinks: int
    along: float | None
    worst: Entry | None
    first_wrong: Entry | None


@dataclass(frozen=True, slots=True)
class GradientCheck:
    """The result for all tensors, in the order given."""

    tensors: tuple[TensorCheck, ...]
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.first_wrong is None

    @property
    def first_wrong(self) -> Entry | None:
        """The first entry of the first tensor that is wrong."""
        return next((each.first_wrong for each in self.tensors if each.first_wrong), None)

    @property
    def worst(self) -> Entry | None:
        """The entry with the largest error, None where none was checked or every one is a kink."""
        found = [each.worst for each in self.tensors if each.worst]
        return max(found, key=lambda entry: entry.error, default=None)

    @property
    def worst_error(self) -> float:
        """The largest error of an entry, or of a direction that met no kink; 0 where there is neither."""
        entries = [each.worst.error for each in self.tensors if each.worst]
        return max([*entries, *(each.along for each in self.tensors if each.along is not None)], default=0.0)

    @property
    def checked(self) -> int:
        return sum(each.checked for each in self.tensors)

    @property
    def kinks(self) -> int:
        return sum(each.kinks for each in self.tensors)

    def require(self) -> None:
        """Raises ConvworksError N630 with the first wrong entry."""
        if self.first_wrong is not None:
            raise wrong_gradient(self.first_wrong, tolerance=self.tolerance)


def wrong_gradient(entry: Entry, *, tolerance: float, where: str = "") -> ConvworksError:
    """N630: a gradient that is not the derivative of its function, by its first wrong entry."""
    return ConvworksError(
        "N630",
        f"the gradient of {entry.tensor} is wrong at [{', '.join(map(str, entry.index))}]",
        where=where,
        why=f"analytic {entry.analytic:.8g}, finite difference {entry.numeric:.8g}: "
        f"relative error {entry.error:.1e}, tolerance {tolerance:.0e}",
        try_="look at the backward pass of that layer",
    )


def check_gradient(
    function: Function,
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    *,
    tolerance: float = 1e-6,
    samples: int | None = None,
    seed: int = 0,
) -> GradientCheck:
    """Compare `gradients` with finite differences of `function` over every tensor of `values`.

    `function` takes nothing, reads the tensors of `values`, which are changed in place for a moment, and
    returns a tensor whose sum is the function; it must give the same number every time. With `samples`, a
    larger tensor has that many entries checked one by one, drawn by `seed`, and the others together.
    Raises BadArgument for values that are not float64, and gradients that are missing or of another shape.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    with torch.no_grad():
        for name, value in values.items():
            gradient = gradients.get(name)
            if value.dtype != torch.float64:
                raise bad_argument(name, value.dtype, why="finite differences need float64", fits="double()")
            if gradient is None or gradient.shape != value.shape:
                shape = None if gradient is None else tuple(gradient.shape)
                raise bad_argument(
                    f"gradients['{name}']", shape, why=f"the tensor has the shape {tuple(value.shape)}"
                )
            probe = _Probe(function, name, value, gradient, tolerance)
            found.append(probe.check(samples, generator))
    return GradientCheck(tuple(found), tolerance)


def check_chain(
    chain: Chain, x: Tensor, y: Tensor, *, tolerance: float = 1e-6, samples: int | None = None, seed: int = 0
) -> GradientCheck:
    """`check_gradient` for the weights and the input of a chain of modules without autograd.

    The names are those of `Chain.parameters`, and "input". x is (N, ...) in float64.
    """
    inputs = x.detach().clone()
    chain.forward_backward(inputs, y)
    if chain.dx is None:
        raise ValueError("the chain has no input gradient after its backward pass")
    gradients = {**chain.gradients, "input": chain.dx}
    return check_gradient(
        lambda: chain.costs(inputs, y),
        {**chain.parameters, "input": inputs},
        gradients,
        tolerance=tolerance,
        samples=samples,
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class _Difference:
    """Central and one-sided differences along one direction, and the rounding r of each."""

    central: float
    right: float
    left: float
    rounding: float

    def error(self, analytic: float, tolerance: float) -> float:
        apart = abs(analytic - self.central)
        if not math.isfinite(apart):
            return math.inf
        return apart / max(abs(analytic), abs(self.central), self.rounding / tolerance) if apart else 0.0

    @property
    def jump(self) -> float:
        """How far the one-sided differences disagree, beyond rounding."""
        return max(0.0, abs(self.right - self.left) - 4 * self.rounding)


@dataclass(frozen=True, slots=True)
class _Verdict:
    difference: _Difference
    error: float
    kink: bool


class _Probe:
    """The check of one tensor."""

    def __init__(
        self, function: Function, name: str, value: Tensor, gradient: Tensor, tolerance: float
    ) -> None:
        self.function, self.name, self.value, self.tolerance = function, name, value, tolerance
        self.gradient = gradient.detach().to(torch.float64)
        self.here = function().detach().clone()
        self.searched = 0

    def check(self, samples: int | None, generator: torch.Generator) -> TensorCheck:
        size = self.value.numel()
        some = samples is not None and size > samples
        drawn = torch.randperm(size, generator=generator)[:samples] if some else torch.arange(size)
        entries, kinks = [], 0
        for place in sorted(drawn.tolist()):
            entry, kink = self._entry(place)
            kinks += kink
            entries += [] if kink else [entry]
        along = None
        if some:
            signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
            along = self._judge(torch.arange(size), signs).error
            missed = self._search(torch.arange(size), signs) if along > self.tolerance else None
            entries += [] if missed is None else [missed]
            if along > self.tolerance:
                along, kinks = None, kinks + (missed is None)
        wrong = [entry for entry in entries if entry.error > self.tolerance]
        return TensorCheck(
            tensor=self.name,
            size=size,
            checked=len(drawn),
            kinks=kinks,
            along=along,
            worst=max(entries, key=lambda entry: entry.error, default=None),
            first_wrong=min(wrong, key=lambda entry: entry.index, default=None),
        )

    def _entry(self, place: int) -> tuple[Entry, bool]:
        verdict = self._judge(torch.tensor([place]), torch.ones(1, dtype=torch.float64))
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), self.value.shape))
        entry = Entry(
            tensor=self.name,
            index=index,
            analytic=float(self.gradient.flatten()[place]),
            numeric=verdict.difference.central,
            error=verdict.error,
        )
        return entry, verdict.kink

    def _search(self, places: Tensor, signs: Tensor) -> Entry | None:
        """A wrong entry among `places`: the direction through all of them is halved while it disagrees."""
        if self.searched >= SEARCH:
            return None
        self.searched += 1
        if len(places) == 1:
            entry, kink = self._entry(int(places[0]))
            return None if kink or entry.error <= self.tolerance else entry
        if self._judge(places, signs).error <= self.tolerance:
            return None
        middle = len(places) // 2
        first = self._search(places[:middle], signs[:middle])
        return first if first is not None else self._search(places[middle:], signs[middle:])

    def _judge(self, places: Tensor, signs: Tensor) -> _Verdict:
        """The best agreement over the steps of the ladder along one direction, and whether it has a kink."""
        analytic = float(self.gradient.flatten()[places.to(self.gradient.device)].cpu() @ signs)
        largest = float(self.value.flatten()[places.to(self.value.device)].abs().max())
        best, error = None, math.inf
        tried: list[tuple[float, _Difference]] = []
        for factor in LADDER:
            step = factor * FIRST_STEP * max(1.0, largest)
            difference = self._difference(places, signs, step)
            useful = difference.rounding <= RESOLVED * max(abs(analytic), abs(difference.central))
            if tried and not useful:
                continue
            tried.append((step, difference))
            found = difference.error(analytic, self.tolerance)
            if best is None or found < error:
                best, error = difference, found
            if error <= self.tolerance:
                break
        if best is None:
            raise ValueError("the ladder of steps is empty")
        kink = error > self.tolerance and _is_kink(tried, analytic, self.tolerance)
        return _Verdict(best, error, kink)

    def _difference(self, places: Tensor, signs: Tensor, step: float) -> _Difference:
        flat = self.value.view(-1) if self.value.is_contiguous() else None
        target = self.value.flatten() if flat is None else flat
        places, moves = places.to(target.device), (signs * step).to(target.device)
        kept = target[places].clone()
        after, before = kept + moves, kept - moves
        step = float((after - before).abs().max()) / 2  # the step as float64 has it
        try:
            up = self._at(target, places, after, flat is None)
            down = self._at(target, places, before, flat is None)
        finally:
            self._write(target, places, kept, flat is None)
        changed = (up - down) != 0
        size = float(torch.linalg.vector_norm(torch.maximum(up.abs(), down.abs())[changed]))
        return _Difference(
            central=float((up - down).sum()) / (2 * step),
            right=float((up - self.here).sum()) / step,
            left=float((self.here - down).sum()) / step,
            rounding=ROUNDING * EPS * size / step,
        )

    def _at(self, target: Tensor, places: Tensor, values: Tensor, copied: bool) -> Tensor:
        self._write(target, places, values, copied)
        return self.function().detach().to(torch.float64).clone()

    def _write(self, target: Tensor, places: Tensor, values: Tensor, copied: bool) -> None:
        target[places] = values
        if copied:  # a view without flat memory: the whole tensor goes back
            self.value.copy_(target.view(self.value.shape))


def _is_kink(tried: list[tuple[float, _Difference]], analytic: float, tolerance: float) -> bool:
    """Whether the one-sided differences keep disagreeing as the step shrinks, with the gradient between them.

    Along a smooth curve they come together in proportion to the step; at a kink they do not.
    """
    large, small = max(tried, key=lambda pair: pair[0]), min(tried, key=lambda pair: pair[0])
    jump = small[1].jump
    size = max(abs(small[1].right), abs(small[1].left))
    if jump <= 100 * tolerance * size:
        return False
    if jump < math.sqrt(small[0] / large[0]) * large[1].jump:  # smooth gives the ratio itself, a kink 1
        return False
    low, high = sorted((small[1].left, small[1].right))
    slack = 4 * small[1].rounding + tolerance * size
    return low - slack <= analytic <= high + slack
