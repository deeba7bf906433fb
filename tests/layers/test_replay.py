"""A pass that is replayed gives the bits of the layers' own, and gives way to whoever looks inside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.layers import replay as module
from convworks.layers.amx import suitable_amx
from convworks.layers.arrangement import arrange, as_torch
from convworks.layers.replay import ReplayedSequential, use_replay, without_replay
from convworks.ops.native import library
from convworks.ops.native.captured import Captured
from tests.layers.fake_amx import fake_amx
from tests.layers.trial import run
from tests.ops.native.kernels import loaded, with_amx


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pooling's own, and torch in the place of those of the matrix units."""
    with loaded():
        fake_amx(monkeypatch)
        yield


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[Captured]:
    """Grows by one for each direction that is replayed."""
    found: list[Captured] = []
    replay = Captured.replay

    def watched(self: Captured) -> None:
        found.append(self)
        replay(self)

    monkeypatch.setattr(Captured, "replay", watched)
    return found


def lenet() -> nn.Module:
    return models.create("lenet5_modern", num_classes=10, in_channels=1, input_size=(28, 28))


def mlp() -> nn.Module:
    return models.create("mlp128", num_classes=10, in_channels=1, input_size=(28, 28))


def strided() -> nn.Module:
    """A stride where no gradient of the images is asked for, no biases, ReLU before the pooling, groups."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Sequential(nn.Conv2d(16, 20, 3, padding="same", groups=2), nn.ReLU()),
        nn.Conv2d(20, 10, 3),
        nn.Flatten(),
        nn.Linear(160, 7, bias=False),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"lenet": lenet, "mlp": mlp, "strided": strided}


def pair(name: str = "lenet") -> tuple[nn.Module, nn.Module]:
    """A network that replays and the same one that does not."""
    torch.manual_seed(0)
    net = NETWORKS[name]().train().to(memory_format=torch.channels_last)
    other = copy.deepcopy(net)
    for each in (net, other):
        arrange(each, fused=True, amx=suitable_amx(each))
    assert type(net) is ReplayedSequential
    return net, without_replay(other)


def digits(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients."""
    net.zero_grad()
    y = run(net, x)
    y.float().square().mean().backward()
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {**found, "y": y.detach()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].stride() == b[name].stride() for name in a
    )


def check_that_not_a_bit_differs(name: str) -> None:
    net, other = pair(name)
    for n, seed in ((6, 0), (6, 1), (5, 2), (6, 3)):
        x = digits(n, seed)
        assert same(step(net, x), step(other, x))
        with torch.no_grad():
            for p, q in zip(net.parameters(), other.parameters(), strict=True):
                p -= 0.1 * p.grad
                q -= 0.1 * q.grad


# --- what it computes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("kernels")
def test_not_a_bit_differs(name: str, replays: list[Captured]) -> None:
    check_that_not_a_bit_differs(name)
    assert len(replays) == 8


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_not_a_bit_differs_by_the_kernels_themselves(
    name: str, threads: int, replays: list[Captured]
) -> None:
    before = torch.get_num_threads()
    with with_amx():
        torch.set_num_threads(threads)
        try:
            check_that_not_a_bit_differs(name)
        finally:
            torch.set_num_threads(before)
    assert len(replays) == 8


@pytest.mark.usefixtures("kernels")
def test_passes_may_overlap(replays: list[Captured]) -> None:
    net, other = pair()
    for each in (net, other):
        first, second, third = (run(each, digits(seed=seed)) for seed in range(3))
        (first.float().sum() + 2 * third.float().sum()).backward()
        second.float().square().sum().backward()
    found, want = ({n: p.grad for n, p in each.named_parameters()} for each in (net, other))
    assert all(torch.equal(found[name], want[name]) for name in want)
    assert len(replays) == 6


@pytest.mark.usefixtures("kernels")
def test_what_was_given_stays_as_it_is() -> None:
    net, _ = pair()
    y = run(net, digits())
    gradients = torch.autograd.grad(y.float().sum(), list(net.parameters()))
    before = [each.clone() for each in (y, *gradients)]
    step(net, digits(seed=1))
    assert all(torch.equal(a, b) for a, b in zip((y, *gradients), before, strict=True))


@pytest.mark.usefixtures("kernels")
def test_backward_twice_is_refused() -> None:
    net, _ = pair()
    loss = run(net, digits()).float().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    loss = run(net, digits()).float().sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        loss.backward()


@pytest.mark.usefixtures("kernels")
def test_weights_that_change_before_backward_are_noticed() -> None:
    net, _ = pair()
    loss = run(net, digits()).float().sum()
    with torch.no_grad():
        next(net.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("kernels")
def test_weights_that_move_are_found(replays: list[Captured]) -> None:
    net, other = pair()
    step(net, digits())
    for each in (net, other):
        for parameter in each.parameters():
            parameter.data = parameter.detach() * 2
    assert same(step(net, digits()), step(other, digits()))
    assert len(replays) == 4


@pytest.mark.usefixtures("kernels")
def test_a_copy_has_passes_of_its_own(replays: list[Captured]) -> None:
    net, _ = pair()
    before = step(net, digits())
    twin = copy.deepcopy(net)
    assert type(twin) is ReplayedSequential
    assert same(step(twin, digits()), before)
    assert len(replays) == 4
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert same(step(net, digits()), before)


# --- where the layers work themselves --------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["eval", "layer in eval", "no autocast", "half", "no gradients", "images want one", "no kernels"]
)
@pytest.mark.usefixtures("kernels")
def test_other_passes_are_the_layers_own(
    case: str, replays: list[Captured], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, other = pair()
    x = digits().requires_grad_(case == "images want one")
    if case == "eval":
        net.eval(), other.eval()
    if case == "layer in eval":
        net[0].eval(), other[0].eval()
    if case == "no kernels":
        monkeypatch.setattr(library, "amx_available", lambda: False)
    dtype = torch.float16 if case == "half" else torch.bfloat16
    with (
        torch.set_grad_enabled(case != "no gradients"),
        torch.autocast("cpu", dtype=dtype, enabled=case != "no autocast"),
    ):
        assert torch.equal(net(x), other(x))
    assert replays == []


@pytest.mark.usefixtures("kernels")
def test_a_frozen_parameter(replays: list[Captured]) -> None:
    net, other = pair()
    for each in (net, other):
        next(each.parameters()).requires_grad_(False)
    assert same(step(net, digits()), step(other, digits()))
    assert replays == []


@pytest.mark.parametrize("case", ["a layer", "a parameter", "a parametrization", "a memory format"])
@pytest.mark.usefixtures("kernels")
def test_what_is_exchanged_afterwards_counts(case: str, replays: list[Captured]) -> None:
    net, other = pair()
    step(net, digits())
    for each in (net, other):
        torch.manual_seed(1)
        f6 = each.get_submodule("f6")
        if case == "a layer":
            f6.linear = nn.Linear(120, 84)
        elif case == "a parameter":
            f6.linear.weight = nn.Parameter(torch.randn(84, 120))
        elif case == "a parametrization":
            nn.utils.parametrizations.weight_norm(f6.linear)
        else:
            each.to(memory_format=torch.contiguous_format)
    assert same(step(net, digits()), step(other, digits()))
    assert len(replays) == (4 if case in ("a parameter", "a memory format") else 2)


@pytest.mark.parametrize("place", ["", "c1", "c1.conv", "s2.relu", "c5.flatten"])
@pytest.mark.usefixtures("kernels")
def test_hooks_see_what_they_saw(place: str, replays: list[Captured]) -> None:
    net, _ = pair()
    seen: list[tuple[int, ...]] = []
    handle = net.get_submodule(place).register_forward_hook(lambda _, x, y: seen.append(tuple(y.shape)))
    step(net, digits())
    assert len(seen) == 1
    assert replays == []
    handle.remove()
    step(net, digits())
    assert len(seen) == 1
    assert len(replays) == 2


@pytest.mark.usefixtures("kernels")
def test_an_image_of_another_size_is_refused_as_before(replays: list[Captured]) -> None:
    net, other = pair()
    messages = []
    for each in (net, other):
        with pytest.raises(RuntimeError) as caught:
            run(each, torch.randn(2, 1, 20, 20))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert replays == []


@pytest.mark.usefixtures("kernels")
def test_a_large_pass_is_not_kept(replays: list[Captured], monkeypatch: pytest.MonkeyPatch) -> None:
    net, other = pair()
    monkeypatch.setattr(module, "MOST_BYTES", 6 * 28 * 28 * 2)  # the images alone
    assert same(step(net, digits()), step(other, digits()))
    assert replays == []


@pytest.mark.usefixtures("kernels")
def test_a_few_kinds_of_passes_are_kept() -> None:
    net, other = pair()
    for n in (1, 2, 3, 4, 5, 6, 1, 1):
        assert same(step(net, digits(n)), step(other, digits(n)))
    kept = net.__dict__["replay"]._spare
    assert len(kept) == module.MOST_KINDS
    assert all(len(passes) == 1 for passes in kept.values())


@pytest.mark.usefixtures("kernels")
def test_a_stride_within_is_the_layers_own(replays: list[Captured]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, stride=2))
    other = copy.deepcopy(net)
    for each in (net, other):
        arrange(each, fused=True, amx=suitable_amx(each))
    assert type(net) is ReplayedSequential
    assert same(step(net, digits()), step(without_replay(other), digits()))
    assert replays == []


# --- which networks, and the change of class -------------------------------------------------------------


def not_replayed() -> dict[str, nn.Module]:
    class Mine(nn.Sequential):
        """May compute in a way of its own."""

    shared = nn.Linear(5, 5)
    return {
        "batch norm": nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)),
        "dropout": nn.Sequential(nn.Linear(5, 5), nn.Dropout(), nn.Linear(5, 5)),
        "flatten of less": nn.Sequential(nn.Linear(5, 5), nn.Flatten(2), nn.Linear(5, 5)),
        "one layer": nn.Sequential(nn.Linear(5, 5), nn.ReLU()),
        "a layer twice": nn.Sequential(nn.Linear(5, 5), shared, nn.ReLU(), shared),
        "a class of its own": Mine(nn.Linear(5, 5), nn.Linear(5, 5)),
        "pooling by torch": nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(8, 8, 3)
        ),
        "no Sequential": nn.Linear(5, 5),
    }


@pytest.mark.parametrize("case", not_replayed())
@pytest.mark.usefixtures("kernels")
def test_networks_that_are_left_alone(case: str) -> None:
    net = not_replayed()[case]
    kind = type(net)
    arrange(net, fused=True, amx=suitable_amx(net))
    assert not isinstance(net, ReplayedSequential)
    assert type(net) is kind or isinstance(net, nn.Linear)


@pytest.mark.usefixtures("kernels")
def test_there_and_back() -> None:
    net = lenet()
    text, names, state = str(net), [n for n, _ in net.named_modules()], list(net.state_dict())
    arrange(net, fused=True, amx=suitable_amx(net))
    assert type(net) is ReplayedSequential
    assert [n for n, _ in net.named_modules()] == names
    assert list(net.state_dict()) == state
    use_replay(net)
    assert type(net) is ReplayedSequential
    arrange(net, fused=True, amx=["c1.conv"])  # the other layers are torch's again
    assert type(net) is nn.Sequential
    arrange(net, fused=True, amx=suitable_amx(net))
    assert type(net) is ReplayedSequential
    assert as_torch(net) is net
    assert str(net) == text
    assert "replay" not in net.__dict__
