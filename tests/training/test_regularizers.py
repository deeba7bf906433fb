"""Regularisers in the training loop, against closed forms, plain loops and autograd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convworks.data.loader import Batch, Mixed
from convworks.errors import ConvworksError
from convworks.layers import GaussianDropout, KeepDropout
from convworks.training.loop import (
    Numerics,
    Position,
    StepSettings,
    accumulate_gradients,
    train_epoch,
)
from convworks.training.optimizer import make_optimizer
from convworks.training.regularize import penalty, set_dropout_
from convworks.training.regularizers import Regularizers
from convworks.training.schedule import constant

PLAIN = StepSettings(seed=1, lr=0.1)
EVERY = Regularizers(
    l1=3e-3,
    l2_plain=2e-3,
    sparsity=0.2,
    sparsity_layers=("act2",),
    sparsity_target=0.1,
)


def small_lenet(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Convolution, pooling, dense: no batch norm."""
    torch.manual_seed(0)
    network = nn.Sequential()
    for name, part in {
        "conv": nn.Conv2d(1, 4, 3),
        "act1": nn.Tanh(),
        "pool": nn.AvgPool2d(2),
        "flatten": nn.Flatten(),
        "dense": nn.Linear(36, 8),
        "act2": nn.Sigmoid(),
        "out": nn.Linear(8, 3),
    }.items():
        network.add_module(name, part)
    return network.to(dtype)


def batch_of(n: int = 12, *, dtype: torch.dtype = torch.float64, mixed: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.arange(n) % 3
    both = Mixed((y + 1) % 3, torch.rand(n, generator=generator)) if mixed else None
    return Batch(x=x, y=y, rows=np.arange(n), mixed=both)


class Once:
    """A loader of one batch."""

    steps = 1

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        yield self.batch


def gradients(network: nn.Module, batch: Batch, wanted: StepSettings) -> list[Tensor]:
    """(loss, penalty, gradients ...) of one accumulation."""
    optimizer = make_optimizer("sgd", network, lr=0.1)
    found = accumulate_gradients(network, optimizer, batch, wanted, Numerics())
    numbers = torch.tensor([found.loss, found.penalty], dtype=torch.float64)
    return [numbers, *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def train(network: nn.Module, wanted: StepSettings, steps: int, *, name: str = "sgd") -> list[float]:
    optimizer = make_optimizer(name, network, lr=wanted.lr)
    position, penalties = Position(), []
    for _ in range(steps):
        for step in train_epoch(
            network,
            Once(batch_of()),
            optimizer,
            position=position,
            schedule=constant(),
            settings=wanted,
            numerics=Numerics(),
        ):
            penalties.append(step.penalty)
        position.next_epoch()
    return penalties


def test_penalties_are_the_closed_forms() -> None:
    """L1, plain L2 and sparsity: value and gradient against autograd of the formulas, written out here."""
    network, batch = small_lenet(), batch_of()
    found = gradients(network, batch, replace(PLAIN, regularizers=EVERY))
    reference = small_lenet()
    hidden = reference[:6](batch.x)
    q = hidden.mean(dim=0)
    data = F.cross_entropy(reference.out(hidden), batch.y)
    weights = [p for p in reference.parameters() if p.ndim > 1]
    terms = 0.2 * (-0.1 * q.log() - 0.9 * (1 - q).log()).sum()
    terms = terms + 3e-3 * sum(w.abs().sum() for w in weights) + 2e-3 * sum((w**2).sum() for w in weights)
    (data + terms).backward()
    torch.testing.assert_close(found[0], torch.stack([data, terms]).detach(), rtol=1e-6, atol=1e-9)
    for mine, parameter in zip(found[1:], reference.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-6, atol=1e-9)


def test_both_conventions_of_l2() -> None:
    """lambda sum w^2 has the gradient 2 lambda w; the lectures' lambda w is a weight decay of lambda."""
    for kind, factor in (("l2_plain", 2.0), ("l2_half", 1.0)):
        network = small_lenet()
        penalty(network, kind=kind, strength=0.01).backward()
        torch.testing.assert_close(network.dense.weight.grad, factor * 0.01 * network.dense.weight.detach())
    zero = replace(PLAIN, regularizers=Regularizers(l2_plain=0.01))
    with_term = gradients(small_lenet(), batch_of(), zero)
    without = gradients(small_lenet(), batch_of(), PLAIN)
    weight = small_lenet().conv.weight.detach()
    torch.testing.assert_close(with_term[1] - without[1], 2 * 0.01 * weight)
    torch.testing.assert_close(with_term[2], without[2])  # a bias has no penalty


def test_l1_has_no_gradient_at_zero() -> None:
    network = small_lenet()
    with torch.no_grad():
        network.out.weight[0, 0] = 0.0
    found = gradients(network, batch_of(), replace(PLAIN, regularizers=Regularizers(l1=0.5)))
    plain = small_lenet()
    with torch.no_grad():
        plain.out.weight[0, 0] = 0.0
    difference = found[-2] - gradients(plain, batch_of(), PLAIN)[-2]
    torch.testing.assert_close(difference, 0.5 * plain.out.weight.detach().sign())
    assert difference[0, 0] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mixed", [False, True])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(parts=st.integers(2, 11))
def test_parts_add_up_to_the_big_batch(dtype: torch.dtype, mixed: bool, parts: int) -> None:
    """N forwards, N backwards, one update: 1e-6 of the whole batch, with every penalty and mixed labels."""
    batch = batch_of(dtype=dtype, mixed=mixed)
    weights = torch.tensor([0.5, 2.0, 1.0])
    wanted = replace(PLAIN, regularizers=EVERY, label_smoothing=0.1, class_weights=weights)
    whole = gradients(small_lenet(dtype), batch, wanted)
    cut = gradients(small_lenet(dtype), batch, replace(wanted, accumulate=parts))
    for one, many in zip(whole, cut, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("term", ["l1", "l2_plain", "sparsity"])
def test_a_penalty_counted_for_every_part_is_noticed(term: str) -> None:
    """The planted error: each part adds the whole penalty."""
    wanted = replace(PLAIN, regularizers=EVERY)
    batch = batch_of()
    whole = gradients(small_lenet(), batch, wanted)
    twice = replace(wanted, accumulate=2, regularizers=replace(EVERY, **{term: 2 * getattr(EVERY, term)}))
    wrong = gradients(small_lenet(), batch, twice)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong, whole, rtol=1e-6, atol=1e-6)


def test_the_pass_for_the_means_leaves_no_trace() -> None:
    """Running statistics and draws are those of a training without the sparsity term."""
    found = []
    for strength in (0.0, 1e-12):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(8, 3)
        ).double()
        wanted = replace(
            PLAIN, accumulate=3, regularizers=Regularizers(sparsity=strength, sparsity_layers=("3",))
        )
        torch.manual_seed(7)
        gradients(network, batch_of(), wanted)
        found.append({**dict(network.named_buffers()), "draw": torch.rand(3), "g": network[5].weight.grad})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-9, atol=1e-12)


def test_proximal_gives_exact_zeros_and_l1_in_the_loss_does_not() -> None:
    zeros = {}
    for proximal in (False, True):
        network = small_lenet()
        wanted = replace(PLAIN, lr=0.05, regularizers=Regularizers(l1=0.02, proximal=proximal))
        penalties = train(network, wanted, 60)
        weights = torch.cat([p.flatten() for p in network.parameters() if p.ndim > 1])
        zeros[proximal] = int((weights == 0).sum())
        assert penalties[0] == pytest.approx(
            0.02 * sum(float(p.detach().abs().sum()) for p in small_lenet().parameters() if p.ndim > 1)
        )
    assert zeros[False] == 0
    assert zeros[True] > 50


def test_a_proximal_step_by_hand() -> None:
    """w - lr g, then sign(w) max(|w| - lr lambda, 0); biases are not touched."""
    network = small_lenet()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    slopes = dict(
        zip(before, gradients(small_lenet(), batch_of(), PLAIN)[1:], strict=True),
    )
    train(network, replace(PLAIN, regularizers=Regularizers(l1=0.3, proximal=True)), 1)
    for name, p in network.named_parameters():
        stepped = before[name] - 0.1 * slopes[name]
        if p.ndim > 1:
            stepped = stepped.sign() * (stepped.abs() - 0.1 * 0.3).clamp(min=0)
        torch.testing.assert_close(p.detach(), stepped)


def test_a_group_is_shrunk_by_its_own_rate() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        for layer in network:
            layer.weight.fill_(1.0)
    groups = [{"params": [network[0].weight], "lr": 0.1}, {"params": [network[1].weight], "lr": 0.5}]
    optimizer = torch.optim.SGD(groups)
    for layer in network:
        layer.weight.grad = torch.zeros(2, 2)
    Regularizers(l1=1.0, proximal=True).project_(network, optimizer)
    assert network[0].weight.unique().tolist() == pytest.approx([0.9])
    assert network[1].weight.unique().tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("c", [2.0, 3.0, 0.5])
@pytest.mark.parametrize("name", ["sgd", "sgd_alexnet", "nesterov", "rmsprop", "adam", "adamw"])
def test_max_norm_holds_after_every_step(c: float, name: str) -> None:
    network = small_lenet()
    optimizer = make_optimizer(name, network, lr=0.5, weight_decay=0.0)
    wanted = replace(PLAIN, lr=0.5, regularizers=Regularizers(max_norm=c))
    position = Position()
    for _ in range(6):
        for _ in train_epoch(
            network,
            Once(batch_of()),
            optimizer,
            position=position,
            schedule=constant(),
            settings=wanted,
            numerics=Numerics(),
        ):
            for p in network.parameters():
                if p.ndim > 1:
                    assert float(p.detach().flatten(1).norm(dim=1).max()) <= c * (1 + 1e-12)
        position.next_epoch()


def test_frozen_weights_keep_their_bits() -> None:
    network = small_lenet()
    network.conv.requires_grad_(False)
    before = network.conv.weight.clone()
    every = Regularizers(l1=0.1, proximal=True, l2_plain=0.1, max_norm=0.01)
    train(network, replace(PLAIN, regularizers=every), 2)
    assert torch.equal(network.conv.weight, before)
    assert float(network.dense.weight.detach().norm(dim=1).max()) <= 0.01 + 1e-12


def test_sparsity_brings_mean_activations_to_the_target() -> None:
    means = {}
    for strength in (0.0, 2.0):
        network = small_lenet()
        wanted = Regularizers(sparsity=strength, sparsity_layers=("act2",), sparsity_target=0.05)
        train(network, replace(PLAIN, lr=0.05, regularizers=wanted), 400, name="adam")
        means[strength] = network[:6](batch_of().x).mean(dim=0).detach()
    assert (means[2.0] - 0.05).abs().max() < 0.02
    assert means[0.0].mean() > 0.2


def test_the_sparsity_penalty_sees_activations_without_noise() -> None:
    wanted = Regularizers(sparsity=0.1, sparsity_layers=("act2",), noise=5.0)
    network = small_lenet()
    with wanted.active(network), wanted.recording(network) as sparsity:
        noisy = network[:6].train()(batch_of().x)
        clean = sparsity.outputs()["act2"]
    assert float(noisy.detach().max()) > 1 > float(clean.detach().max())
    assert train(small_lenet(), replace(PLAIN, regularizers=wanted), 2)[0] is not None


def test_a_saturated_unit_does_not_stop_a_training() -> None:
    network = small_lenet(torch.float32)
    with torch.no_grad():
        network.dense.bias[0], network.dense.bias[1] = 200.0, -200.0  # sigmoids of exactly 1, and 0
    wanted = Regularizers(sparsity=1.0, sparsity_layers=("act2",))
    found = gradients(network, batch_of(dtype=torch.float32), replace(PLAIN, regularizers=wanted))
    assert all(bool(torch.isfinite(each).all()) for each in found)


def test_dropout_probabilities_in_each_convention() -> None:
    network = nn.Sequential(
        nn.Dropout(0.5), KeepDropout(0.9), GaussianDropout(0.1), nn.Dropout2d(0.2), nn.AlphaDropout(0.3)
    )
    assert set_dropout_(network, 0.25) == 5
    assert (network[0].p, network[3].p, network[4].p) == (0.25, 0.25, 0.25)
    assert network[1].keep_probability == 0.75
    assert network[2].drop_probability == 0.25
    x = torch.ones(200_000)
    torch.manual_seed(0)
    assert float((network[0].train()(x) == 0).double().mean()) == pytest.approx(0.25, abs=0.005)
    assert float((network[1].train()(x) == 0).double().mean()) == pytest.approx(0.25, abs=0.005)
    torch.testing.assert_close(network[1].eval()(x), 0.75 * x)
    with pytest.raises(ConvworksError, match="a probability below 1"):
        set_dropout_(network, 1.0)


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        (Regularizers(dropout=0.5), "U210", "no dropout layer"),
        (Regularizers(stochastic_depth=0.5), "U212", "no residual unit"),
        (Regularizers(sparsity=0.1), "U214", "no layers to act on"),
        (Regularizers(sparsity=0.1, sparsity_layers=("act3",)), "U101", "did you mean 'act"),
    ],
)
def test_nothing_to_act_on(wanted: Regularizers, code: str, words: str) -> None:
    with pytest.raises(ConvworksError, match=words) as caught:
        wanted.prepare(small_lenet())
    assert caught.value.code == code
    assert caught.value.try_.startswith("--set ")


def test_noise_needs_activations_that_are_layers() -> None:
    with pytest.raises(ConvworksError, match="no activation that is a layer") as caught:
        Regularizers(noise=1.0).prepare(nn.Linear(2, 2))
    assert caught.value.code == "U211"


@pytest.mark.parametrize("parts", [1, 3])
def test_sparsity_of_a_tanh_is_refused(parts: int) -> None:
    wanted = replace(
        PLAIN, accumulate=parts, regularizers=Regularizers(sparsity=0.1, sparsity_layers=("act1",))
    )
    with pytest.raises(ConvworksError, match="the outputs of the layer 'act1' go from -0") as caught:
        gradients(small_lenet(), batch_of(), wanted)
    assert caught.value.code == "U215"


def test_within_a_part() -> None:
    network = nn.Sequential()
    network.add_module("body", nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5)))
    network.add_module("head", nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()))
    wanted = Regularizers(noise=1.0, dropout=0.2, l1=0.1, sparsity=0.1, sparsity_layers=("head.1",))
    assert wanted.within(network, "") == wanted
    part = wanted.within(network.head, "head")
    assert part == replace(wanted, dropout=None, sparsity_layers=("1",))
    part.prepare(network.head)
    with pytest.raises(ConvworksError, match="no layer called 'body.1'"):
        replace(wanted, sparsity_layers=("body.1",)).within(network.head, "head")


def test_the_default_does_nothing() -> None:
    network, plain = small_lenet(), small_lenet()
    assert train(network, replace(PLAIN, regularizers=Regularizers()), 3) == [None] * 3
    train(plain, PLAIN, 3)
    for mine, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_penalty_is_told_with_each_step() -> None:
    network = small_lenet()
    norm = sum(float((p.detach() ** 2).sum()) for p in network.parameters() if p.ndim > 1)
    told = train(network, replace(PLAIN, regularizers=Regularizers(l2_plain=0.5)), 1)
    assert told == [pytest.approx(0.5 * norm)]
    assert math.isfinite(norm)
