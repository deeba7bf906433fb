"""Initialisers: exact biases, spreads within 1 %, the signal through thirty layers, the same bits."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError
from convworks.layers import ConnectionTableConv2d
from convworks.layers.locally_connected import LocallyConnected2d
from convworks.ops.arguments import BadArgument
from convworks.training.initialize import (
    CAFFE_BIAS,
    LSUV,
    SCHEMES,
    VGG,
    AlexNet,
    Gaussian,
    He,
    Orthogonal,
    Scheme,
    Xavier,
    copy_layers,
    fans,
    initialize,
    signal_propagation,
    weighted_layers,
)

close = torch.testing.assert_close


def alexnet_shaped() -> nn.Sequential:
    """Five convolutions, three dense layers, a norm between them; conv2, conv4 and conv5 in two groups."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 4, 3, padding=1, groups=2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.Linear(12, 12),
        nn.Linear(12, 10),
    )


NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


@pytest.mark.parametrize(("bias", "scheme"), [(1.0, AlexNet()), (0.1, AlexNet(bias=CAFFE_BIAS))])
def test_biases_of_alexnet(bias: float, scheme: AlexNet) -> None:
    network = alexnet_shaped()
    initialize(network, scheme, seed=0)
    layers = list(weighted_layers(network).values())
    assert len(layers) == len(NAMES)
    for name, layer in zip(NAMES, layers, strict=True):
        expected = bias if name in {"conv2", "conv4", "conv5", "fc6", "fc7"} else 0.0
        assert torch.equal(layer.bias, torch.full_like(layer.bias, expected)), name
    assert torch.equal(network[1].weight, torch.ones(6))


def test_biases_of_named_layers() -> None:
    network = alexnet_shaped()
    initialize(network, AlexNet(ones=("2", 7), bias=0.5), seed=0)
    means = [layer.bias.mean().item() for layer in weighted_layers(network).values()]
    assert means == [0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]


WIDE = {"dense": lambda: nn.Linear(600, 400), "conv": lambda: nn.Conv2d(64, 160, 5, groups=2)}
FANS = {"dense": (600, 400), "conv": (32 * 25, 80 * 25)}


@pytest.mark.parametrize("layer", WIDE)
@pytest.mark.parametrize(
    ("scheme", "variance"),
    [
        (Gaussian(), lambda i, o: 1e-4),
        (Gaussian(std=0.3), lambda i, o: 0.09),
        (AlexNet(ones=()), lambda i, o: 1e-4),
        (VGG(), lambda i, o: 0.01),
        (Xavier(), lambda i, o: 2 / (i + o)),
        (Xavier(distribution="normal"), lambda i, o: 2 / (i + o)),
        (He(), lambda i, o: 2 / i),
        (He(mode="fan_out"), lambda i, o: 2 / o),
        (He(slope=0.5, distribution="uniform"), lambda i, o: 2 / (1.25 * i)),
    ],
)
def test_standard_deviations(layer: str, scheme: Scheme, variance: Callable[[int, int], float]) -> None:
    network = nn.Sequential(WIDE[layer]())
    assert fans(network[0]) == FANS[layer]
    initialize(network, scheme, seed=1)
    weight = network[0].weight.detach()
    std = math.sqrt(variance(*FANS[layer]))
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert abs(weight.mean().item()) < 0.01 * std
    assert torch.equal(network[0].bias, torch.zeros_like(network[0].bias))
    tail = (weight.abs() > math.sqrt(3) * std * (1 + 1e-6)).float().mean().item()  # 8.3 % of a normal
    uniform = getattr(scheme, "distribution", "normal") == "uniform"
    assert tail == 0 if uniform else tail == pytest.approx(0.0833, abs=0.005)


def test_fans_of_other_layers() -> None:
    assert fans(nn.ConvTranspose2d(6, 4, 3, groups=2)) == (27, 18)
    assert fans(LocallyConnected2d(3, 5, 3, input_size=(8, 8))) == (27, 45)
    table = ConnectionTableConv2d(["XX.", "X.X"], 5)  # input 0 to maps 0 and 1, input 1 to maps 0 and 2
    fan_in, fan_out = fans(table)
    assert isinstance(fan_in, Tensor)
    assert isinstance(fan_out, Tensor)
    assert fan_in.flatten().tolist() == [50, 50, 25, 25]  # kernels (0, 0), (0, 1), (1, 0), (2, 1)
    assert fan_out.flatten().tolist() == [50, 50, 50, 50]
    wide = ConnectionTableConv2d(["X" * 30 + "." * 30, "X" * 60], 5)
    initialize(wide, He(), seed=0)
    assert wide.weight[:60].std().item() == pytest.approx(math.sqrt(2 / 50), rel=0.05)  # maps with two inputs
    assert wide.weight[60:].std().item() == pytest.approx(math.sqrt(2 / 25), rel=0.06)


def test_zeros_keep_units_identical() -> None:
    """Every update of a hidden layer has rank 1 at most, and all its units stay the same."""
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(32) % 3

    def train(scheme: str, *, signal: bool = False) -> tuple[list[int], int]:
        network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        initialize(network, scheme, seed=0)
        if signal:  # equal hidden units with outgoing weights: zeros alone leave them without any gradient
            with torch.no_grad():
                network[2].weight.add_(torch.tensor([[0.3], [0.1], [-0.2]], dtype=torch.float64))
        ranks = []
        for _ in range(20):
            network.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            assert network[0].weight.grad is not None
            ranks.append(int(torch.linalg.matrix_rank(network[0].weight.grad)))
            with torch.no_grad():
                for parameter in network.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.5 * parameter.grad
        return ranks, len(network[0].weight.detach().float().unique(dim=0))  # but for rounding

    assert train("zeros") == ([0] * 20, 1)
    assert train("zeros", signal=True) == ([1] * 20, 1)
    ranks, distinct = train("xavier")
    assert max(ranks) > 1
    assert distinct == 5


def test_he_keeps_the_variance_through_thirty_layers() -> None:
    """Within a factor of 2 of the first layer, in the mean over five seeds; in plain matrix products.

    One network of width n wanders by about sqrt(5/n) in the logarithm at each layer: 0.54 here after thirty.
    """
    logs = torch.zeros(5, 30)
    for seed in range(5):
        network = nn.Sequential(*[nn.Linear(512, 512) for _ in range(30)])
        initialize(network, "he", seed=seed)
        x = torch.randn(64, 512, generator=torch.Generator().manual_seed(seed))
        for number, layer in enumerate(network):
            x = (x @ layer.weight.detach().T).clamp(min=0)
            logs[seed, number] = x.var().log()
    ratios = (logs - logs[:, :1]).mean(dim=0).exp()
    assert ratios.min().item() > 0.5
    assert ratios.max().item() < 2


def test_the_signal_shrinks_is_kept_or_grows() -> None:
    table = signal_propagation(depth=30, width=512, examples=128)
    assert list(table) == ["0.01", "he", "1"]
    assert all(len(row) == 30 for row in table.values())
    assert table["0.01"][-1] < 1e-20  # each layer multiplies by 0.01 sqrt(512 / 2) = 0.16
    assert table["0.01"][1] / table["0.01"][0] == pytest.approx(0.16, rel=0.1)
    assert all(0.5 < (s / table["he"][0]) ** 2 < 2 for s in table["he"])
    assert table["1"][-1] > 1e30  # and by 16
    tanh = signal_propagation(scales=(1.0,), depth=5, width=64, examples=32, activation="tanh")
    assert tanh["1"][-1] > 0.9  # saturated
    with pytest.raises(BadArgument, match="scale = 'xavier'"):
        signal_propagation(scales=("xavier",))


@pytest.mark.parametrize(("rows", "columns"), [(8, 20), (20, 8), (8, 8)])
def test_orthogonal(rows: int, columns: int) -> None:
    network = nn.Linear(columns, rows).double()
    initialize(network, Orthogonal(gain=2.0), seed=3)
    w = network.weight.detach()
    gram = w @ w.T if rows <= columns else w.T @ w
    close(gram, 4.0 * torch.eye(min(rows, columns), dtype=torch.float64), rtol=0, atol=1e-6)


def deep(width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        *[part for c in (3, width, width, width) for part in (nn.Conv2d(c, width, 3, padding=1), nn.ReLU())],
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(width * 36, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )


def test_lsuv() -> None:
    batch = 3 * torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 1
    network = deep()
    threads = torch.get_num_threads()
    initialize(network, LSUV(batch), seed=0)
    assert torch.get_num_threads() == threads
    assert network.training
    x = batch
    for part in network.eval():
        x = part(x)
        if isinstance(part, nn.Conv2d | nn.Linear):
            assert x.var(correction=0).item() == pytest.approx(1, abs=0.01)
    initialize(network, "orthogonal", seed=0)
    assert network(batch).var().item() < 0.5 or network(batch).var().item() > 2  # the scaling did it


def test_lsuv_of_a_dead_layer() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Threshold(1e9, 0.0), nn.Linear(4, 2))
    with pytest.raises(ConvworksError, match="the outputs of 2 have the variance 0") as caught:
        initialize(network, LSUV(torch.randn(8, 4, generator=torch.Generator().manual_seed(0))), seed=0)
    assert caught.value.code == "U173"
    assert "dead" in caught.value.why
    assert not any(module._forward_hooks for module in network.modules())
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConvworksError, match="not within 1e-30 of 1 after 2 iterations"):
        initialize(nn.Linear(4, 4), LSUV(batch, tolerance=1e-30, max_iterations=2), seed=0)


def digest(network: nn.Module) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters())).hexdigest()


CHILD = """
import sys, torch
from tests.training.test_initialize import deep, digest
from convworks.training.initialize import LSUV, initialize
torch.set_num_threads(int(sys.argv[1])); torch.manual_seed(int(sys.argv[1])); torch.rand(7)
network = deep(64)
initialize(network, "he", seed=5); print(digest(network))
batch = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))
initialize(network, LSUV(batch), seed=5); print(digest(network))
"""


def test_the_same_seed_gives_the_same_bits_in_every_process() -> None:
    """Two processes at once, with one thread and with three, from other global states."""
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, threads], stdout=subprocess.PIPE, text=True)
        for threads in ("1", "3")
    ]
    found = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert found[0] == found[1]
    assert len(found[0].split()) == 2


@pytest.mark.parametrize("name", SCHEMES)
def test_seeds_and_global_state(name: str) -> None:
    before = torch.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        network = alexnet_shaped()
        torch.set_rng_state(before)
        initialize(network, name, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(digest(network))
    assert weights[0] == weights[1]
    assert (weights[1] != weights[2]) == (name != "zeros")


def test_a_layer_does_not_depend_on_the_others_nor_on_its_type() -> None:
    one, two = (
        nn.ModuleDict({"a": nn.Linear(9, 9)}),
        nn.ModuleDict({"b": nn.Linear(4, 4), "a": nn.Linear(9, 9)}),
    )
    initialize(one, "he", seed=7)
    initialize(two, "he", seed=7)
    assert torch.equal(one["a"].weight, two["a"].weight)
    narrow = nn.ModuleDict({"a": nn.Linear(9, 9)}).bfloat16()
    initialize(narrow, "he", seed=7)
    assert torch.equal(narrow["a"].weight, one["a"].weight.bfloat16())


def vgg_like(*widths: int) -> nn.Sequential:
    """`conv<stage>_<number>` for each digit of the widths' stages, then three dense layers."""
    parts: dict[str, nn.Module] = {}
    channels = 3
    for stage, count in enumerate(widths, start=1):
        for number in range(1, count + 1):
            parts[f"conv{stage}_{number}"] = nn.Conv2d(channels, 4 * stage, 3, padding=1)
            channels = 4 * stage
    parts |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    parts |= {"fc6": nn.Linear(channels, 9), "fc7": nn.Linear(9, 9), "fc8": nn.Linear(9, 5)}
    network = nn.Sequential()
    for name, part in parts.items():
        network.add_module(name, part)
    return network


FROM_A = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")


@pytest.mark.parametrize("deeper", [(2, 2, 3, 3, 3), (2, 2, 4, 4, 4)])
def test_staged_initialisation(deeper: tuple[int, ...]) -> None:
    """Seven layers of A in D and in E: bit-equal; the others keep their own."""
    a, target = vgg_like(1, 1, 2, 2, 2), vgg_like(*deeper)
    initialize(a, "he", seed=1)
    initialize(target, VGG(), seed=2)
    before = {name: p.detach().clone() for name, p in target.named_parameters()}
    copied = copy_layers(a, target, {name: name for name in FROM_A})
    assert len(copied) == 14
    theirs = dict(a.named_parameters())
    for name, parameter in target.named_parameters():
        assert torch.equal(parameter, theirs[name] if name in copied else before[name])
    theirs["fc6.weight"].data.zero_()
    assert target.get_parameter("fc6.weight").abs().sum() > 0


def test_copied_layers_bring_their_buffers_and_must_fit() -> None:
    source = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    source[0].running_mean.fill_(5.0)
    target = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(4, 2))
    assert "1.running_mean" in copy_layers(source, target, {"0": "1"})
    assert target[1].running_mean.tolist() == [5.0] * 3
    kept = target[0].weight.detach().clone()
    words = r"1 cannot be copied to 2: weight is \(2, 3\) in the source and \(2, 4\) in the target"
    with pytest.raises(ConvworksError, match=words) as caught:
        copy_layers(source, target, {"1": "2"})
    assert caught.value.code == "U174"
    with pytest.raises(ConvworksError, match="running_mean is .* in the source and missing in the target"):
        copy_layers(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False), {"": ""})
    with pytest.raises(ConvworksError, match="no layer of the target called '7'") as caught:
        copy_layers(source, target, {"0": "7"})
    assert caught.value.code == "U101"
    assert torch.equal(target[0].weight, kept)


def test_messages() -> None:
    with pytest.raises(BadArgument, match="scheme = 'hee' .*zeros, gaussian, alexnet"):
        initialize(nn.Linear(2, 2), "hee", seed=0)
    with pytest.raises(BadArgument, match="network = 'ReLU' .*no dense or convolutional layer"):
        initialize(nn.ReLU(), "he", seed=0)
    with pytest.raises(BadArgument, match="ones = 3 .*has 1 dense"):
        initialize(nn.Linear(2, 2), AlexNet(ones=(3,)), seed=0)
    with pytest.raises(ConvworksError, match="called 'fc9'"):
        initialize(vgg_like(1), AlexNet(ones=("fc9",)), seed=0)
    with pytest.raises(BadArgument, match="mode = 'fan_avg'"):
        initialize(nn.Linear(2, 2), He(mode="fan_avg"), seed=0)  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="distribution = 'cauchy'"):
        initialize(nn.Linear(2, 2), Xavier(distribution="cauchy"), seed=0)  # type: ignore[arg-type]
