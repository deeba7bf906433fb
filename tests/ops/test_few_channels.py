"""Convolution of few channels on matrix units against the definition in float64, whatever is dispatched."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convworks.ops import amx_convolution as module
from convworks.ops.native import convolutions, library
from tests.ops import test_amx_convolution as amx
from tests.ops.native.kernels import with_amx
from tests.ops.test_amx_convolution import Case, bits, computed, definition, require_close, sample

WINDOWS = [(1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (11, 11), (1, 3), (3, 1), (5, 2), (1, 11), (9, 1), (4, 6)]
OUTPUTS = st.sampled_from([1, 6, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65, 96, 100]) | st.integers(1, 100)
CASES = [
    Case(4, 1, 6, (28, 28), (5, 5), padding=2),  # LeNet-5's first layer
    Case(2, 3, 64, (32, 32)),
    Case(70, 2, 40, (6, 5)),  # more images than parts of the gradient
    Case(2, 3, 96, (59, 59), (11, 11), stride=4, padding=2),  # AlexNet's
    Case(1, 3, 64, (40, 220), (7, 7), stride=2, padding=3),  # ResNet's; a band is not a whole image
    Case(3, 8, 1, (3, 90), (3, 3)),
    Case(2, 5, 33, (90, 1), (3, 1), padding=0),
    Case(2, 7, 17, (1, 1), (3, 3)),  # the map is smaller than the window
    Case(2, 4, 9, (2, 3), (11, 11), padding=5),
    Case(5, 3, 20, (10, 11), (2, 2), stride=4, padding=1),  # there are pixels that no window holds
    Case(1, 1, 100, (13, 17), (16, 16), stride=3, padding=7),
    Case(2, 16, 32, (9, 9), (5, 5), padding=2),
    Case(3, 1, 16, (8, 40), (4, 8), stride=2, padding=0, bias=False),  # exactly one product, no spare row
    Case(3, 1, 31, (9, 9), (7, 9), padding=0, packed=False),
]
ORIGINAL = {name: getattr(module, name) for name in ("_one_product", "_few_channels")}
SMALL = [
    Case(3, 5, 20, (9, 7)),
    Case(3, 1, 6, (9, 9), (5, 5), padding=2),
    Case(3, 3, 18, (15, 14), (7, 7), 2, 3),
]


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    with with_amx(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_one_product", lambda weight: True)
        patch.setattr(module, "_few_channels", lambda weight, stride: True)
        yield


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n, c, o = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(OUTPUTS)
    window, stride = draw(st.sampled_from(WINDOWS)), draw(st.sampled_from([1, 1, 2, 3, 4]))
    padding = draw(st.integers(0, min(window) - 1))
    height, width = (draw(st.integers(max(1, taps - 2 * padding), 40)) for taps in window)
    return Case(n, c, o, (height, width), window, stride, padding, draw(st.booleans()), draw(st.booleans()))


@settings(deadline=None, max_examples=150)
@given(cases())
def test_forward_and_gradients(case: Case) -> None:
    require_close(case)


@settings(deadline=None, max_examples=150)
@given(cases())
def test_whole_numbers_exactly(case: Case) -> None:
    given = sample(case, whole=True)
    exact = definition(given, case)
    for name, got in amx.arrays(given, case).items():
        if name in {"y", "dx"}:
            exact[name] = torch.from_numpy(exact[name]).bfloat16().double().numpy()
        np.testing.assert_array_equal(got, exact[name], err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_of_networks_and_peculiar_ones(case: Case) -> None:
    require_close(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bits_do_not_depend_on_the_number_of_threads(case: Case) -> None:
    before = torch.get_num_threads()
    given, found = sample(case), []
    try:
        for threads in (1, 2, 3, 7, 1):
            torch.set_num_threads(threads)
            found.append(bits(given, case))
    finally:
        torch.set_num_threads(before)
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_what_is_not_finite_reaches_what_sees_it_and_its_neighbours_at_most(case: Case, bad: float) -> None:
    x, w, b, dy = sample(case)
    for image, channel, row, column in ((1, 0, 0, 0), (1, -1, 3, 2), (1, 0, 2, -1), (2, -1, -1, -1)):
        seen, back = x.clone(), dy.clone()
        seen[image, channel, row, column] = bad
        amx.require_the_spread((seen, w, b, dy), case, ("y", "dx", "dw", "db"))
        back[image, channel, min(row, dy.shape[2] - 1), min(column, dy.shape[3] - 1)] = bad
        amx.require_the_spread((x, w, b, back), case, ("y", "dx", "db"))
        dw = computed((x, w, b, back), case)["dw"].isfinite()
        assert int(dw.all(dim=(1, 2, 3)).sum()) == case.o - 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_does_not_matter_what_memory_held_nor_where_it_begins(case: Case) -> None:
    given = sample(case)
    want = bits(given, case)
    for value in (float("nan"), 1e30):
        for _ in range(2):
            held = [torch.full((2**k,), value, dtype=torch.bfloat16) for k in range(4, 23) for _ in range(3)]
            del held
        assert bits(given, case) == want
    x, w, b, dy = given
    moved = _moved(x, 1), _moved(w.contiguous(), 3), None if b is None else _moved(b, 1), _moved(dy, 5)
    assert bits(moved, case) == want
    turned = w.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert bits((x.contiguous(), turned, b, dy.contiguous()), case) == want


def _moved(value: Tensor, by: int) -> Tensor:
    """The same, with the same strides, beginning `by` numbers behind a multiple of 16 bytes."""
    room = torch.empty(value.numel() + by, dtype=value.dtype)[by:]
    return room.as_strided(value.size(), value.stride(), by).copy_(value)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_written_around_the_results(case: Case) -> None:
    x, w, b, dy = sample(case)
    around = {}
    for name, like in (("y", dy), ("dw", w), ("db", torch.zeros(case.o))):
        room = torch.full((like.numel() + 256,), 7.0, dtype=like.dtype)
        around[name] = (room, room.as_strided(like.size(), like.stride(), 128))
    y, dw, db = (around[name][1] for name in ("y", "dw", "db"))
    convolutions.few_forward(x, w, b, y, stride=case.stride, padding=case.padding)
    convolutions.few_weight_gradient(x, dy, dw, db, stride=case.stride, padding=case.padding)
    for name, (room, _) in around.items():
        assert bool((room[:128] == 7).all()), name
        assert bool((room[-128:] == 7).all()), name
    found = computed((x, w, b, dy), case)
    assert torch.equal(y, found["y"])
    assert torch.equal(dw, found["dw"])


@pytest.mark.parametrize(
    ("case", "forward", "backward"),
    [
        (Case(1, 1, 6, (9, 9), (5, 5), padding=2), "few_forward", "few_weight_gradient"),
        (Case(1, 3, 64, (9, 9)), "few_forward", "few_weight_gradient"),
        (Case(1, 3, 64, (19, 19), (7, 7), stride=2, padding=3), "amx_forward", "few_weight_gradient"),
        (Case(1, 6, 16, (9, 9), (5, 5), padding=0), "amx_forward", "amx_weight_gradient"),
        (Case(1, 6, 17, (9, 9), (5, 5), padding=0), "amx_forward", "few_weight_gradient"),
        (Case(1, 16, 32, (9, 9), (1, 1), padding=0), "amx_forward", "amx_weight_gradient"),
        (Case(1, 16, 32, (9, 9), (2, 1), padding=0), "few_forward", "amx_weight_gradient"),
        (Case(1, 4, 32, (9, 9), stride=4), "amx_forward", "amx_weight_gradient"),
    ],
    ids=str,
)
def test_which_kernels_work(case: Case, forward: str, backward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, original in ORIGINAL.items():
        monkeypatch.setattr(module, name, original)
    allowed = {forward, backward}
    for name in {"few_forward", "amx_forward", "few_weight_gradient", "amx_weight_gradient"} - allowed:
        monkeypatch.setattr(convolutions, name, None)
    require_close(case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 5, 7, 2), (2, 33, 9, 9), (64, 16, 30, 30), (2, 64, 1, 3)]
)
def test_sums_of_channels(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(
        dtype, memory_format=torch.channels_last
    )
    want = x.double().sum((0, 2, 3))
    np.testing.assert_allclose(library.channel_sums(x).double(), want, rtol=1e-6, atol=1e-4)
