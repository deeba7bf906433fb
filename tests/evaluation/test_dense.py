"""Dense evaluation: the network's own scores at its own size, windows elsewhere, and what cannot be done."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.evaluation.dense import DenseNetwork, fully_convolutional, takes_any_size
from convworks.layers.structure import Flatten

CASES: dict[str, tuple[int, int]] = {
    "alexnet": (67, 67),
    "alexnet_torchvision": (224, 224),
    "vgg_a": (64, 64),
    "lenet5": (32, 32),
    "lenet5_modern": (28, 28),
    "mlp128": (28, 28),
    "resnet18": (64, 64),
    "resnet20_cifar": (32, 32),
    "preact_resnet110_cifar": (32, 32),
    "nin": (32, 32),
    "googlenet": (64, 64),
    "fastnet": (32, 32),
    "cifar_quick": (32, 32),
    "maxout_mnist": (28, 28),
    "mobilenet_v1_025_128": (128, 128),
    "stack": (32, 32),
    "prelu_net_a": (224, 224),
}


def network(name: str, size: tuple[int, int]) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    made = models.create(name, num_classes=7, input_size=size).eval()
    for module in made.modules():  # statistics as after a training
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return made, (models.info(name).in_channels, *size)


@pytest.mark.parametrize("name", CASES)
def test_at_its_own_size_the_scores_are_those_of_the_network(name: str) -> None:
    made, shape = network(name, CASES[name])
    dense = fully_convolutional(made, shape, name=name)
    x = torch.randn(2, *shape)
    with torch.inference_mode():
        a, b = torch.softmax(made(x).double(), 1), torch.softmax(dense(x).double(), 1)
        scale = made(x).abs().max().item()
        assert (made(x) - dense(x)).abs().max().item() <= 1e-5 * max(scale, 1e-3)
    assert (a - b).abs().max().item() <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_any_larger_size_gives_a_map_of_scores(name: str) -> None:
    made, shape = network(name, CASES[name])
    dense = fully_convolutional(made, shape, name=name)
    c, h, w = shape
    for height, width in ((h, w + 33), (h + 1, w), (h + 65, w + 17)):
        with torch.inference_mode():
            scores = dense.score_map(torch.randn(1, c, height, width))
            assert scores.shape[:2] == (1, 7)
            assert scores.shape[2] >= 1 <= scores.shape[3]
            assert dense(torch.randn(1, c, height, width)).shape == (1, 7)


def test_the_map_is_the_head_at_every_window() -> None:
    # Without padding inside, dense scores are exactly those of every crop: the brute-force multi-crop.
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(2, 5, 3, stride=2), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(5 * 3 * 3, 11), nn.ReLU(), nn.Dropout(0.5), nn.Linear(11, 4),
    ).eval()  # fmt: skip
    side, stride = 15, 4
    dense = fully_convolutional(made, (2, side, side))
    x = torch.randn(3, 2, side + 3 * stride, side + 2 * stride)
    with torch.inference_mode():
        found = dense.score_map(x)
        assert found.shape == (3, 4, 4, 3)
        for i in range(4):
            for j in range(3):
                crop = x[:, :, stride * i : stride * i + side, stride * j : stride * j + side]
                torch.testing.assert_close(found[:, :, i, j], made(crop), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(dense(x), found.mean((2, 3)))


def test_the_windows_are_those_of_a_convolution_with_the_reshaped_weights() -> None:
    made, shape = network("lenet5_modern", (28, 28))
    dense = fully_convolutional(made, shape)
    layers = [each for each in made.modules() if isinstance(each, nn.Linear)]
    x = torch.randn(2, 1, 44, 37)
    with torch.inference_mode():
        maps = dense.body(x)
        kernel = layers[0].weight.reshape(120, 16, 5, 5)
        y = nn.functional.conv2d(maps, kernel, layers[0].bias).relu()
        y = nn.functional.conv2d(y, layers[1].weight[:, :, None, None], layers[1].bias).relu()
        y = nn.functional.conv2d(y, layers[2].weight[:, :, None, None], layers[2].bias)
        torch.testing.assert_close(dense.score_map(x), y, rtol=1e-5, atol=1e-6)


def test_a_planted_error_in_the_order_of_the_weights_is_seen() -> None:
    made, shape = network("lenet5_modern", (28, 28))
    dense = fully_convolutional(made, shape)
    x = torch.randn(2, 1, 28, 28)
    linear = next(each for each in dense.head.modules() if isinstance(each, nn.Linear))
    with torch.inference_mode():
        expected = made(x).clone()
        order = torch.arange(400).reshape(16, 25).T.reshape(-1)  # places before maps
        linear.weight.copy_(linear.weight[:, order])
        assert (dense(x) - expected).abs().max() > 1e-3


def test_the_order_of_our_flatten_is_kept() -> None:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 3, 3), Flatten(order="channels_last"), nn.Linear(3 * 36, 5)).eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(fully_convolutional(made, (1, 8, 8))(x), made(x))


def test_adaptive_pooling_that_is_not_the_identity() -> None:
    # 3 x 3 means of a map of 7 x 7, and of 2 x 2: each window is pooled as training pooled the whole map.
    for side in (9, 4):
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
            nn.Linear(36, 6), nn.ReLU(), nn.Linear(6, 2),
        ).eval()  # fmt: skip
        dense = fully_convolutional(made, (1, side, side))
        assert dense.window == (side - 2, side - 2)
        x = torch.randn(1, 1, side + 2, side)
        with torch.inference_mode():
            found = dense.score_map(x)
            for i in range(3):
                torch.testing.assert_close(found[:, :, i, 0], made(x[:, :, i : i + side]))


def test_global_pooling_and_a_linear_layer_see_the_whole_image() -> None:
    # He et al. 2015, section 4.1: the fully convolutional form is the network itself at another size.
    made, shape = network("resnet20_cifar", (32, 32))
    dense = fully_convolutional(made, shape)
    assert dense.window == ()
    x = torch.randn(2, 3, 57, 48)
    with torch.inference_mode():
        torch.testing.assert_close(dense(x), made(x), rtol=1e-5, atol=1e-5)
        assert dense.score_map(x).shape == (2, 7, 15, 12)


def test_the_weights_are_shared() -> None:
    made, shape = network("vgg_a", (64, 64))
    dense = fully_convolutional(made, shape)
    assert isinstance(dense, DenseNetwork)
    assert not dense.training
    own = {each.data_ptr() for each in made.parameters()}
    assert {each.data_ptr() for each in dense.parameters()} == own


@pytest.mark.parametrize("name", ["lecun1989", "dropconnect_cifar", "char_cnn_small", "wavenet"])
def test_what_cannot_be_converted(name: str) -> None:
    made = models.create(name, num_classes=3).eval()
    row = models.info(name)
    with pytest.raises(ConvworksError, match=f"U250.*{name} cannot be evaluated densely") as caught:
        fully_convolutional(made, (row.in_channels, *row.input_size), name=name)
    assert "--protocol centre,10-crop" in caught.value.try_


class Whole(nn.Module):
    """A network in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


def test_a_network_in_one_piece_or_in_training() -> None:
    with pytest.raises(ConvworksError, match="U250.*Whole goes from maps to a vector in one piece"):
        fully_convolutional(Whole().eval(), (1, 4, 4))
    with pytest.raises(ConvworksError, match="U125.*training mode"):
        fully_convolutional(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
    with pytest.raises(ConvworksError, match=r"U250.*answers with \(1, 4, 4\)"):
        fully_convolutional(nn.Sequential(nn.Flatten(2), nn.Linear(16, 4)).eval(), (4, 4, 4))


def test_an_image_that_is_too_small() -> None:
    made, shape = network("lenet5_modern", (28, 28))
    dense = fully_convolutional(made, shape)
    with pytest.raises(ConvworksError, match=r"U252.*20x31 pixels is too small[\s\S]*3x5 cells.*5x5"):
        dense(torch.zeros(1, 1, 20, 31))


def test_which_networks_take_any_size() -> None:
    answers = {}
    for name in ("resnet20_cifar", "nin", "prelu_net_a", "alexnet_torchvision", "vgg_a", "lenet5_modern"):
        made, shape = network(name, CASES[name])
        answers[name] = takes_any_size(made, shape)
    assert answers == {
        "resnet20_cifar": True,
        "nin": True,
        "prelu_net_a": True,
        "alexnet_torchvision": True,
        "vgg_a": False,
        "lenet5_modern": False,
    }


def test_auxiliary_heads_take_no_part() -> None:
    made, shape = network("googlenet", (64, 64))
    dense = fully_convolutional(made, shape)
    count = sum(p.numel() for p in dense.parameters())
    assert count < sum(p.numel() for p in made.parameters())


def test_random_state_is_left_alone() -> None:
    made, shape = network("lenet5_modern", (28, 28))
    before = torch.random.get_rng_state()
    fully_convolutional(made, shape)
    torch.testing.assert_close(torch.random.get_rng_state(), before)
