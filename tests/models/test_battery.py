"""One battery over every registered network."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from convworks import anatomy, models
from convworks.errors import ConvworksError
from convworks.layers import WithAuxiliary
from tests.papers import facts
from tests.papers.networks import NETWORKS

# Before training the running statistics are 0 and 1 and hold nothing down: 1,000 residual sums leave float32.
OVERFLOWS = ("preact_resnet1001_cifar", "resnet1202_cifar")
# Deep and without shortcuts, or with a loss of three classifiers: the first gradient is too long for a step.
STEEP = ("bn_inception", "plain32_cifar", "plain34", "plain56_cifar")
SIZES = [(16, 16), (20, 24), (28, 28), (32, 32), (33, 33), (40, 32)]
every_model = pytest.mark.parametrize("name", models.names())
TRAINED = [name for name in models.names() if not NETWORKS[name].only_counted]
trained_model = pytest.mark.parametrize("name", TRAINED)
# More than 15 M parameters, or 90 M multiply-adds for an image: five seconds and more until they are done.
# Smaller members of their families do it in every run of the tests, these in `make proofs`.
SLOW = (
    "airbench94",
    "airbench95",
    "inception_resnet_v1",
    "inception_v3",
    "plain34",
    "plain44_cifar",
    "plain56_cifar",
    "resnet34",
    "resnet34_a",
    "resnet50",
)


def quick_size(name: str) -> tuple[int, int]:
    """An input size that is quick to compute; the published one where the facts name no other."""
    return NETWORKS[name].small or models.info(name).input_size


def build(
    name: str, *, seed: int = 0, num_classes: int = 10, **arguments: int | tuple[int, int]
) -> nn.Module:
    torch.manual_seed(seed)
    arguments = {"input_size": quick_size(name), **arguments}
    return models.create(name, num_classes=num_classes, **arguments)  # type: ignore[arg-type]


@contextmanager
def all_zero() -> Iterator[None]:
    """Networks whose weights are not drawn, where only the shapes of what they compute are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        for draw in ("normal_", "uniform_"):
            patch.setattr(Tensor, draw, lambda self, *args, **kwargs: self.zero_())
        yield


def images(name: str, count: int, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, models.info(name).in_channels, *quick_size(name), generator=generator)


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy as the training loop computes it, auxiliary classifiers included."""
    output = net(x)
    if not isinstance(output, WithAuxiliary):
        return F.cross_entropy(output, y)
    others = sum(F.cross_entropy(each, y) for each in output.auxiliary)
    return F.cross_entropy(output.logits, y) + output.discount * others


def step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 2,
    longest: float = math.inf,
) -> float:
    """One optimizer step in training mode; dropout draws the same masks in each."""
    torch.manual_seed(seed)
    loss = loss_of(net, x, y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), longest)
    optimizer.step()
    return loss.item()


@every_model
def test_the_paper_counts_parameters_and_multiply_adds(name: str) -> None:
    """Counted without memory for the weights, at the published size."""
    fact = NETWORKS[name]
    with torch.device("meta"):
        net = models.create(name, num_classes=fact.classes, input_size=fact.input_shape[1:])
        rows = anatomy.trace(net, fact.input_shape)
    computed = {row.name: facts.Layer(row.output, row.parameters, row.macs) for row in anatomy.stages(rows)}
    assert computed == fact.stages
    assert anatomy.totals(rows).parameters == fact.parameters
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == fact.parameters
    assert fact.macs is None or anatomy.totals(rows).macs == fact.macs


@every_model
@pytest.mark.parametrize(("num_classes", "in_channels"), [(2, 3), (10, 1), (100, 3)])
def test_classes_and_channels(name: str, num_classes: int, in_channels: int) -> None:
    with all_zero():
        net = build(name, num_classes=num_classes, in_channels=in_channels).eval()
    x = torch.zeros(2, in_channels, *quick_size(name))
    with torch.no_grad():
        assert net(x).shape == (2, num_classes)


@every_model
def test_a_size_fits_or_is_refused_when_built(name: str) -> None:
    fitting = []
    for size in dict.fromkeys([*SIZES, quick_size(name)]):
        try:
            with all_zero():
                net = build(name, input_size=size).eval()
        except ConvworksError as refusal:
            if refusal.code != "U122" or not re.search(r"what fits: .*\d+", refusal.format()):
                raise
        else:
            with torch.no_grad():
                assert net(torch.zeros(2, models.info(name).in_channels, *size)).shape == (2, 10)
            fitting.append(size)
    assert quick_size(name) in fitting


@trained_model
def test_every_parameter_gets_a_gradient(name: str) -> None:
    net = build(name)
    loss_of(net, images(name, 16), torch.arange(16) % 10).backward()
    learning = {key: p for key, p in net.named_parameters() if p.requires_grad}
    without = [key for key, p in learning.items() if p.grad is None or not p.grad.any()]
    assert without == []


@every_model
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    first, same, other = (build(name, seed=seed).state_dict() for seed in (5, 5, 6))
    assert first.keys() == same.keys()
    assert [key for key in first if not torch.equal(first[key], same[key])] == []
    assert not all(torch.allclose(first[key], other[key]) for key in first)


@every_model
def test_evaluation_is_deterministic_and_does_not_see_the_neighbours(name: str) -> None:
    dtype = torch.float64 if name in OVERFLOWS else torch.float32
    net, x = build(name).to(dtype).eval(), images(name, 6).to(dtype)
    with torch.no_grad():
        together = net(x)
        largest = max(1.0, together.abs().max().item())
        torch.testing.assert_close(net(x), together, rtol=0, atol=0)
        alone = torch.cat([net(x[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5 * largest)
        torch.testing.assert_close(net(x.flip(0)).flip(0), together, rtol=1e-4, atol=1e-5 * largest)


@every_model
def test_evaluation_leaves_the_random_generator_and_the_buffers(name: str) -> None:
    net = build(name).eval()
    state, buffers = torch.get_rng_state(), copy.deepcopy(dict(net.named_buffers()))
    net(images(name, 2))
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    torch.testing.assert_close(dict(net.named_buffers()), buffers, rtol=0, atol=0)


@trained_model
def test_weights_go_through_safetensors_to_the_bit(name: str) -> None:
    net, other = build(name, seed=0), build(name, seed=1).eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    step(net, optimizer, images(name, 4), torch.arange(4))  # running statistics move too
    other.load_state_dict(load(save(net.state_dict())))
    x = images(name, 3)
    torch.testing.assert_close(other(x), net.eval()(x), rtol=0, atol=0)


@every_model
def test_a_copy_shares_nothing(name: str) -> None:
    dtype = torch.float64 if name in OVERFLOWS else torch.float32
    net, x = build(name).to(dtype).eval(), images(name, 2).to(dtype)
    twin, before = copy.deepcopy(net), net(x).detach()
    torch.testing.assert_close(twin(x).detach(), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    torch.testing.assert_close(net(x).detach(), before, rtol=0, atol=0)


@trained_model
def test_channels_last_gives_the_same_logits_and_gradients(name: str) -> None:
    # in float64, because a deep network with batch norm makes a rounding error of float32 visible
    x, y = images(name, 4).double(), torch.arange(4)
    plain, last = build(name).double(), build(name).double().to(memory_format=torch.channels_last)
    results = []
    for net, batch in ((plain, x), (last, x.to(memory_format=torch.channels_last))):
        torch.manual_seed(0)
        loss = loss_of(net, batch, y)
        loss.backward()
        results.append((loss.detach(), [p.grad for p in net.parameters() if p.requires_grad]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


@trained_model
def test_bfloat16_autocast_is_near_float32(name: str) -> None:
    net = build(name).eval()
    x = images(name, 8)
    with torch.no_grad():
        exact = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(x).float()
    # bfloat16 has 8 bits of mantissa; errors of some layers add up
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.05 * exact.std().item())


@trained_model
def test_one_step_lowers_the_loss(name: str) -> None:
    net = build(name)
    x, y = images(name, 16), torch.arange(16) % 10
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    before = step(net, optimizer, x, y, longest=1.0 if name in STEEP else math.inf)
    assert step(net, optimizer, x, y) < before


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.proof if name in SLOW else ()) for name in TRAINED]
)
def test_it_learns_eight_images_by_heart(name: str) -> None:
    net = build(name)
    x, y = images(name, 8), torch.arange(8)
    optimizer = torch.optim.Adam(net.parameters(), lr=NETWORKS[name].rate)
    for seed in range(120):
        step(net.train(), optimizer, x, y, seed=seed)
        if seed % 10 == 9 and net.eval()(x).argmax(dim=1).equal(y):
            return
    pytest.fail(f"{name} does not know eight images after 120 steps")
