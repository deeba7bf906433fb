"""The network of 1989 against the paper: parameters, connections, background, scheme, initial weights."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_digits

from convworks import anatomy, models
from convworks.models.lecun1989 import SharedKernels
from tests.papers import lecun1989 as facts


def stages() -> dict[str, anatomy.Row]:
    return {row.name: row for row in anatomy.stages(anatomy.trace(models.lecun1989(), (1, 16, 16)))}


def test_free_parameters_are_those_printed() -> None:
    found = {name: row.parameters for name, row in stages().items()}
    assert found == facts.PARAMETERS
    assert sum(found.values()) == 9_760


def test_connections_and_units_are_those_printed() -> None:
    rows = stages()
    connections = {name: row.macs + math.prod(row.output) for name, row in rows.items()}
    assert connections == facts.CONNECTIONS
    assert sum(connections.values()) == facts.ALL_CONNECTIONS
    assert 16 * 16 + sum(math.prod(row.output) for row in rows.values()) == facts.UNITS


def test_each_map_of_h2_sees_eight_maps_and_each_map_of_h1_is_seen_by_eight() -> None:
    torch.manual_seed(0)
    h2 = models.lecun1989().get_submodule("H2")
    h1 = torch.randn(1, 12, 8, 8, requires_grad=True)
    seen = []
    for o in range(12):
        (gradient,) = torch.autograd.grad(h2(h1)[0, o].sum(), h1)
        seen.append({i for i in range(12) if gradient[0, i].any()})
    assert seen[0] == seen[3] == set(range(8))
    assert seen[4] == seen[7] == set(range(4, 12))
    assert seen[8] == seen[11] == {0, 1, 2, 3, 8, 9, 10, 11}
    assert [sum(i in maps for maps in seen) for i in range(12)] == [8] * 12


def test_shared_kernels_by_a_loop_over_a_background_of_minus_one() -> None:
    torch.manual_seed(0)
    layer = SharedKernels(2, (3, 4), blocks=2).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    expected = torch.empty(1, 12, 3, 4, dtype=torch.float64)
    for o in range(12):
        first = 0 if o < 6 else 2
        for i in range(3):
            for j in range(4):
                total = layer.bias[o, i, j].item()
                for c in range(2):
                    for a in range(5):
                        for b in range(5):
                            row, column = 2 * i + a - 2, 2 * j + b - 2
                            inside = 0 <= row < 6 and 0 <= column < 7
                            value = x[0, first + c, row, column].item() if inside else -1.0
                            total += layer.weight[o, c, a, b].item() * value
                expected[0, o, i, j] = total
    torch.testing.assert_close(layer(x).detach(), expected)


def test_units_of_a_map_share_kernels_and_not_biases() -> None:
    net = models.lecun1989()
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert shapes["H1.kernels.weight"] == (12, 1, 5, 5)
    assert shapes["H1.kernels.bias"] == (12, 8, 8)
    assert shapes["H2.kernels.weight"] == (12, 8, 5, 5)
    assert shapes["H2.kernels.bias"] == (12, 4, 4)


def test_initial_weights_are_uniform_within_their_fan_in() -> None:
    torch.manual_seed(0)
    fan_in = {"H1.kernels": 25, "H2.kernels": 200, "H3.linear": 192, "output": 30}
    for name, p in models.lecun1989().named_parameters():
        bound = 2.4 / fan_in[name.rpartition(".")[0]]
        assert 0.7 * bound < p.abs().max().item() <= bound, name


def test_odd_sizes_round_up() -> None:
    for size in ((16, 16), (15, 9), (28, 33), (1, 1)):
        net = models.lecun1989(input_size=size)
        assert net(torch.zeros(2, 1, *size)).shape == (2, 10)
    assert net.get_submodule("H1.kernels")(torch.zeros(1, 1, 1, 1)).shape == (1, 12, 1, 1)


def test_it_learns_digits_of_16x16_pixels() -> None:
    images, labels = load_digits(return_X_y=True)  # 8x8, ink from 0 to 16; background -1 as in the paper
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    x = torch.nn.functional.interpolate(x, size=(16, 16), mode="bilinear")
    y = torch.tensor(labels, dtype=torch.int64)
    torch.manual_seed(0)
    net = models.lecun1989()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(6):
        for batch in torch.randperm(1400).split(28):
            loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    right = (net(x[1400:]).argmax(dim=1) == y[1400:]).float().mean().item()
    assert right > 0.88
