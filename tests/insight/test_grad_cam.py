"""Grad-CAM against closed forms, gradients by hand and finite differences, all in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.insight import grad_cam as module
from convworks.insight.grad_cam import grad_cam, last_maps


def seeded(network: nn.Module) -> nn.Module:
    """Parameters from a generator of their own, float64."""
    network = network.double().eval()
    random = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(random.normal(size=tuple(parameter.shape))))
    return network


def mean_and_linear() -> nn.Module:
    """Maps, their means, one linear layer: the network of the class activation map."""
    return seeded(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    )


def flat_head() -> nn.Module:
    """A head with a weight for every place, so that the gradient differs from place to place."""
    return seeded(
        nn.Sequential(
            nn.Conv2d(1, 3, 2),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(3 * 4 * 3, 5),
            nn.Tanh(),
            nn.Linear(5, 3),
        )
    )


def images(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=shape))


def scaled(heat: np.ndarray) -> np.ndarray:
    return heat / heat.max() if heat.max() > 0 else 0 * heat


def test_it_is_the_class_activation_map_where_the_head_is_a_mean_and_a_matrix() -> None:
    network, x = mean_and_linear(), images(5, 2, 7, 6)
    kernel, bias = (p.detach().numpy() for p in network[0].parameters())  # type: ignore[index]
    matrix = network[4].weight.detach().numpy()  # type: ignore[index]
    classes = [0, 1, 2, 1, 0]
    found = grad_cam(network, x, classes)
    assert found.shape == (5, 5, 4)
    for n, c in enumerate(classes):
        maps = np.zeros((4, 5, 4))
        for k in range(4):
            for i in range(5):
                for j in range(4):
                    window = x[n, :, i : i + 3, j : j + 3].numpy()
                    maps[k, i, j] = np.tanh((window * kernel[k]).sum() + bias[k])
        cam = sum(matrix[c, k] * maps[k] for k in range(4))
        np.testing.assert_allclose(found[n].numpy(), scaled(np.maximum(cam, 0)), atol=1e-12)
    assert float(found.amax()) == 1.0


def by_differences(network: nn.Module, x: Tensor, c: int) -> np.ndarray:
    """ReLU(sum of mean slope times map), the slopes of the score by central differences at every place."""
    maps = network[:2](x[None])  # type: ignore[index]
    slopes = np.zeros(maps.shape[1:])
    for place in np.ndindex(*slopes.shape):
        step = torch.zeros_like(maps)
        step[(0, *place)] = 1e-5
        up, down = (float(network[2:](maps + sign * step)[0, c].detach()) for sign in (1, -1))  # type: ignore[index]
        slopes[place] = (up - down) / 2e-5
    weights = slopes.mean(axis=(1, 2))
    return scaled(np.maximum(np.tensordot(weights, maps[0].detach().numpy(), axes=1), 0))


def test_it_agrees_with_finite_differences() -> None:
    network, x = flat_head(), images(4, 1, 5, 4)
    found = grad_cam(network, x, [[0, 1, 2]] * 4)
    assert found.shape == (4, 3, 4, 3)
    for n in range(4):
        for c in range(3):
            np.testing.assert_allclose(found[n, c].numpy(), by_differences(network, x[n], c), atol=1e-7)
    assert {bool(heat.any()) for heat in found.flatten(0, 1)} >= {True}


def test_a_planted_error_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.heat_of
    monkeypatch.setattr(module, "heat_of", lambda maps, g: original(maps, g * (1 + 0.01 * (maps > 1))))
    with pytest.raises(AssertionError):
        test_it_agrees_with_finite_differences()


def test_both_classes_at_once_are_each_alone_and_images_do_not_mix() -> None:
    network, x = flat_head(), images(3, 1, 5, 4)
    both = grad_cam(network, x, torch.tensor([[2, 0], [1, 1], [0, 2]]))
    torch.testing.assert_close(both[:, 0], grad_cam(network, x, [2, 1, 0]), rtol=0, atol=0)
    torch.testing.assert_close(both[:, 1], grad_cam(network, x, [0, 1, 2]), rtol=0, atol=0)
    torch.testing.assert_close(both[1:2, 0], grad_cam(network, x[1:2], [1]), rtol=1e-12, atol=1e-12)


def test_no_evidence_is_zero_everywhere() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        network[0].weight.fill_(1.0)  # type: ignore[operator, union-attr]
        network[0].bias.zero_()  # type: ignore[operator, union-attr]
        network[4].weight.copy_(torch.tensor([[1.0], [-1.0]]))  # type: ignore[operator, union-attr]
    x = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
    found = grad_cam(network, x, [[0, 1]])
    assert found.tolist() == [[[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]]


class Awkward(nn.Module):
    """Batch norm, dropout, activations in place, one called twice, a draw in evaluation, two answers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        x = self.relu(self.norm(self.conv(x)))
        x = self.relu(self.second(x) + 0.1 * torch.randn_like(x))
        return self.out(self.drop(x.mean(dim=(2, 3)))), x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_network_is_as_before(training: bool, frozen: bool) -> None:
    network = Awkward().train(training).requires_grad_(not frozen)
    network.norm.eval()
    network.out.weight.grad = torch.ones_like(network.out.weight)
    before, flags = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    state = torch.get_rng_state()
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    with torch.no_grad():
        found = grad_cam(network, x, [0, 2])
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found, grad_cam(network, x, [0, 2]), rtol=0, atol=0)
    with torch.inference_mode():
        inside = grad_cam(network, x, [0, 2])
    torch.testing.assert_close(found, inside, rtol=0, atol=0)
    assert torch.is_grad_enabled()
    assert not found.requires_grad
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in network.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks for m in network.modules())
    assert torch.equal(network.out.weight.grad, torch.ones_like(network.out.weight))
    assert network.conv.weight.grad is None
    assert {p.requires_grad for p in network.parameters()} == {not frozen}
    assert torch.equal(x, kept)


def test_the_last_call_of_a_layer_counts() -> None:
    network, x = Awkward(), torch.randn(1, 1, 6, 6)
    assert last_maps(network, x) == "relu"
    torch.testing.assert_close(grad_cam(network, x, [1]), grad_cam(network, x, [1], layer="relu"))


def test_draws_do_not_depend_on_what_was_drawn_before() -> None:
    network, x = Awkward(), torch.randn(1, 1, 6, 6)
    first = grad_cam(network, x, [1], layer="conv")
    torch.rand(3)
    torch.testing.assert_close(grad_cam(network, x, [1], layer="conv"), first, rtol=0, atol=0)


def test_activations_in_place_are_layers_and_leave_the_maps_before_them() -> None:
    def network(inplace: bool) -> nn.Module:
        return seeded(
            nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(36, 2))
        )

    x = images(2, 1, 5, 4)
    assert last_maps(network(True), x) == last_maps(network(False), x) == "1"
    for layer in ("0", "1"):
        found = grad_cam(network(True), x, [0, 1], layer=layer)
        assert bool(found.any())
        torch.testing.assert_close(found, grad_cam(network(False), x, [0, 1], layer=layer), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("tutorial_cnn", "conv2.relu"),  # before pooling
        ("cifar_quick", "conv3.relu"),
        ("resnet20_cifar", "conv4_x.block3.activation"),  # after the sum
        ("nin", "mlpconv3.relu3"),  # the maps of the classes
        ("fastnet", "block3"),  # a sum that no layer of its own makes
        ("lenet5", "s4.squash"),
    ],
)
def test_the_layer_is_the_last_with_maps(name: str, layer: str) -> None:
    info = models.info(name)
    network = models.create(name, num_classes=10)
    assert last_maps(network, torch.zeros(1, info.in_channels, *info.input_size)) == layer


def test_the_layer_may_need_places() -> None:
    network, x = models.create("fastnet", num_classes=10), torch.randn(1, 3, 32, 32)
    assert (
        last_maps(network, x, places=5) == "block2"
    )  # what comes after is 2 x 2, but for a bare convolution
    assert grad_cam(network, x, [3], layer="block2").shape == (1, 4, 4)
    bare = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert last_maps(bare, torch.zeros(1, 1, 4, 4), places=5) == "1"
    with pytest.raises(ConvworksError, match="no maps"):
        last_maps(network, x, places=10_000)


def test_half_precision_gives_float32() -> None:
    network = models.create("tutorial_cnn", num_classes=10).to(torch.bfloat16)
    found = grad_cam(network, torch.randn(2, 1, 28, 28, dtype=torch.bfloat16), [0, 1])
    assert found.dtype == torch.float32
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_messages() -> None:
    dense = models.create("mlp128", num_classes=10)
    with pytest.raises(ConvworksError, match="no maps that Grad-CAM could weigh") as caught:
        grad_cam(dense, torch.zeros(1, 1, 28, 28), [0])
    assert caught.value.code == "A490"
    assert "no layer gives maps of more than one place" in str(caught.value.why)
    network, x = flat_head(), images(2, 1, 5, 4)
    with pytest.raises(ConvworksError, match="gives no maps") as caught:
        grad_cam(network, x, [0, 0], layer="2")
    assert caught.value.code == "A490"
    with pytest.raises(ConvworksError, match="there is no layer called 'con'"):
        grad_cam(network, x, [0, 0], layer="con")
    for classes in ([0], [0, 3], [0, -1], [0.5, 1.0], [[[0]], [[0]]]):
        with pytest.raises(ConvworksError, match="classes = ") as caught:
            grad_cam(network, x, classes)
        assert caught.value.code == "U125"
    with pytest.raises(ConvworksError, match="images = "):
        grad_cam(network, x[0], [0])
    maps_only = nn.Sequential(nn.Conv2d(1, 2, 1))
    with pytest.raises(ConvworksError, match="no score") as caught:
        grad_cam(maps_only, x.float(), [0, 0])
    assert caught.value.code == "A490"
    unused = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    unused.spare = nn.Conv2d(1, 1, 1)
    unused.forward = lambda x: x.flatten(1)  # type: ignore[method-assign]
    with pytest.raises(ConvworksError, match="does not call it"):
        grad_cam(unused, x.float(), [0, 0], layer="spare")
    assert not any(m._forward_hooks for m in unused.modules())
