"""Training without autograd learns, and its losses are those of the same run with autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from convworks.ops.arguments import BadArgument
from convworks.ops.backprop import Chain, EuclideanCost, Flatten, Linear, Pointwise, SoftmaxCrossEntropy
from convworks.ops.backprop_spatial import Convolution2d, MaxPool2d
from convworks.ops.backprop_trainer import perceptron, train


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


XOR_X = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
XOR_Y = torch.tensor([[0], [1], [1], [0]], dtype=torch.float64)


def autograd_xor(weights: list[Tensor], *, epochs: int, learning_rate: float) -> list[float]:
    w1, b1, w2, b2 = (w.clone().requires_grad_(True) for w in weights)
    history = []
    for _ in range(epochs):
        loss = 0.5 * ((torch.tanh(XOR_X @ w1.T + b1) @ w2.T + b2 - XOR_Y) ** 2).sum()
        gradients = torch.autograd.grad(loss, [w1, b1, w2, b2])
        with torch.no_grad():
            for w, g in zip((w1, b1, w2, b2), gradients, strict=True):
                w -= learning_rate * g
        history.append(float(loss.detach()) / 4)
    return history


def test_xor() -> None:
    chain = perceptron((2, 4, 1), generator=generator(0))
    expected = autograd_xor(list(chain.parameters.values()), epochs=1500, learning_rate=0.05)
    history = train(chain, XOR_X, XOR_Y, epochs=1500, learning_rate=0.05)
    assert history == pytest.approx(expected, abs=1e-6)
    assert (chain.outputs(XOR_X).round() == XOR_Y).all()
    assert history[-1] < 1e-3 < history[0]


def digits(count: int) -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images[:count] / 16.0)[:, None], torch.tensor(data.target[:count])


def digit_chain(seed: int) -> Chain:
    draw = generator(seed)
    kernels = 0.3 * torch.randn(8, 1, 3, 3, generator=draw, dtype=torch.float64)
    weight = 0.05 * torch.randn(10, 8 * 16, generator=draw, dtype=torch.float64)
    return Chain(
        [
            Convolution2d(kernels, boundary="same"),
            Pointwise("tanh", torch.zeros(8, 1, 1, dtype=torch.float64)),
            MaxPool2d(2),
            Flatten(),
            Linear(weight, torch.zeros(10, dtype=torch.float64)),
        ],
        SoftmaxCrossEntropy(),
    )


def test_a_digit_subset() -> None:
    x, y = digits(500)
    chain = digit_chain(1)
    k, b, w, c = (p.clone().requires_grad_(True) for p in chain.parameters.values())
    order, expected = generator(3), []
    for _ in range(20):
        energy = 0.0
        for part in torch.randperm(400, generator=order).split(50):
            hidden = F.max_pool2d(torch.tanh(F.conv2d(x[part], k, padding=1) + b), 2).flatten(1)
            loss = F.cross_entropy(hidden @ w.T + c, y[part], reduction="sum")
            gradients = torch.autograd.grad(loss, [k, b, w, c])
            energy += float(loss.detach())
            with torch.no_grad():
                for p, g in zip((k, b, w, c), gradients, strict=True):
                    p -= 0.01 * g
        expected.append(energy / 400)
    history = train(chain, x[:400], y[:400], epochs=20, learning_rate=0.01, batch=50, generator=generator(3))
    assert history == pytest.approx(expected, abs=1e-6)
    right = (chain.outputs(x[400:]).argmax(dim=1) == y[400:]).double().mean()
    assert right > 0.8
    assert history[-1] < 0.2 < 2 < history[0]


def test_a_batch_is_a_sum_so_a_short_last_batch_counts_its_examples() -> None:
    chain = perceptron((2, 1), generator=generator(0))
    history = train(chain, XOR_X, XOR_Y, epochs=1, learning_rate=1e-9, batch=3)
    again = perceptron((2, 1), generator=generator(0))
    assert history[0] == pytest.approx(float(again.costs(XOR_X, XOR_Y).mean()), abs=1e-8)


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [
        train(
            perceptron((2, 3, 1), generator=generator(5)),
            XOR_X,
            XOR_Y,
            epochs=3,
            learning_rate=0.1,
            batch=2,
            generator=generator(6),
        )
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(BadArgument, match=r"widths = \(2,\) does not fit: an input and an output are needed"):
        perceptron((2,), generator=generator(0))
    chain = perceptron((2, 1), generator=generator(0), bias=False)
    assert list(chain.parameters) == ["0.weight"]
    assert isinstance(chain.cost, EuclideanCost)
    with pytest.raises(BadArgument, match="batch = 0 does not fit"):
        train(chain, XOR_X, XOR_Y, epochs=1, learning_rate=0.1, batch=0)
    with pytest.raises(BadArgument, match="learning_rate = 0 does not fit"):
        train(chain, XOR_X, XOR_Y, epochs=1, learning_rate=0)
