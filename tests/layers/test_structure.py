"""Reshaping, joining and cutting maps, and the messages where shapes do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.errors import ConvworksError
from convworks.layers.structure import Add, Concatenate, Crop, Dot, Flatten, Unflatten

FEW = settings(max_examples=25, deadline=None, derandomize=True)


def maps(*shape: int) -> torch.Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


def test_the_order_of_a_vector_is_as_documented() -> None:
    x = maps(2, 3, 4, 5)
    first, last = Flatten()(x), Flatten(order="channels_last")(x)
    for n, c, y, z in np.ndindex(2, 3, 4, 5):
        assert first[n, (c * 4 + y) * 5 + z] == x[n, c, y, z]
        assert last[n, (y * 5 + z) * 3 + c] == x[n, c, y, z]
    torch.testing.assert_close(first, torch.nn.Flatten()(x))


@FEW
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    order=st.sampled_from(["channels_first", "channels_last"]),
)
def test_to_a_vector_and_back(shape: list[int], order: str) -> None:
    x = maps(2, *shape)
    vector = Flatten(order=order)(x)
    assert vector.shape == (2, np.prod(shape))
    torch.testing.assert_close(Unflatten(shape, order=order)(vector), x, rtol=0, atol=0)


def test_flatten_refuses_what_it_cannot_order() -> None:
    with pytest.raises(ConvworksError, match=r"order = 'rows' does not fit"):
        Flatten(order="rows")
    with pytest.raises(ConvworksError, match=r"x.shape = \(3,\)"):
        Flatten()(torch.zeros(3))
    with pytest.raises(ConvworksError, match=r"x.shape = \(1, 7\).*maps of 2 x 2 x 2 are 8 numbers"):
        Unflatten((2, 2, 2))(torch.zeros(1, 7))


def test_concatenation_puts_maps_side_by_side() -> None:
    a, b, c = maps(2, 3, 4), maps(2, 1, 4), maps(2, 2, 4)
    y = Concatenate()(a, b, c)
    np.testing.assert_array_equal(y.numpy(), np.concatenate([a, b, c], axis=1))
    along = Concatenate(dim=-1)(maps(1, 2, 3), maps(1, 2, 1))
    assert along.shape == (1, 2, 4)


def test_concatenation_names_both_inputs_and_the_dimension() -> None:
    a, b = torch.zeros(2, 8, 14, 14), torch.zeros(2, 4, 13, 14)
    message = (
        r"1x1 \(2, 8, 14, 14\) and 5x5 \(2, 4, 13, 14\)(.|\n)*dimension 2 is 14 and 13; only dimension 1"
    )
    with pytest.raises(ConvworksError, match=message):
        Concatenate(names=("1x1", "5x5"))(a, b)
    with pytest.raises(ConvworksError, match=r"input 0 \(2, 8, 14, 14\) and input 2 \(2, 4, 13, 14\)"):
        Concatenate()(a, a, b)
    with pytest.raises(ConvworksError, match="they have 4 and 2 dimensions"):
        Concatenate()(a, torch.zeros(2, 8))
    with pytest.raises(ConvworksError, match="dim = 4 does not fit: the inputs have 4 dimensions"):
        Concatenate(dim=4)(a, a)
    with pytest.raises(ConvworksError, match="there are 2 inputs and 1 names"):
        Concatenate(names=("one",))(a, a)
    with pytest.raises(ConvworksError, match="there is nothing to join"):
        Concatenate()()


def test_addition_sums_all_inputs() -> None:
    a = maps(1, 2, 3)
    torch.testing.assert_close(Add()(a, 2 * a, 3 * a), 6 * a)
    torch.testing.assert_close(Add()(a), a)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((1, 64, 56, 56), (1, 128, 28, 28),
         r"64 maps and 128; maps of 56x56 and 28x28(.|\n)*on input 0: .* from 64 to 128 maps, stride 2"),
        ((1, 128, 28, 28), (1, 64, 28, 28), r"on input 0: a 1x1 convolution from 128 to 64 maps, stride 1"),
        ((1, 8, 4, 4), (1, 8, 7, 7), r"maps of 4x4 and 7x7(.|\n)*on input 1: .* from 8 to 8 maps, stride 2"),
        ((1, 8, 14, 14), (1, 8, 12, 12), r"maps of 14x14 and 12x12(.|\n)*padding or a crop on input 0"),
        ((1, 8, 14, 14), (1, 8, 7, 14), r"padding or a crop on input 0"),
        ((2, 8), (2, 9), r"their shapes differ"),
        ((2, 8, 4), (1, 8, 4), r"their shapes differ"),
    ],
)  # fmt: skip
def test_addition_explains_a_mismatch(a: tuple[int, ...], b: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConvworksError, match=rf"cannot be added(.|\n)*{message}"):
        Add()(torch.zeros(a), torch.zeros(b))


def test_the_advice_of_the_message_works() -> None:
    shortcut, branch = torch.zeros(1, 4, 7, 7), torch.zeros(1, 6, 4, 4)
    with pytest.raises(ConvworksError, match="on shortcut: a 1x1 convolution from 4 to 6 maps, stride 2"):
        Add(names=("shortcut", "branch"))(shortcut, branch)
    assert Add()(torch.nn.Conv2d(4, 6, 1, stride=2)(shortcut), branch).shape == branch.shape


def test_crops_of_every_rank() -> None:
    x = maps(1, 2, 5)
    np.testing.assert_array_equal(Crop(1)(x).numpy(), x.numpy()[:, :, 1:-1])
    np.testing.assert_array_equal(Crop([(2, 0)])(x).numpy(), x.numpy()[:, :, 2:])
    x = maps(1, 2, 5, 6)
    np.testing.assert_array_equal(Crop((1, 2))(x).numpy(), x.numpy()[:, :, 1:-1, 2:-2])
    np.testing.assert_array_equal(Crop(((1, 0), (0, 3)))(x).numpy(), x.numpy()[:, :, 1:, :-3])
    x = maps(1, 1, 3, 4, 5)
    np.testing.assert_array_equal(Crop((0, 1, 2))(x).numpy(), x.numpy()[..., 1:-1, 2:-2])


def test_a_crop_that_leaves_nothing() -> None:
    with pytest.raises(ConvworksError, match=r"amount = \(1, 2\).*2 \+ 2 of 4 cells leaves none"):
        Crop((1, 2))(torch.zeros(1, 1, 5, 4))
    with pytest.raises(ConvworksError, match=r"amount = \(1, 2, 3\).*there are 2 spatial dimensions"):
        Crop((1, 2, 3))(torch.zeros(1, 1, 5, 4))
    with pytest.raises(ConvworksError, match=r"amount = -1 does not fit"):
        Crop(-1)(torch.zeros(1, 1, 5, 4))


@FEW
@given(a=st.integers(1, 3), b=st.integers(1, 3), j=st.integers(1, 4), normalize=st.booleans())
def test_inner_products_equal_loops(a: int, b: int, j: int, normalize: bool) -> None:
    rng = np.random.default_rng(a + 10 * b + 100 * j)
    x, y = rng.normal(size=(2, a, j)), rng.normal(size=(2, j, b))
    found = Dot((2, 1), normalize=normalize)(torch.from_numpy(x), torch.from_numpy(y))
    for n, p, q in np.ndindex(2, a, b):
        u, v = x[n, p], y[n, :, q]
        expected = u @ v / (np.linalg.norm(u) * np.linalg.norm(v) if normalize else 1)
        np.testing.assert_allclose(found[n, p, q].item(), expected, rtol=1e-9, atol=1e-12)


def test_inner_products_of_vectors_and_maps() -> None:
    u, v = maps(3, 4), maps(3, 4) + 1
    np.testing.assert_allclose(Dot(1)(u, v).numpy(), (u * v).sum(1, keepdim=True).numpy())
    assert Dot((1, 1))(maps(2, 3, 4, 5), maps(2, 3, 6)).shape == (2, 4, 5, 6)
    with pytest.raises(
        ConvworksError, match=r"input 0 \(2, 3\) and input 1 \(2, 4\)(.|\n)*over 3 and 4 numbers"
    ):
        Dot(1)(maps(2, 3), maps(2, 4))
    with pytest.raises(ConvworksError, match="the batches have 2 and 1 examples"):
        Dot(1)(maps(2, 3), maps(1, 3))
    with pytest.raises(ConvworksError, match=r"axes = \(2, 2\).*shape \(2, 3\)"):
        Dot(2)(maps(2, 3), maps(2, 3))


def test_gradients_flow_through_all() -> None:
    x = torch.randn(
        2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    layer = torch.nn.Sequential(Crop(1), Flatten(order="channels_last"), Unflatten((2, 1, 1)))
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradcheck(lambda x: Add()(x, Concatenate()(x[:, 1:], x[:, :1])), (x,))
    assert torch.autograd.gradcheck(lambda x: Dot(1, normalize=True)(x, x[..., :1]), (x,))


def test_reprs() -> None:
    assert repr(Flatten()) == "Flatten(order='channels_first')"
    assert repr(Concatenate(names=("a", "b"))) == "Concatenate(dim=1, names=('a', 'b'))"
    assert repr(Crop(1)) == "Crop(1)"
    assert repr(Dot(1)) == "Dot(axes=(1, 1), normalize=False)"
    assert repr(Unflatten((2, 3))) == "Unflatten((2, 3), order='channels_first')"
