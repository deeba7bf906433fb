"""The file of an 8-bit network: its layout, the same logits from it to the bit, and what is no such file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.training.quantize import Quantizer, quantizable
from convworks.weights.files import read_weights
from convworks.weights.int8 import KEY, export_int8, load_int8

NAMES = ("blue", "green", "red")


def made(model: str, channels: int, size: int) -> tuple[nn.Module, Quantizer, Tensor]:
    torch.manual_seed(0)
    network = models.create(model, num_classes=3, in_channels=channels, input_size=(size, size))
    x = torch.randn(6, channels, size, size)
    network.train()(x)  # statistics that are no zeros and ones
    network.eval()
    quantizer = Quantizer(network)
    with quantizer.observing(), torch.inference_mode():
        network(x)
    return network, quantizer, x


def exported(folder: Path, model: str, channels: int, size: int) -> tuple[Path, Tensor, Tensor, nn.Module]:
    network, quantizer, x = made(model, channels, size)
    file = export_int8(
        network,
        folder / "int8.safetensors",
        scales=quantizer.scales,
        model=model,
        input_shape=(channels, size, size),
        classes=NAMES,
    )
    with torch.inference_mode():
        return file, x, network(x), network


@pytest.mark.parametrize(
    ("model", "channels", "size"),
    [
        ("fastnet", 3, 32),
        ("resnet20_cifar", 3, 32),
        ("mobilenet_v1_025_128", 3, 128),
        ("lenet5", 1, 32),
        ("mlp128", 1, 12),
        ("nin", 3, 32),
    ],
)
def test_the_file_gives_the_same_logits_to_the_bit(
    tmp_path: Path, model: str, channels: int, size: int
) -> None:
    file, x, expected, network = exported(tmp_path, model, channels, size)
    found = load_int8(file)
    assert not found.network.training
    assert (found.model, found.classes) == (model, NAMES)
    assert set(found.layers) == quantizable(network).keys()
    with torch.inference_mode():
        torch.testing.assert_close(found.network(x), expected, rtol=0, atol=0)
        # one image alone may be rounded to another of 256 steps than in a batch: sums have another order then
        torch.testing.assert_close(found.network(x[:1]), network(x[:1]), rtol=0, atol=0)


def test_the_layout_is_as_documented(tmp_path: Path) -> None:
    file, _, _, network = exported(tmp_path, "fastnet", 3, 32)
    tensors = safetensors.torch.load_file(file)
    state = network.state_dict()
    layers = quantizable(network)
    for name, layer in layers.items():
        weight, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
        assert (weight.dtype, weight.shape) == (torch.int8, layer.weight.shape)
        assert (scale.dtype, scale.shape) == (torch.float32, layer.weight.shape[:1])
        error = (weight.float() * scale.view(-1, *[1] * (weight.ndim - 1)) - layer.weight).abs()
        assert bool((error.flatten(1).amax(1) <= 0.5 * scale * 1.0001).all())
        assert tensors[f"{name}.input_scale"].shape == tensors[f"{name}.input_zero"].shape == (1,)
    for name, tensor in state.items():
        if not (name.endswith(".weight") and name.removesuffix(".weight") in layers):
            assert torch.equal(tensors[name], tensor)
    assert len(tensors) == len(state) + 3 * len(layers)
    with safetensors.safe_open(file, framework="pt") as opened:
        said = json.loads(opened.metadata()[KEY])
    assert said["input"] == {"channels": 3, "height": 32, "width": 32}
    floats = sum(tensor.numel() * 4 for tensor in state.values())
    assert file.stat().st_size < 0.3 * floats


def test_a_layer_that_no_image_reached_takes_its_inputs_as_they_are(tmp_path: Path) -> None:
    network, quantizer, x = made("fastnet", 3, 32)
    scales = {name: scale for name, scale in quantizer.scales.items() if name != "output"}
    quantizer.fix(scales)
    file = export_int8(
        network,
        tmp_path / "a.safetensors",
        scales=scales,
        model="fastnet",
        input_shape=(3, 32, 32),
        classes=NAMES,
    )
    assert "output.input_scale" not in safetensors.torch.load_file(file)
    with torch.inference_mode():
        torch.testing.assert_close(load_int8(file).network(x), network(x), rtol=0, atol=0)


def damaged(
    file: Path, out: Path, *, described: dict[str, object] | None = None, **changes: Tensor | None
) -> Path:
    tensors = safetensors.torch.load_file(file)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    with safetensors.safe_open(file, framework="pt") as opened:
        said = {**json.loads(opened.metadata()[KEY]), **(described or {})}
    safetensors.torch.save_file(tensors, out, metadata={KEY: json.dumps(said)})
    return out


def test_what_is_no_such_file_says_so(tmp_path: Path) -> None:
    file, _, _, network = exported(tmp_path, "fastnet", 3, 32)
    out = tmp_path / "damaged.safetensors"
    bad = [
        damaged(file, tmp_path / "1.safetensors", **{"output.weight_scale": None}),
        damaged(file, tmp_path / "2.safetensors", **{"output.weight": torch.zeros(3, 256)}),
        damaged(file, tmp_path / "3.safetensors", **{"output.input_scale": torch.zeros(1)}),
        damaged(file, tmp_path / "4.safetensors", **{"output.input_zero": torch.tensor([300])}),
        damaged(file, tmp_path / "5.safetensors", described={"format": 2}),
        damaged(file, tmp_path / "6.safetensors", described={"layers": ["output"]}),
        damaged(file, tmp_path / "7.safetensors", described={"input": None}),
    ]
    safetensors.torch.save_file(network.state_dict(), out)
    for path in (*bad, out):
        with pytest.raises(ConvworksError) as caught:
            load_int8(path)
        assert caught.value.code in {"A422", "A405"}, path
    with pytest.raises(ConvworksError) as caught:
        load_int8(tmp_path / "nowhere.safetensors")
    assert caught.value.code == "A411"
    out.write_bytes(b"x" * 100)
    with pytest.raises(ConvworksError) as caught:
        load_int8(out)
    assert caught.value.code == "A402"


def test_floats_are_not_read_from_it_unseen(tmp_path: Path) -> None:
    file, *_ = exported(tmp_path, "mlp128", 1, 12)
    assert read_weights(file).tensors["fc2.weight"].dtype == torch.int8


def test_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    network, quantizer, _ = made("mlp128", 1, 12)
    given = {"scales": quantizer.scales, "model": "mlp128", "input_shape": (1, 12, 12), "classes": NAMES}
    with pytest.raises(ConvworksError) as caught:
        export_int8(network, tmp_path / "a.bin", **given)  # type: ignore[arg-type]
    assert caught.value.code == "U006"
    with torch.no_grad():
        network.get_parameter("fc2.weight")[0, 0] = float("nan")
    with pytest.raises(ConvworksError) as caught:
        export_int8(network, tmp_path / "a.safetensors", **given)  # type: ignore[arg-type]
    assert caught.value.code == "A415"
    assert not list(tmp_path.iterdir())
