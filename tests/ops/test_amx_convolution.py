"""Convolution on matrix units (AMX) against the definition in float64, tap by tap.

Maps are bfloat16 and weights are rounded to it here as there, so that all products are exact in float32. What
remains is the summation in float32 and, for y and dx, one rounding; with whole numbers every result is exact.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from convworks.ops.amx_convolution import amx_convolution, applies, available
from convworks.ops.native import library
from tests.ops.native.kernels import with_amx

Array = NDArray[np.float64]
Given = tuple[Tensor, Tensor, Tensor | None, Tensor]  # x, w, b, dy
ROUNDING = {"y": 2.0**-8, "dx": 2.0**-8, "dw": 2.0**-24, "db": 2.0**-24}  # of a result, half a unit
SUMMATION = 2.0**-20  # error of a sum in float32 over the sum of its terms' magnitudes
HALF, MANY_HALF, SINGLE = 0.004, 0.0025, 1e-5  # norm of the error over that of the result; 0.0017 is usual
WINDOWS = [(1, 1), (3, 3), (5, 5), (2, 2), (7, 7), (11, 11), (1, 3), (3, 1), (5, 2)]
CHANNELS = st.sampled_from([1, 3, 6, 15, 16, 17, 31, 32, 33, 48, 64]) | st.integers(1, 70)


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    with with_amx():
        yield


class Case(NamedTuple):
    n: int
    c: int
    o: int
    size: tuple[int, int]
    window: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: int = 1
    packed: bool = True
    bias: bool = True


LARGE = [  # or peculiar
    Case(2, 3000, 3, (4, 5)),  # a run that is longer than the row of zeros
    Case(40, 24, 24, (16, 16)),
    Case(67, 5, 9, (3, 2)),  # more images than an image has pixels
    Case(3, 512, 512, (4, 4)),
    Case(2, 300, 40, (5, 6), (5, 5), padding=2, packed=False),
    Case(1, 3, 20, (90, 70), (7, 7), stride=2, padding=3),
    Case(4, 3, 64, (64, 64), (11, 11), stride=4, padding=2),  # AlexNet's first layer
    Case(2, 64, 128, (14, 15), (1, 1), stride=2, padding=0),  # a projection of ResNet's
    Case(3, 130, 70, (16, 16), (1, 1), padding=0),
    Case(2, 70, 1, (24, 1)),
    Case(2, 20, 33, (1, 24)),
    Case(3, 17, 5, (40, 1), (5, 1), stride=3, padding=0),
    Case(2, 33, 31, (1, 1), (5, 5), padding=4),  # nothing but the border
    Case(1, 2, 3, (21, 19), (16, 16), stride=8, padding=15),  # the largest that applies
    Case(130, 400, 10, (1, 1), (1, 1), padding=0),  # a linear layer
    Case(10, 200, 200, (5, 5)),  # several images for one reading of the weights
    Case(9, 128, 16, (20, 20)),  # the gradient meets the maps in several parts, in several groups of images
    Case(6, 48, 32, (9, 9), (5, 5), padding=2),  # more shifts than sums
    # the gradient of the weights in slices of the images:
    Case(37, 16, 16, (32, 32)),  # of two or three
    Case(18, 16, 20, (96, 90), packed=False),  # of one or two, which lie in groups of one
    Case(64, 6, 16, (14, 14), (5, 5), padding=0),  # a whole run
    Case(40, 16, 24, (33, 31), stride=2),
]
SMALL = [
    Case(3, 5, 20, (9, 7)),
    Case(3, 33, 17, (8, 8), (5, 5), padding=2),
    Case(3, 16, 3, (6, 9), (2, 2), packed=False),
    Case(3, 3, 18, (15, 14), (7, 7), stride=2, padding=3),
    Case(3, 6, 7, (7, 9), (1, 1), stride=2, padding=0),  # there are pixels that no window holds
    Case(3, 31, 32, (5, 6), (1, 1), padding=0),
    Case(3, 4, 4, (6, 5), (5, 2), stride=3, padding=0),
]


def definition(given: Given, case: Case, change: Callable[[Array], Array] = np.asarray) -> dict[str, Array]:
    """y, dx, dw and db of numbers that are changed first, one tap of the window after the other."""
    x, w, dy = (change(each.double().numpy()) for each in (given[0], given[1].bfloat16(), given[3]))
    pad, step = case.padding, case.stride
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    y, back, dw = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(w.shape)
    down, right = (step * (side - 1) + 1 for side in dy.shape[2:])
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            at = (slice(None), slice(None), slice(i, i + down, step), slice(j, j + right, step))
            y += np.einsum("nchw,oc->nohw", padded[at], w[:, :, i, j], optimize=True)
            dw[:, :, i, j] = np.einsum("nchw,nohw->oc", padded[at], dy, optimize=True)
            back[at] += np.einsum("nohw,oc->nchw", dy, w[:, :, i, j], optimize=True)
    if given[2] is not None:
        y += change(given[2].double().numpy())[None, :, None, None]
    dx = back[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]]
    return {"y": y, "dx": dx, "dw": dw, "db": dy.sum((0, 2, 3))}


def sample(case: Case, *, whole: bool = False) -> Given:
    """Numbers of magnitude a half to one and a half, of either sign, or whole ones from -3 to 3."""
    draws = torch.Generator().manual_seed(zlib.crc32(repr(case).encode()))

    def some(*shape: int) -> Tensor:
        if whole:
            return torch.randint(-3, 4, shape, generator=draws).float()
        drawn = torch.rand(shape, generator=draws) * 2 - 1
        return drawn + drawn.sign() / 2

    def maps(*shape: int) -> Tensor:
        return some(*shape).to(torch.bfloat16, memory_format=torch.channels_last)

    spare = (case.size[k] + 2 * case.padding - case.window[k] for k in range(2))
    layout = torch.channels_last if case.packed else torch.contiguous_format
    w = some(case.o, case.c, *case.window).contiguous(memory_format=layout)
    x = maps(case.n, case.c, *case.size)
    dy = maps(case.n, case.o, *(each // case.stride + 1 for each in spare))
    return x, w, some(case.o) if case.bias else None, dy


def computed(given: Given, case: Case, operator: Any = amx_convolution) -> dict[str, Tensor]:
    x, w, b = (None if each is None else each.detach().requires_grad_() for each in given[:3])
    y = operator(x, w, b, stride=case.stride, padding=case.padding)
    gradients = torch.autograd.grad(y, [each for each in (x, w, b) if each is not None], given[3])
    return dict(zip(ROUNDING, (y.detach(), *gradients), strict=False))


def arrays(given: Given, case: Case) -> dict[str, Array]:
    """What is computed, in float64, after a look at its kind and shape."""
    found = computed(given, case)
    for name, like in zip(found, (given[3], *given[:3]), strict=False):
        assert like is not None
        assert (found[name].dtype, found[name].shape) == (like.dtype, like.shape), name
    return {name: value.double().numpy() for name, value in found.items()}


def bits(given: Given, case: Case) -> dict[str, bytes]:
    return {name: value.float().numpy().tobytes() for name, value in computed(given, case).items()}


def require_close(case: Case) -> None:
    """Each number is as near as rounding and summation allow, and all of them together are nearer still."""
    given = sample(case)
    exact = definition(given, case)
    magnitudes, squares = (definition(given, case, change) for change in (np.abs, np.square))
    for name, got in arrays(given, case).items():
        wrong = np.abs(got - exact[name])
        excess = wrong - ROUNDING[name] * np.abs(exact[name]) - SUMMATION * magnitudes[name]
        at = np.unravel_index(np.argmax(excess), excess.shape)  # of what is not a number first of all
        assert excess[at] <= 0, (name, at, got[at], exact[name][at])
        scale = max(np.linalg.norm(exact[name]), np.sqrt(squares[name].sum()))  # exact may be small by chance
        many = np.count_nonzero(exact[name]) >= 400
        limit = SINGLE if name in {"dw", "db"} else MANY_HALF if many else HALF
        assert np.linalg.norm(wrong) <= limit * scale, name
    assert all(map(torch.equal, given[:2], sample(case)[:2]))  # nothing that is given changes


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n, c, o = draw(st.integers(1, 5)), draw(CHANNELS), draw(CHANNELS)
    window, stride = draw(st.sampled_from(WINDOWS)), draw(st.integers(1, 4))
    padding = draw(st.integers(0, min(window) - 1))
    height, width = (draw(st.integers(max(1, taps - 2 * padding), 24)) for taps in window)
    return Case(n, c, o, (height, width), window, stride, padding, draw(st.booleans()), draw(st.booleans()))


@settings(deadline=None, max_examples=200)
@given(cases())
def test_forward_and_gradients(case: Case) -> None:
    require_close(case)


@settings(deadline=None, max_examples=100)
@given(cases())
def test_whole_numbers_exactly(case: Case) -> None:
    given = sample(case, whole=True)
    exact = definition(given, case)
    for name, got in arrays(given, case).items():
        assert np.abs(exact[name]).max() < 2**24
        if name in {"y", "dx"}:
            exact[name] = torch.from_numpy(exact[name]).bfloat16().double().numpy()
        np.testing.assert_array_equal(got, exact[name], err_msg=name)


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_and_peculiar(case: Case) -> None:
    require_close(case)


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_the_bits_do_not_depend_on_the_number_of_threads(case: Case) -> None:
    before = torch.get_num_threads()
    given, found = sample(case), []
    try:
        for threads in (1, 1, 2, 3, 5, 1):
            torch.set_num_threads(threads)
            found.append(bits(given, case))
    finally:
        torch.set_num_threads(before)
    assert all(each[name] == found[0][name] for each in found for name in each)


def require_the_spread(given: Given, case: Case, names: tuple[str, ...]) -> None:
    """What is not finite stands where the definition has it, and hardly anywhere else.

    A step of products may reach into the next pixel of the row, and a tap into the padding of the gradient,
    where the other factor is zero: so an output beside such a window, and each tap of such a channel, may be
    NaN too.
    """
    with np.errstate(invalid="ignore"):
        exact = definition(given, case)
    found = arrays(given, case)
    for name in names:
        want, got = (~np.isfinite(each[name]) for each in (exact, found))
        assert got[want].all(), name
        if name == "dw":
            channels = ~given[0].isfinite().all(dim=(0, 2, 3)).numpy()
            may = want | channels[None, :, None, None]
        elif name == "db":
            may = want
        else:
            beside = np.pad(want, ((0, 0), (0, 0), (0, 0), (1, 1))).any(axis=1, keepdims=True)
            may = want | beside[..., 2:]  # only what begins a pixel further left
        assert not (got & ~may).any(), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_what_is_not_finite_reaches_what_sees_it_and_its_neighbours_at_most(case: Case, bad: float) -> None:
    x, w, b, dy = sample(case)
    for image, channel, row, column in ((1, 0, 0, 0), (1, -1, 3, 2), (1, 0, 2, -1), (2, -1, -1, -1)):
        seen, back = x.clone(), dy.clone()
        seen[image, channel, row, column] = bad
        require_the_spread((seen, w, b, dy), case, ("y", "dx", "dw", "db"))
        back[image, channel, min(row, dy.shape[2] - 1), min(column, dy.shape[3] - 1)] = bad
        require_the_spread((x, w, b, back), case, ("y", "dx", "db"))
        dw = computed((x, w, b, back), case)["dw"].isfinite()  # which taps of it multiply the border is open
        assert not dw[channel].all()
        assert int(dw.all(dim=(1, 2, 3)).sum()) == case.o - 1


def test_a_weight_that_is_not_finite() -> None:
    case = Case(2, 18, 35, (7, 6), padding=0)
    given = sample(case)
    given[1][33, 17, 0, 1] = float("nan")
    require_the_spread(given, case, ("y", "dw", "db"))
    assert computed(given, case)["dx"].isfinite().all(dim=(0, 2, 3)).tolist() == [True] * 17 + [False]


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_it_does_not_matter_what_memory_held(case: Case) -> None:
    given = sample(case)
    want = bits(given, case)
    for value in (float("nan"), 1e30):
        for _ in range(2):  # the first time, the system may take what is freed
            held = [torch.full((2**k,), value, dtype=torch.bfloat16) for k in range(4, 23) for _ in range(3)]
            del held
        assert bits(given, case) == want
        other = Case(2, 96, 80, (20, 20))  # and nothing stays of another call
        x, w, b, dy = sample(other)
        computed((x * value, w * value, b, dy * value), other)
        assert bits(given, case) == want


@pytest.mark.parametrize(("stride", "window"), [(1, (3, 3)), (2, (3, 3)), (1, (1, 1))])
def test_nor_the_layout_of_what_is_given(stride: int, window: tuple[int, int]) -> None:
    case = Case(2, 18, 34, (7, 6), window, stride, min(window) // 2)
    x, w, b, dy = sample(case)
    want = bits((x, w, b, dy), case)
    assert bits((x.contiguous(), w.contiguous(), b, dy.contiguous()), case) == want
    columns = x.repeat_interleave(2, 3)[..., ::2]
    inner = F.pad(x.permute(0, 2, 3, 1), (3, 5, 4, 0, 1, 2), value=9.0)[:, 1:8, 4:, 3:21].permute(0, 3, 1, 2)
    turned, w_turned = (each.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) for each in (x, w))
    w_inner = F.pad(w, (0, 0, 0, 0, 1, 1, 1, 1), value=9.0)[1:-1, 1:-1]
    for strange in (columns, inner, turned):
        assert bits((strange, w_turned, b, dy), case) == want
        assert bits((strange, w_inner, b, dy), case) == want
    ones = torch.ones_like(dy)
    assert bits((x, w, b, ones[:1, :1, :1, :1].expand_as(dy)), case) == bits((x, w, b, ones), case)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_against_torch_under_autocast(case: Case) -> None:
    given = sample(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = computed(given, case, F.conv2d)
    for name, got in computed(given, case).items():
        want = wanted[name].double()  # its bias and its gradients are rounded to bfloat16
        assert float((got.double() - want).norm() / want.norm()) < HALF, name


def test_a_second_derivative_is_refused() -> None:
    x, w, b, _ = sample(Case(1, 4, 5, (6, 6)))
    y = amx_convolution(x, w.requires_grad_(), b, stride=1, padding=1)
    (dw,) = torch.autograd.grad(y.float().square().sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(dw.sum())


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("c", "o", "window"), [(16, 32, (3, 3)), (5, 7, (5, 5)), (24, 8, (1, 1)), (48, 40, (3, 1))]
)
def test_groups_are_convolutions_of_their_own(
    groups: int, packed: bool, c: int, o: int, window: tuple[int, int]
) -> None:
    case = Case(3, c * groups, o * groups, (7, 9), window, padding=min(window) // 2, packed=packed)
    x, w, b, dy = sample(case)
    assert b is not None
    w = w[:, :c].contiguous(memory_format=torch.channels_last if packed else torch.contiguous_format)

    def grouped(*given: Tensor, stride: int, padding: int) -> Tensor:
        return amx_convolution(*given, stride=stride, padding=padding, groups=groups)

    got = computed((x, w, b, dy), case, grouped)
    parts = zip(x.chunk(groups, 1), w.chunk(groups), b.chunk(groups), dy.chunk(groups, 1), strict=True)
    alone = [definition(each, case) for each in parts]
    for name, axis in (("y", 1), ("dx", 1), ("dw", 0), ("db", 0)):
        want = np.concatenate([each[name] for each in alone], axis)
        assert got[name].shape == want.shape
        assert np.linalg.norm(got[name].double().numpy() - want) <= HALF * np.linalg.norm(want), name


def test_where_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.zeros(2, 4, 5, 5, dtype=torch.bfloat16), torch.zeros(6, 4, 3, 3)
    assert all(applies(x, w, stride=stride, padding=padding) for stride in (1, 2, 8) for padding in (0, 1, 2))
    assert applies(x[:, :, :1, :1], w, stride=1, padding=1)
    assert applies(x, w[..., :1], stride=1, padding=0)
    for stride, padding in ((1, 3), (1, -1), (9, 1), (0, 1), (-1, 1)):
        assert not applies(x, w, stride=stride, padding=padding), (stride, padding)
    assert applies(x, w[:, :2], stride=1, padding=1, groups=2)
    for stride, groups in ((2, 2), (1, 4)):  # six outputs are not in four groups
        assert not applies(x, w[:, : 4 // groups], stride=stride, padding=1, groups=groups)
    assert not applies(x, w, stride=1, padding=1, groups=2)
    for wrong in (x.float(), x.double(), x.half(), x[:0], x[0], x[:, :, :2], x[..., :2], x.to("meta")):
        assert not applies(wrong, w, stride=1, padding=0), (wrong.dtype, wrong.shape)
    for weight in (w.bfloat16(), w.double(), w.to("meta"), w[..., :1], w[:, :, :1], w.repeat(1, 1, 6, 6)):
        assert not applies(x.repeat(1, 1, 4, 4), weight, stride=1, padding=1), (weight.dtype, weight.shape)
    assert not applies(x[:, :1].expand(2, 8193, 5, 5), torch.zeros(1, 8193, 3, 3), stride=1, padding=1)
    monkeypatch.setattr(library, "amx_available", lambda: False)
    assert not available()
    assert not applies(x, w, stride=1, padding=1)
