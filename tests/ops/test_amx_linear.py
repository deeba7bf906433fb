"""Dense layers on matrix units (AMX) against the definition in float64.

x, dy and the weights are of bfloat16 here as there, so that all products are exact in float32. What remains
is the summation in float32 and, for y and dx, one rounding; with whole numbers every result is exact.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from convworks.ops.amx_linear import amx_linear, applies, available
from convworks.ops.native import library, linear
from tests.ops.native.kernels import with_amx

Array = NDArray[np.float64]
ROUNDING = {"y": 2.0**-8, "dx": 2.0**-8, "dw": 2.0**-23, "db": 2.0**-23}  # of a result
SUMMATION = 2.0**-20  # error of a sum in float32 over the sum of its terms' magnitudes


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    with with_amx():
        yield


class Case(NamedTuple):
    n: int
    c: int
    o: int
    bias: bool = True


class Sample(NamedTuple):
    x: Tensor
    w: Tensor
    b: Tensor | None
    dy: Tensor


SMALL = [
    Case(1, 1, 1),
    Case(64, 84, 10),  # LeNet-5's last layer
    Case(17, 33, 31, bias=False),
    Case(16, 32, 16),
    Case(33, 16, 65),
    Case(5, 47, 48, bias=False),
]
LARGE = [
    Case(64, 400, 120),
    Case(32, 4096, 10),
    Case(1, 1000, 999),
    Case(300, 700, 530),  # more than one reading of the weights, and steps that are cut
    Case(513, 301, 33, bias=False),
    Case(129, 257, 1300),
    Case(2, 5, 3000),
    Case(1030, 33, 17),
]
STREAMED = Case(3, 2064, 3100, bias=False)  # a gradient of the weights that passes the caches


def sample(case: Case, *, whole: bool = False) -> Sample:
    """Numbers of magnitude a half to one and a half, of either sign, or whole ones from -3 to 3."""
    draws = torch.Generator().manual_seed(zlib.crc32(repr(case).encode()))

    def some(*shape: int) -> Tensor:
        if whole:
            return torch.randint(-3, 4, shape, generator=draws).float()
        drawn = torch.rand(shape, generator=draws) * 2 - 1
        return drawn + drawn.sign() / 2

    x, dy = some(case.n, case.c).bfloat16(), some(case.n, case.o).bfloat16()
    return Sample(x, some(case.o, case.c), some(case.o) if case.bias else None, dy)


def definition(of: Sample, *, magnitude: bool = False) -> dict[str, Array]:
    """y, dx, dw and db, or the sums of their terms' magnitudes."""
    change = np.abs if magnitude else np.asarray
    x, w, dy = (change(each.double().numpy()) for each in (of.x, of.w.bfloat16(), of.dy))
    b = 0.0 if of.b is None else change(of.b.double().numpy())
    with np.errstate(invalid="ignore"):
        return {"y": x @ w.T + b, "dx": dy @ w, "dw": dy.T @ x, "db": dy.sum(0)}


def computed(of: Sample) -> dict[str, Tensor]:
    x, w = of.x.clone().requires_grad_(), of.w.clone().requires_grad_()
    b = None if of.b is None else of.b.clone().requires_grad_()
    y = amx_linear(x, w, b)
    y.backward(of.dy)  # type: ignore[no-untyped-call]
    found = {"y": y.detach(), "dx": x.grad, "dw": w.grad, "db": None if b is None else b.grad}
    return {name: each for name, each in found.items() if each is not None}


def check(case: Case) -> None:
    of = sample(case)
    want, terms = definition(of), definition(of, magnitude=True)
    for name, found in computed(of).items():
        assert found.dtype == (torch.bfloat16 if name in {"y", "dx"} else torch.float32)
        error = np.abs(found.double().numpy() - want[name])
        allowed = ROUNDING[name] * np.abs(want[name]) + SUMMATION * terms[name]
        assert (error <= allowed).all(), (name, case, float((error / allowed).max()))


@pytest.mark.parametrize("case", [*SMALL, *LARGE, STREAMED], ids=str)
def test_against_the_definition(case: Case) -> None:
    check(case)


SIDES = st.sampled_from([1, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65]) | st.integers(1, 70)


@settings(max_examples=120, deadline=None)
@given(case=st.builds(Case, SIDES, SIDES, SIDES, st.booleans()))
def test_against_the_definition_everywhere(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [*SMALL, Case(300, 70, 140)], ids=str)
def test_whole_numbers_are_exact(case: Case) -> None:
    of = sample(case, whole=True)
    want = definition(of)
    for name, found in computed(of).items():
        rounded = torch.from_numpy(want[name]).float().to(found.dtype)
        assert torch.equal(found, rounded), name


def test_weights_are_rounded_to_the_nearest() -> None:
    w = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8], [1 + 2**-8 + 2**-20, -1 - 2**-9]])
    assert torch.equal(amx_linear(torch.eye(2).bfloat16(), w, None), w.bfloat16().T)


@pytest.mark.parametrize("case", [*SMALL, *LARGE, STREAMED], ids=str)
def test_the_bits_do_not_depend_on_the_number_of_threads(case: Case) -> None:
    before, of = torch.get_num_threads(), sample(case)
    try:
        found = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(computed(of))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(each, other[name]) for name, each in found[0].items())


@pytest.mark.parametrize("case", [Case(40, 70, 45), Case(3, 5, 7)], ids=str)
def test_a_row_is_the_same_in_every_batch(case: Case) -> None:
    of = sample(case)
    y = amx_linear(of.x, of.w, of.b)
    for i in (0, case.n - 1):
        assert torch.equal(amx_linear(of.x[i : i + 1], of.w, of.b), y[i : i + 1])


def test_what_is_not_finite_stays_in_its_row_or_column() -> None:
    of = sample(Case(19, 35, 37))
    of.x[4, 7] = float("nan")
    of.w[11, 34] = float("inf")
    of.dy[18, 36] = float("inf")
    found, want = computed(of), definition(of)
    for name, each in found.items():
        assert torch.equal(each.isfinite(), torch.from_numpy(np.isfinite(want[name]))), name


@pytest.mark.parametrize("shape", [(70,), (2, 3, 70), (2, 1, 4, 70)], ids=str)
def test_vectors_of_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=draws).bfloat16().requires_grad_()
    w = torch.randn(9, 70, generator=draws).requires_grad_()
    y = amx_linear(x, w, None)
    assert y.shape == (*shape[:-1], 9)
    flat = amx_linear(x.detach().reshape(-1, 70), w.detach(), None)
    assert torch.equal(y.reshape(-1, 9), flat)
    y.float().square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_memory_in_any_order() -> None:
    of = sample(Case(21, 34, 18))
    want = computed(of)
    wide = torch.zeros(42, 68).bfloat16()
    wide[::2, ::2] = of.x
    for x in (of.x.T.contiguous().T, wide[::2, ::2], of.x.flip(0).flip(0)):
        for dy in (of.dy, of.dy.T.contiguous().T):
            found = computed(Sample(x, of.w, of.b, dy))
            assert all(torch.equal(each, found[name]) for name, each in want.items())
    shifted = torch.zeros(18 * 34 + 1)[1:].view(18, 34).copy_(of.w)  # not at a multiple of 64 bytes
    assert shifted.data_ptr() % 16
    found = computed(Sample(of.x, shifted, of.b, of.dy))
    assert all(torch.equal(each, found[name]) for name, each in want.items())
    one = torch.ones(1).expand(3, 18)  # a gradient whose rows lie upon each other, as that of a sum
    y = amx_linear(of.x[:3].clone().requires_grad_(), of.w, None)
    y.backward(one.bfloat16().expand(3, 18))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("asked", [(x, w, b) for x in (0, 1) for w in (0, 1) for b in (0, 1) if x + w + b])
def test_only_the_gradients_that_are_asked_for(
    asked: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = sample(Case(21, 34, 18))
    want = computed(of)
    seen: list[tuple[bool, ...]] = []
    real = linear.backward

    def watched(
        x: Tensor, dy: Tensor, weight: Tensor, *, wanted: tuple[bool, bool, bool]
    ) -> library.Gradients:
        seen.append(wanted)
        return real(x, dy, weight, wanted=wanted)

    monkeypatch.setattr(linear, "backward", watched)
    assert of.b is not None
    given = [each.clone().requires_grad_(bool(needs)) for each, needs in zip(of[:3], asked, strict=True)]
    amx_linear(*given).backward(of.dy)  # type: ignore[no-untyped-call]
    assert seen == [tuple(bool(each) for each in asked)]
    for each, needs, name in zip(given, asked, ("dx", "dw", "db"), strict=True):
        assert (each.grad is not None) is bool(needs)
        if each.grad is not None:
            assert torch.equal(each.grad, want[name])


def test_the_gradient_of_the_weights_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    of, made = sample(Case(21, 34, 18)), []
    real = linear.backward

    def watched(*given: Tensor, wanted: tuple[bool, bool, bool]) -> library.Gradients:
        found = real(*given, wanted=wanted)
        assert found.weight is not None
        made.append(found.weight.data_ptr())
        return found

    monkeypatch.setattr(linear, "backward", watched)
    w = of.w.clone().requires_grad_()
    amx_linear(of.x, w, None).backward(of.dy)  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert made == [w.grad.data_ptr()]


def test_weights_that_were_changed_are_noticed() -> None:
    of = sample(Case(3, 5, 7))
    w = of.w.clone().requires_grad_()
    y = amx_linear(of.x, w, None)
    with torch.no_grad():
        w += 1
    with pytest.raises(RuntimeError, match="inplace"):
        y.backward(of.dy)  # type: ignore[no-untyped-call]


def test_where_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = torch.zeros(3, 4, 5).bfloat16(), torch.zeros(7, 5), torch.zeros(7)
    assert available()
    assert applies(x, w)
    assert applies(x, w, b)
    assert applies(x[0, 0], w)
    assert applies(x.transpose(0, 1), w)
    refused = [
        (x.float(), w, b),
        (x, w.bfloat16(), b),
        (x, w, b.bfloat16()),
        (x, w.double(), b),
        (x[:0], w, b),
        (x[..., :0], w[:, :0], b),
        (x, w[:0], b[:0]),
        (x[..., :4], w, b),
        (x, w.T.contiguous().T, b),
        (x, w, torch.zeros(14)[::2]),
        (x, w[None], b),
        (x[0, 0, 0], w[:, :1], b),
        (x.to("meta"), w, b),
        (x, w.to("meta"), b),
    ]
    for case in refused:
        assert not applies(*case)
    monkeypatch.setattr(library, "amx_available", lambda: False)
    assert not applies(x, w)


def test_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __getattr__(self, name: str) -> object:
            return lambda *given: 1

    of = sample(Case(3, 5, 7))
    monkeypatch.setattr(library._STATE, "library", Full())
    with pytest.raises(MemoryError, match="convworks_linear_forward"):
        linear.forward(of.x, of.w, None)
    with pytest.raises(MemoryError, match="convworks_linear_backward"):
        linear.backward(of.x, of.dy, of.w, wanted=(True, True, True))
