"""Networks for text and series: lengths, the code of a text, sizes that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.models.sequence import ALPHABET, COLUMNS, one_hot


def test_the_alphabet_has_seventy_characters() -> None:
    assert len(ALPHABET) == 70  # printed: 26 letters, 10 digits, 33 other characters and the new line
    assert sum(c.isalpha() for c in ALPHABET) == 26
    assert sum(c.isdigit() for c in ALPHABET) == 10
    assert ALPHABET.count("-") == 2
    assert len(set(ALPHABET)) == 69


def test_a_text_is_coded_backward() -> None:
    code = one_hot("Ab c!", length=8)
    assert code.shape == (70, 1, 8)
    assert code.sum(dim=0).tolist() == [[1, 1, 0, 1, 1, 0, 0, 0]]  # "!", "c", blank, "b", "a", and the rest
    columns = [ALPHABET[int(code[:, 0, t].argmax())] for t in (0, 1, 3, 4)]
    assert columns == ["!", "c", "b", "a"]


def test_what_is_longer_is_cut_off() -> None:
    torch.testing.assert_close(one_hot("abcdef", length=3), one_hot("abc", length=3))
    assert one_hot("x" * 2000).sum().item() == 1014


@pytest.mark.parametrize(("name", "column"), COLUMNS.items())
def test_length_before_the_dense_layers(name: str, column: tuple[int, int, float]) -> None:
    features, units, _ = column
    with torch.device("meta"):
        for length in (123, 150, 1014):
            net = models.create(name, num_classes=4, input_size=(1, length))
            assert net.fc7.linear.in_features == (length - 96) // 27 * features  # printed: (l0 - 96) / 27
    assert (net.fc7.linear.in_features, net.fc7.linear.out_features) == (34 * features, units)
    kernels = [layer.kernel_size[0] for layer in net.modules() if isinstance(layer, nn.Conv1d)]
    assert kernels == [7, 7, 3, 3, 3, 3]
    found = sum(isinstance(layer, nn.Conv1d | nn.Linear) for layer in net.modules())
    assert found == 9, f"{name}: {found} weight layers, the paper says 9"


def test_initial_weights_of_the_text_networks() -> None:
    torch.manual_seed(0)
    net = models.create("char_cnn_small", num_classes=4, input_size=(1, 123))
    assert net.conv2.conv.weight.std().item() == pytest.approx(0.05, rel=0.01)
    assert net.fc8.linear.weight.std().item() == pytest.approx(0.05, rel=0.01)
    assert COLUMNS["char_cnn_large"].std == 0.02


def test_a_text_that_is_too_short_names_the_layer() -> None:
    with pytest.raises(ConvworksError, match="char_cnn_small cannot take images of 1x100 pixels") as caught:
        models.create("char_cnn_small", num_classes=4, input_size=(1, 100))
    assert caught.value.code == "U122"
    assert "conv6 looks at 3 steps, and 2 are left" in caught.value.format()
    assert "1xL, one row, with L from 123 on" in caught.value.format()


@pytest.mark.parametrize("name", ["char_cnn_small", "series_fcn"])
def test_images_are_refused(name: str) -> None:
    with pytest.raises(ConvworksError, match="a sequence, which is an image of one row") as caught:
        models.create(name, num_classes=4, input_size=(200, 200))
    height, length = models.info(name).input_size
    channels = models.info(name).in_channels
    assert caught.value.try_ == f"convworks show {name} --input {height}x{length}x{channels}"
    models.create(name, num_classes=4, input_size=(height, length))  # what it names fits


def test_series_keep_their_length_and_are_averaged() -> None:
    torch.manual_seed(0)
    net = models.create("series_fcn", num_classes=4, in_channels=6, input_size=(1, 50)).eval()
    x = torch.randn(3, 6, 1, 50)
    for stage, maps in (("conv1", 128), ("conv2", 256), ("conv3", 128)):
        part = net[: 1 + int(stage[-1])]
        assert part(x).shape == (3, maps, 50)
    torch.testing.assert_close(net[:-1](x), net[:4](x).mean(dim=2))
    assert [layer.kernel_size[0] for layer in net.modules() if hasattr(layer, "kernel_size")] == [8, 5, 3]
    assert net(torch.randn(2, 6, 1, 7)).shape == (2, 4)  # any other length
