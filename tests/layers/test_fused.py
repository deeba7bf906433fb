"""Rewriting a network for fused training: same names, same numbers, undone without a trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.insight.health import record
from convworks.layers.fused import (
    FusedBatchNorm2d,
    FusedGELU,
    FusedReLU,
    FusedResidual,
    fuse,
    is_fused,
    plain,
)
from convworks.layers.residual import Residual
from convworks.training.ema import WeightAverage
from convworks.training.loop import Numerics
from convworks.training.recalibrate import recalibrate
from tests.ops.native.kernels import loaded

NETWORKS = {
    "resnet18": (64, 20),
    "resnet20_cifar": (16, 19),
    "resnet50": (64, 53),
    "plain20_cifar": (16, 19),
    "fastnet": (32, 10),
    "lenet5_modern": (28, 2),
    "bn_inception": (64, None),
    "alexnet": (96, 5),
    "mobilenet_v1_025_128": (64, None),
    "airbench94": (32, 10),
}


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with loaded():
        yield


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    size = NETWORKS[name][0]
    return models.create(name, num_classes=5, in_channels=3, input_size=(size, size)).train()


def vgg_like() -> nn.Module:
    torch.manual_seed(0)
    rows: list[nn.Module] = []
    for c_in, c_out in ((3, 8), (8, 17)):
        rows += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
        rows += [nn.MaxPool2d(2, 2)]
    return nn.Sequential(nn.Sequential(*rows), nn.Flatten(), nn.Linear(17 * 16, 5))


def one_pass(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers of a training step."""
    torch.manual_seed(1)
    output = net(x)
    logits = output if isinstance(output, Tensor) else output.logits
    named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(logits.square().sum(), [p for _, p in named], allow_unused=True)
    found = {n: g for (n, _), g in zip(named, gradients, strict=True) if g is not None}
    return {"output": logits.detach(), **found, **{n: b.clone() for n, b in net.named_buffers()}}


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 2e-3) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        scale = max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(value / scale, b[name] / scale, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_network_is_the_same_network(name: str) -> None:
    size, groups = NETWORKS[name]
    net = network(name)
    other = copy.deepcopy(net)
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    found = fuse(other)
    assert found == (groups or found)
    assert found > 0
    assert fuse(other) == 0  # all is done
    assert list(net.state_dict()) == list(other.state_dict())
    assert [n for n, _ in net.named_modules()] == [n for n, _ in other.named_modules()]
    same(one_pass(net.double(), x.double()), one_pass(copy.deepcopy(other).double(), x.double()), 1e-9)
    reference = one_pass(copy.deepcopy(net), x.double())
    single = one_pass(other.float(), x)  # in float32 the kernels do it; deep networks amplify rounding
    torch.testing.assert_close(single["output"].double(), reference["output"], rtol=2e-3, atol=2e-3)
    net.float().eval()
    plain(other).load_state_dict(net.state_dict())
    assert torch.equal(net(x), other.eval()(x))
    fuse(other)
    assert torch.equal(net(x), other.eval()(x))


def test_the_kernels_are_what_runs() -> None:
    """A planted error in a kernel's answer reaches the output."""
    net = vgg_like()
    x = torch.randn(2, 3, 16, 16)
    want = one_pass(net, x)
    fuse(net)
    same(want | {}, one_pass(vgg_fused_from(net), x))
    from convworks.ops.native import library

    real = library.pool_forward
    try:
        library.pool_forward = lambda x, y, window, **k: (*real(x, y, window, **k), y.mul_(1.01))[:2]
        with pytest.raises(AssertionError, match="output"):
            same(want, one_pass(vgg_fused_from(net), x))
    finally:
        library.pool_forward = real


def vgg_fused_from(net: nn.Module) -> nn.Module:
    """A fused copy as it was at the start."""
    fresh = vgg_like()
    fuse(fresh)
    assert is_fused(net)
    return fresh


def test_a_fused_network_is_undone_and_copied() -> None:
    net = network("resnet20_cifar")
    kinds = [type(each) for each in net.modules()]
    fuse(net)
    twin = copy.deepcopy(net)
    assert {FusedBatchNorm2d, FusedReLU, FusedResidual} <= {type(each) for each in twin.modules()}
    for each in twin.modules():  # the copy's layers work with the copy's
        group = each.__dict__.get("fused_group")
        if group is not None:
            assert set(group.layers) <= set(twin.modules())
    plain(net)
    assert [type(each) for each in net.modules()] == kinds
    assert not any("fused_group" in each.__dict__ for each in net.modules())
    assert is_fused(twin)
    assert not is_fused(net)


def test_whoever_looks_sees_what_each_layer_gives() -> None:
    net = network("resnet20_cifar")
    x = torch.randn(4, 3, 16, 16)
    want = record(net, x, training=True, loss=lambda y: y.sum())
    fuse(net)
    got = record(net, x, training=True, loss=lambda y: y.sum())
    assert list(got) == list(want)
    for name, each in want.items():
        torch.testing.assert_close(got[name].output, each.output, rtol=1e-4, atol=1e-4)
    seen: list[Tensor] = []
    net[0][1].register_forward_hook(lambda *a: seen.append(a[2]))  # type: ignore[index]
    net(x)
    assert float(seen[0].detach().min()) < 0  # the batch norm's own output, before the ReLU


def test_a_container_that_ends_within_a_group_gives_its_own_output() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.ReLU())
    x = torch.randn(2, 3, 5, 5)
    want = net[0](x)
    fuse(net)
    seen: list[Tensor] = []
    handle = net[0].register_forward_hook(lambda *a: seen.append(a[2]))
    net(x)
    handle.remove()
    torch.testing.assert_close(seen[0], want)


def test_a_gelu_is_done_by_the_batch_norm_unless_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.GELU(), nn.MaxPool2d(2))
    x = torch.randn(4, 3, 6, 6)
    normed = nn.BatchNorm2d(3)(x)
    activated = nn.functional.gelu(normed)
    assert fuse(net) == 2  # the pooling by itself: a GELU is not monotone
    assert type(net[1]) is FusedGELU
    assert net[0].fused_group.layers == (net[0], net[1])
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "gelu", lambda *a, **k: pytest.fail("torch's GELU ran"))
        torch.testing.assert_close(net(x), nn.functional.max_pool2d(activated, 2))
    for layer in (0, 1):
        seen: list[Tensor] = []
        handle = net[layer].register_forward_hook(lambda *a, seen=seen: seen.append(a[2]))
        net(x)
        handle.remove()
        torch.testing.assert_close(seen[0], (normed, activated)[layer])
    running = net[0].running_mean[None, :, None, None], net[0].running_var[None, :, None, None]
    still = nn.functional.gelu((x - running[0]) / (running[1] + 1e-5).sqrt())
    torch.testing.assert_close(net[:2].eval()(x), still)
    assert type(plain(net)[1]) is nn.GELU  # type: ignore[index]


def test_layers_that_are_used_twice_or_are_others_stay() -> None:
    norm, relu = nn.BatchNorm2d(3), nn.ReLU()
    twice = nn.GELU()

    class Own(nn.BatchNorm2d):
        pass

    assert fuse(nn.Sequential(norm, relu, norm, relu)) == 0
    assert fuse(nn.Sequential(Own(3), nn.ReLU())) == 0
    assert fuse(nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2))) == 0
    assert fuse(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1))) == 0
    assert fuse(nn.Sequential(nn.GELU(), nn.Conv2d(3, 3, 1))) == 0
    for other in (
        nn.Sequential(nn.BatchNorm2d(3), nn.GELU("tanh")),
        nn.Sequential(nn.BatchNorm2d(3), twice, twice),
    ):
        assert fuse(other) == 1  # the batch norm alone
        assert type(other[1]) is nn.GELU


def test_evaluation_recalibration_and_the_average_see_an_ordinary_network() -> None:
    net, other = network("resnet20_cifar"), network("resnet20_cifar")
    fuse(other)
    x = torch.randn(8, 3, 16, 16)
    for each in (net, other):
        average = WeightAverage(each, 0.9)
        average.update(each, 0)
        recalibrate(each, lambda: [x[:4], x[4:]], numerics=Numerics())
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), other.buffers(), strict=True))


def test_the_mean_over_all_batches_and_frozen_norms() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.ReLU(), nn.BatchNorm2d(3, affine=False))
    other = copy.deepcopy(net)
    assert fuse(other) == 2
    for seed in range(3):
        x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(other(x), net(x), rtol=1e-4, atol=1e-5)
    for a, b in zip(net.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    net[0].eval(), other[0].eval()
    torch.testing.assert_close(other(x), net(x), rtol=1e-4, atol=1e-5)


def test_stochastic_depth_and_other_activations_leave_a_unit_as_it_is() -> None:
    unit = Residual(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), activation=nn.ReLU())
    other = copy.deepcopy(unit)
    assert fuse(other) == 1
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(other(x), unit(x), rtol=1e-4, atol=1e-5)
    unit.survival = other.survival = 0.5
    for seed in range(4):
        torch.manual_seed(seed)
        want = unit(x)
        torch.manual_seed(seed)
        torch.testing.assert_close(other(x), want, rtol=0, atol=0)
    tanh = Residual(nn.Sequential(nn.BatchNorm2d(3)), activation=nn.Tanh())
    want = copy.deepcopy(tanh)(x)
    fuse(tanh)
    assert type(tanh) is Residual
    torch.testing.assert_close(tanh(x), want, rtol=1e-4, atol=1e-5)


def test_checkpointed_blocks_are_computed_again_alike() -> None:
    from torch.utils.checkpoint import checkpoint

    net = network("resnet20_cifar")
    fuse(net)
    x = torch.randn(4, 3, 16, 16, requires_grad=True)
    want = torch.autograd.grad(net(x).sum(), x)[0]
    again = torch.autograd.grad(checkpoint(net, x, use_reentrant=False).sum(), x)[0]
    assert torch.equal(want, again)


def test_two_trainings_end_in_the_same_bits() -> None:
    def train() -> list[Tensor]:
        net = network("fastnet").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fuse(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        draws = torch.Generator().manual_seed(3)
        for _ in range(3):
            x = torch.randn(8, 3, 32, 32, generator=draws)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = net(x).float().square().mean()
            loss.backward()
            optimizer.step()
        return [value.clone() for value in net.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(train(), train(), strict=True))
