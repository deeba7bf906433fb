"""The lecture's exercise to the last printed digit, every box against loops and SciPy, and planted errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate as scipy_correlate
from torch import Tensor

from convworks.errors import ConvworksError
from convworks.ops.arguments import BadArgument
from convworks.ops.backprop import (
    BackpropModule,
    Chain,
    Cost,
    EuclideanCost,
    Flatten,
    Linear,
    Pointwise,
    SoftmaxCrossEntropy,
)
from convworks.ops.backprop_spatial import BatchNorm, Convolution1d, Convolution2d, MaxPool1d, MaxPool2d
from convworks.ops.gradient_check import check_chain

close = torch.testing.assert_close
few = settings(max_examples=25, deadline=None, derandomize=True)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exercise() -> Chain:
    return Chain([Linear([[1, 0.2], [-1, 0.3]]), Pointwise("tanh"), Linear([[0.5, -0.4]])], EuclideanCost())


X, Y = [[1.0, 0.1]], [[0.5]]
GRADIENT = [0.037557, 0.003756, -0.032416, -0.003242, 0.141975, -0.138072]


def flat(tensors: dict[str, Tensor]) -> list[float]:
    return [value for tensor in tensors.values() for value in tensor.flatten().tolist()]


def test_one_iteration_by_hand() -> None:
    chain = exercise()
    energy = chain.forward_backward(X, Y)
    assert chain.modules[2].x is not None
    assert chain.modules[2].x.flatten().tolist() == pytest.approx([0.769867, -0.748704], abs=5e-7)
    assert chain.outputs(X).item() == pytest.approx(0.684415, abs=5e-7)
    assert energy.item() == pytest.approx(0.017004, abs=5e-7)
    assert flat(chain.gradients) == pytest.approx(GRADIENT, abs=5e-7)
    chain.update(eta=-0.2)
    assert chain.costs(X, Y).item() == pytest.approx(0.009707, abs=5e-7)


def test_the_exercise_by_central_differences() -> None:
    def cost(w: list[float]) -> float:
        h1, h2 = np.tanh(w[0] * 1.0 + w[1] * 0.1), np.tanh(w[2] * 1.0 + w[3] * 0.1)
        return float(0.5 * (w[4] * h1 + w[5] * h2 - 0.5) ** 2)

    w, h = [1, 0.2, -1, 0.3, 0.5, -0.4], 1e-6
    for place, expected in enumerate(GRADIENT):
        up, down = list(w), list(w)
        up[place] += h
        down[place] -= h
        assert (cost(up) - cost(down)) / (2 * h) == pytest.approx(expected, abs=5e-7)


def test_both_sign_conventions_are_one_step() -> None:
    lecture, usual = exercise(), exercise()
    for chain in (lecture, usual):
        chain.forward_backward(X, Y)
    lecture.update(eta=-0.2)
    usual.descend(learning_rate=0.2)
    assert flat(lecture.parameters) == flat(usual.parameters)
    wrong = exercise()
    wrong.forward_backward(X, Y)
    wrong.update(eta=0.2)  # climbs
    assert wrong.costs(X, Y).item() > 0.017004
    with pytest.raises(BadArgument, match=r"learning_rate = -0.2 does not fit: here the minus stands"):
        usual.descend(learning_rate=-0.2)


def test_linear() -> None:
    w, b, x, dy = normal(3, 4), normal(3, seed=1), normal(2, 4, seed=2), normal(2, 3, seed=3)
    module = Linear(w, b)
    y = module(x)
    dx = module.backward(dy)
    for n, i in itertools.product(range(2), range(3)):
        close(y[n, i], sum((w[i, j] * x[n, j] for j in range(4)), b[i]))
    for n, j in itertools.product(range(2), range(4)):
        close(dx[n, j], sum(dy[n, i] * w[i, j] for i in range(3)))
    outer = np.einsum("ni,nj->ij", dy.numpy(), x.numpy())
    np.testing.assert_allclose(module.gradients["weight"].numpy(), outer, rtol=1e-12)
    close(module.gradients["bias"], dy[0] + dy[1])


def test_pointwise() -> None:
    b, x, dy = normal(4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    module = Pointwise("tanh", b)
    np.testing.assert_allclose(module(x).numpy(), np.tanh((x + b).numpy()), rtol=1e-12)
    slope = 1 - np.tanh((x + b).numpy()) ** 2
    np.testing.assert_allclose(module.backward(dy).numpy(), dy.numpy() * slope, rtol=1e-12)
    np.testing.assert_allclose(module.gradients["bias"].numpy(), (dy.numpy() * slope).sum(0), rtol=1e-12)


def test_euclidean_cost() -> None:
    x, y = normal(3, 2), normal(3, 2, seed=1)
    close(EuclideanCost().to_input(x, y), x - y)
    expected = [0.5 * ((x[n] - y[n]) ** 2).sum() for n in range(3)]
    close(EuclideanCost().forward(x, y), torch.stack(expected))


def test_softmax_cross_entropy() -> None:
    x, y = 300 * normal(4, 3), torch.tensor([0, 2, 1, 1])
    p = np.exp(x.numpy() - x.numpy().max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(
        SoftmaxCrossEntropy().to_input(x, y).numpy(), p - np.eye(3)[y.numpy()], atol=1e-12
    )
    small = x / 300
    q = np.exp(small.numpy())
    q /= q.sum(1, keepdims=True)
    np.testing.assert_allclose(
        SoftmaxCrossEntropy().forward(small, y).numpy(), -np.log(q[range(4), y.numpy()]), rtol=1e-12
    )
    assert torch.isfinite(SoftmaxCrossEntropy().forward(x, y)).all()


@few
@given(
    boundary=st.sampled_from(["valid", "same", "full"]),
    size=st.integers(5, 9),
    taps=st.integers(1, 5),
    maps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    batch=st.integers(1, 2),
    rank=st.sampled_from([1, 2]),
)
def test_convolution(
    boundary: str, size: int, taps: int, maps: tuple[int, int], batch: int, rank: int
) -> None:
    taps = taps + 1 - taps % 2 if boundary == "same" else taps
    space = (size, size - 1)[:rank]
    x, w = normal(batch, maps[0], *space), normal(maps[1], maps[0], *[taps] * rank, seed=1)
    module = (Convolution1d if rank == 1 else Convolution2d)(w, boundary=boundary)
    y = module(x)
    expected = [
        [
            sum(scipy_correlate(x[n, i].numpy(), w[o, i].numpy(), boundary) for i in range(maps[0]))
            for o in range(maps[1])
        ]
        for n in range(batch)
    ]
    np.testing.assert_allclose(y.numpy(), np.array(expected), atol=1e-12)
    dy = normal(*y.shape, seed=2)
    dx = module.backward(dy)
    dw = module.gradients["weight"]
    # The backward boxes are the adjoints: <dy, F(x', w)> = <dx, x'> and <dy, F(x, w')> = <dw, w'>.
    for at in itertools.product(*map(range, x.shape)):
        unit = torch.zeros_like(x)
        unit[at] = 1
        close(dx[at], (dy * module.forward(unit)).sum(), atol=1e-12, rtol=1e-10)
    for at in itertools.product(*map(range, w.shape)):
        unit = torch.zeros_like(w)
        unit[at] = 1
        other = type(module)(unit, boundary=boundary)
        close(dw[at], (dy * other(x)).sum(), atol=1e-12, rtol=1e-10)


def test_the_three_boxes_of_the_problem_set() -> None:
    x, w, dy = normal(7), normal(3, seed=1), normal(5, seed=2)
    module = Convolution1d(w[None, None])
    assert module(x[None, None]).shape == (1, 1, 5)
    dx = module.backward(dy[None, None])[0, 0]
    np.testing.assert_allclose(dx.numpy(), np.convolve(dy.numpy(), w.numpy()), rtol=1e-12)
    dw = module.gradients["weight"][0, 0]
    np.testing.assert_allclose(dw.numpy(), np.correlate(x.numpy(), dy.numpy(), "valid"), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Convolution1d([[1.0, 2.0]])(normal(1, 1, 5)), r"its axes are \(outputs, inputs, taps\)"),
        (lambda: Convolution1d(normal(1, 1, 6))(normal(1, 1, 5)), "a kernel of 6 does not fit into 5 places"),
        (lambda: Convolution1d(normal(1, 1, 2), boundary="same")(normal(1, 1, 5)), "2"),
        (lambda: Convolution1d(normal(1, 1, 3), boundary="sane")(normal(1, 1, 5)), "same"),
        (lambda: MaxPool1d(6)(normal(1, 1, 5)), r"a window does not fit into an input of \(5,\)"),
        (lambda: MaxPool2d(0), "at least 1"),
        (lambda: Linear([1.0]), r"weight = \(1,\) does not fit: a linear module has a matrix"),
        (lambda: Pointwise("tahn"), "tanh"),
        (lambda: Chain([], EuclideanCost()), "at least one module"),
    ],
)
def test_what_does_not_fit_is_named(make: Callable[[], object], said: str) -> None:
    with pytest.raises(BadArgument, match=said) as caught:
        make()
    assert isinstance(caught.value, ConvworksError)


def test_backward_before_forward() -> None:
    with pytest.raises(ValueError, match="Linear.backward before a forward pass"):
        Linear([[1.0]]).backward(normal(1, 1))


def test_the_gradient_goes_to_the_maximum_alone_and_to_the_first_of_equals() -> None:
    module = MaxPool1d(2)
    x = torch.tensor([[[1.0, 3.0, 2.0, 2.0, 0.0, -1.0, 9.0]]], dtype=torch.float64)
    assert module(x).tolist() == [[[3, 2, 0]]]  # the last place has no whole window
    dx = module.backward(torch.tensor([[[10.0, 20.0, 30.0]]], dtype=torch.float64))
    assert dx.tolist() == [[[0, 10, 20, 0, 30, 0, 0]]]
    overlapping = MaxPool1d(3, stride=1)
    overlapping(x[..., :5])
    assert overlapping.backward(torch.ones(1, 1, 3, dtype=torch.float64)).tolist() == [[[0, 2, 1, 0, 0]]]
    plane = MaxPool2d(2)
    plane(torch.ones(1, 1, 2, 2, dtype=torch.float64))
    assert plane.backward(torch.ones(1, 1, 1, 1, dtype=torch.float64)).tolist() == [[[[1, 0], [0, 0]]]]


@few
@given(
    size=st.integers(1, 3), stride=st.integers(1, 3), sides=st.tuples(st.integers(3, 6), st.integers(3, 6))
)
def test_max_pooling_by_loops(size: int, stride: int, sides: tuple[int, int]) -> None:
    x = normal(2, 2, *sides).mul(2).round()  # with ties
    module = MaxPool2d(size, stride=stride)
    y = module(x)
    dy = normal(*y.shape, seed=1)
    dx, expected = module.backward(dy).numpy(), np.zeros(x.shape)
    for n, c, i, j in itertools.product(*map(range, y.shape)):
        window = x[n, c, i * stride : i * stride + size, j * stride : j * stride + size].numpy()
        assert y[n, c, i, j] == window.max()
        row, column = np.unravel_index(window.argmax(), window.shape)
        expected[n, c, i * stride + row, j * stride + column] += dy[n, c, i, j]
    np.testing.assert_allclose(dx, expected, atol=1e-12)


def test_a_shared_weight_has_the_sum_of_the_gradients_of_untied_copies() -> None:
    w, x, y = normal(3, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
    tied = Chain([Linear(w), Pointwise("tanh"), Linear(w)], EuclideanCost())
    untied = Chain([Linear(w.clone()), Pointwise("tanh"), Linear(w.clone())], EuclideanCost())
    tied.forward_backward(x, y)
    untied.forward_backward(x, y)
    assert list(tied.parameters) == ["0.weight"]
    close(tied.gradients["0.weight"], untied.gradients["0.weight"] + untied.gradients["2.weight"])
    before = w.clone()
    total = tied.gradients["0.weight"].clone()
    tied.update(eta=-0.1)
    close(w, before - 0.1 * total)
    assert check_chain(tied, x, y).ok


def test_a_kernel_has_the_sum_over_the_places_of_an_untied_layer() -> None:
    kernel, x = normal(3), normal(1, 1, 7, seed=1)
    dense = torch.zeros(5, 7, dtype=torch.float64)
    for t, k in itertools.product(range(5), range(3)):
        dense[t, t + k] = kernel[k]
    shared, untied = Convolution1d(kernel[None, None]), Linear(dense)
    close(shared(x)[0], untied(x[0]))
    dy = normal(1, 1, 5, seed=2)
    shared.backward(dy)
    untied.backward(dy[0])
    sums = [untied.gradients["weight"].diagonal(k)[:5].sum() for k in range(3)]
    close(shared.gradients["weight"][0, 0], torch.stack(sums))


def image_chain(cost: Cost) -> Chain:
    return Chain(
        [
            Convolution2d(normal(3, 2, 3, 3, seed=1), boundary="same"),
            Pointwise("tanh", normal(3, 1, 1, seed=2)),
            MaxPool2d(2),
            Convolution2d(normal(2, 3, 2, 2, seed=3), boundary="full"),
            Flatten(),
            Linear(normal(3, 24, seed=4), normal(3, seed=5)),
        ],
        cost,
    )


IMAGES, CLASSES = normal(4, 2, 6, 4), torch.tensor([0, 2, 1, 0])


def test_the_gradient_of_a_batch_is_the_sum_over_its_examples() -> None:
    chain = image_chain(SoftmaxCrossEntropy())
    energy = chain.forward_backward(IMAGES, CLASSES)
    whole = chain.gradients
    close(energy, chain.costs(IMAGES, CLASSES).sum())
    parts = []
    for n in range(4):
        chain.forward_backward(IMAGES[n : n + 1], CLASSES[n : n + 1])
        parts.append(chain.gradients)
    for name, gradient in whole.items():
        close(gradient, sum(part[name] for part in parts))


def signal_chain() -> Chain:
    modules = [Convolution1d(normal(2, 1, 3, seed=1)), Pointwise("sigmoid"), MaxPool1d(2), Flatten()]
    return Chain([*modules, Linear(normal(2, 4, seed=2))], EuclideanCost())


def normed_chain() -> Chain:
    modules: list[BackpropModule] = [
        Convolution2d(normal(3, 2, 3, 3, seed=1)),
        BatchNorm(normal(3, seed=2), normal(3, seed=3)),
        Pointwise("tanh"),
        Flatten(),
        Linear(normal(4, 24, seed=4)),
        BatchNorm(normal(4, seed=5), normal(4, seed=6)),
    ]
    return Chain(modules, SoftmaxCrossEntropy())


def test_batch_norm_by_numpy() -> None:
    x, gamma, beta = normal(5, 3), normal(3, seed=1), normal(3, seed=2)
    v = x.numpy()
    expected = gamma.numpy() * (v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) + beta.numpy()
    np.testing.assert_allclose(BatchNorm(gamma, beta)(x).numpy(), expected, rtol=1e-10)


CASES: dict[str, tuple[Callable[[], Chain], Tensor, Tensor]] = {
    "perceptron": (exercise, torch.tensor(X).double(), torch.tensor(Y).double()),
    "signal": (signal_chain, normal(3, 1, 6), normal(3, 2, seed=7)),
    "normed": (normed_chain, IMAGES, CLASSES),
    "image": (lambda: image_chain(SoftmaxCrossEntropy()), IMAGES, CLASSES),
    "euclidean": (lambda: image_chain(EuclideanCost()), IMAGES, normal(4, 3, seed=8)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_module_passes_the_numeric_check(case: str) -> None:
    make, x, y = CASES[case]
    result = check_chain(make(), x, y, tolerance=1e-6)
    result.require()
    assert result.checked == x.numel() + sum(tensor.numel() for tensor in make().parameters.values())
    assert result.worst_error <= 1e-6


PLANTED = [
    (Linear, "perceptron", "to_input"),
    (Linear, "perceptron", "to_weights"),
    (Pointwise, "image", "to_input"),
    (Pointwise, "image", "to_weights"),
    (Convolution1d, "signal", "to_input"),
    (Convolution1d, "signal", "to_weights"),
    (Convolution2d, "image", "to_input"),
    (Convolution2d, "image", "to_weights"),
    (MaxPool1d, "signal", "to_input"),
    (MaxPool2d, "image", "to_input"),
    (BatchNorm, "normed", "to_input"),
    (BatchNorm, "normed", "to_weights"),
    (Flatten, "image", "to_input"),
    (EuclideanCost, "euclidean", "to_input"),
    (SoftmaxCrossEntropy, "image", "to_input"),
]


@pytest.mark.parametrize(("kind", "case", "box"), PLANTED)
def test_a_planted_error_is_caught(
    kind: type[BackpropModule | Cost], case: str, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(kind, box)

    def wrong(*arguments: Tensor) -> Tensor | dict[str, Tensor]:
        answer = right(*arguments)
        spoiled = next(iter(answer.values()), None) if isinstance(answer, dict) else answer
        if spoiled is not None:
            place = torch.unravel_index(spoiled.abs().argmax(), spoiled.shape)
            spoiled[place] *= 1.01  # one entry, by one per cent
        return answer

    monkeypatch.setattr(kind, box, wrong)
    make, x, y = CASES[case]
    assert not check_chain(make(), x, y).ok


def test_autograd_is_not_used() -> None:
    chain = image_chain(SoftmaxCrossEntropy())
    x = IMAGES.clone().requires_grad_(True)
    energy = chain.forward_backward(x, CLASSES)
    assert not energy.requires_grad
    assert all(not gradient.requires_grad for gradient in chain.gradients.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    chain = Chain([Linear(normal(2, 3).to(dtype)), Pointwise("tanh")], EuclideanCost())
    energy = chain.forward_backward(normal(4, 3, seed=1).to(dtype), normal(4, 2, seed=2).to(dtype))
    assert energy.dtype == dtype
    assert chain.gradients["0.weight"].dtype == dtype
