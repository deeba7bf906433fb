"""Networks of 8-bit weights as one safetensors file, and back.

For each dense or convolutional layer NAME, with the letters of `training/quantize.py`:

    NAME.weight        int8 (O, ...)     q of the weights; w = s q
    NAME.weight_scale  float32 (O,)      s, one for each output channel
    NAME.input_scale   float64 (1,)      s of the layer's inputs; x = s (q - z) with q in 0..255
    NAME.input_zero    int32 (1,)        z

A layer whose inputs no image reached has no input_scale, and takes them as they are. All other tensors
(biases, batch norm) are as in a file of floating point. The metadata say the network, its options, input
and classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.training.checkpoint import load_into, read_tensors
from convworks.training.quantize import InputScale, Quantizer, quantizable, weight_integers
from convworks.weights.export import check_target, write_checked
from convworks.weights.files import METADATA_CAP, check_finite

KEY = "convworks.int8"  # in the metadata
FORMAT = 1
SCALE, INPUT, ZERO = "weight_scale", "input_scale", "input_zero"


@dataclass(frozen=True, slots=True, eq=False)
class Int8Network:
    """A network that computes as the file says, in evaluation mode, and the names of its outputs."""

    network: nn.Module
    model: str
    options: Mapping[str, Any]
    classes: tuple[str, ...]
    layers: tuple[str, ...]  # those of 8 bits


def export_int8(
    network: nn.Module,
    file: str | Path,
    *,
    scales: Mapping[str, InputScale],
    model: str,
    options: Mapping[str, Any] | None = None,
    input_shape: tuple[int, int, int],
    classes: Sequence[str],
) -> Path:
    """Write a network of floating point as 8-bit weights with the given scales of its layers' inputs.

    `input_shape` is (channels, height, width). The file is whole or absent. Raises U006, U143, R503, U235 (no
    layer that could be rounded), A415 (numbers that are not finite).
    """
    target = Path(file)
    check_target(target)
    layers = quantizable(network)
    if not layers:
        raise ConvworksError("U235", f"{model} has no dense or convolutional layer to round to 8 bits")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    check_finite(state, target)
    for name, layer in layers.items():
        integers, scale = weight_integers(layer.weight.detach().cpu())
        state[f"{name}.weight"], state[f"{name}.{SCALE}"] = integers.contiguous(), scale
        if name in scales:
            state[f"{name}.{INPUT}"] = torch.tensor([scales[name].scale], dtype=torch.float64)
            state[f"{name}.{ZERO}"] = torch.tensor([scales[name].zero], dtype=torch.int32)
    channels, height, width = input_shape
    said = {
        "format": FORMAT,
        "model": model,
        "options": dict(options or {}),
        "classes": list(classes),
        "input": {"channels": channels, "height": height, "width": width},
        "layers": list(layers),
    }
    write_checked(target, state, {"format": "pt", KEY: json.dumps(said)})
    return target


def load_int8(file: str | Path) -> Int8Network:
    """The network of such a file: the integers times their scales, inputs rounded as they say.

    Its outputs are those of the network that was exported, rounded by the same scales, to the bit in float32.
    Raises A402 (no safetensors), A422 (no file of this layout, or a damaged one).
    """
    path = Path(file)
    if not path.is_file():
        raise ConvworksError("A411", f"there is no file '{path}'", try_=f"ls {path.parent}")
    tensors = read_tensors(path)
    said = _described(path)
    try:
        shape = said["input"]
        with torch.random.fork_rng(devices=[]):
            network = models.create(
                said["model"],
                num_classes=len(said["classes"]),
                in_channels=shape["channels"],
                input_size=(shape["height"], shape["width"]),
                **said["options"],
            )
        plain, scales = _floats(tensors, [str(name) for name in said["layers"]])
        load_into(network.state_dict(), plain, where=path)
        if set(said["layers"]) != quantizable(network).keys():
            raise ValueError("its layers are not those of the network")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
        reason = f"{problem.args[0]!r} is missing" if isinstance(problem, KeyError) else str(problem)
        raise _damaged(path, reason) from problem
    Quantizer(network, weights=False).fix(scales)
    return Int8Network(
        network=network.eval(),
        model=said["model"],
        options=said["options"],
        classes=tuple(said["classes"]),
        layers=tuple(said["layers"]),
    )


def _floats(
    tensors: Mapping[str, Tensor], layers: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, InputScale]]:
    """The state of the network in floating point, and the scales of inputs."""
    plain, scales = dict(tensors), {}
    for name in layers:
        integers, scale = plain[f"{name}.weight"], plain.pop(f"{name}.{SCALE}")
        if integers.dtype != torch.int8 or scale.shape != integers.shape[:1]:
            raise ValueError(f"{name}.weight is no matrix of 8-bit integers with a scale for each row")
        plain[f"{name}.weight"] = integers.float() * scale.view(-1, *[1] * (integers.ndim - 1))
        if f"{name}.{INPUT}" in plain:
            value = float(plain.pop(f"{name}.{INPUT}").item())
            scales[name] = InputScale(value, int(plain.pop(f"{name}.{ZERO}").item()))
            if not 0 < value < float("inf") or not 0 <= scales[name].zero <= 255:
                raise ValueError(f"{name} has an impossible scale of its inputs")
    return plain, scales


def _described(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(KEY, "")
    if not text or len(text) > METADATA_CAP:
        raise _damaged(path, "it does not say that it is one")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise _damaged(path, "its description cannot be read") from problem
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise _damaged(path, "its description is of another format")
    return said


def _damaged(path: Path, reason: str) -> ConvworksError:
    return ConvworksError(
        "A422",
        f"{path.name} is no whole file of an 8-bit network: {reason}",
        where=str(path),
        try_=f"convworks export RUN --int8 {path.with_name('int8.safetensors')}",
    )
