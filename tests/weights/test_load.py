"""Weights out and in again: the same bits, and every difference said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.weights.export import export_safetensors
from convworks.weights.layouts import layout
from convworks.weights.load import load_weights

from .oracle import torchvision_models

SMALL = "mobilenet_v1_025_128"
RELU6 = {"activation": "relu6"}
CLASSES = ("daisy", "rose", "tulip", "violet")


def network(model: str = SMALL, *, seed: int = 0, classes: int = 4, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return models.create(model, num_classes=classes, input_size=(64, 64), **options)


def exported(
    folder: Path, *, names: str = "timm", classes: tuple[str, ...] = CLASSES
) -> tuple[nn.Module, Path]:
    made = network(**RELU6)
    file = folder / f"{names}.safetensors"
    return made, export_safetensors(made, file, model=SMALL, names=names, options=RELU6, classes=classes)


def plain(file: Path, **changes: Tensor | None) -> Path:
    """A copy that says nothing about us, with some tensors changed or left out."""
    tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = tensor
    target = file.with_name("plain.safetensors")
    safetensors.torch.save_file(tensors, target)
    return target


def same(one: nn.Module, other: nn.Module, *, but: tuple[str, ...] = ()) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        if name not in but:
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def fails(code: str, file: Path, *, model: str = SMALL, into: nn.Module | None = None, **how: Any) -> str:
    target = network(seed=1, **RELU6) if into is None else into
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ConvworksError) as caught:
        load_weights(target, file, model=model, **({"options": RELU6} | how))
    assert caught.value.code == code, caught.value
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name]), "a network was changed by weights that do not fit"
    return str(caught.value)


@pytest.mark.parametrize("names", ["convworks", "timm"])
def test_round_trip_is_exact(tmp_path: Path, names: str) -> None:
    made, file = exported(tmp_path, names=names)
    other = network(seed=1, **RELU6)
    loaded = load_weights(other, file, model=SMALL, options=RELU6)
    assert (loaded.names, loaded.head, loaded.initial) == (names, "file", ())
    same(made, other)


def test_round_trip_through_torchvision_itself(tmp_path: Path) -> None:
    """Our export loads into torchvision's own network, and its state dict comes back."""
    made = network("resnet18", classes=3)
    file = export_safetensors(made, tmp_path / "a.safetensors", model="resnet18", names="torchvision")
    theirs = torchvision_models().resnet18(weights=None, num_classes=3)
    theirs.load_state_dict(safetensors.torch.load_file(file), strict=True)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "b.safetensors")
    other = network("resnet18", seed=1, classes=3)
    load_weights(other, tmp_path / "b.safetensors", model="resnet18")
    same(made, other)


def test_a_dense_layer_may_be_written_as_a_convolution(tmp_path: Path) -> None:
    """timm's VGG has 7x7 and 1x1 convolutions for fc6 and fc7; the numbers are the same."""
    weight = torch.randn(6, 2 * 7 * 7)
    timm = layout("vgg_d", "timm", {})
    folded = timm.fold("fc6.linear.weight", weight)
    assert folded is not None
    x = torch.randn(1, 2, 7, 7)
    expected = torch.nn.functional.conv2d(x, folded).flatten()
    torch.testing.assert_close(weight @ x.flatten(), expected)
    assert torch.equal(timm.unfold("fc6.linear.weight", folded), weight)
    assert timm.fold("fc6.linear.weight", torch.randn(6, 100)) is None


def test_half_precision_is_widened(tmp_path: Path) -> None:
    made, file = exported(tmp_path)
    halved = {
        k: v.half() if v.is_floating_point() else v for k, v in safetensors.torch.load_file(file).items()
    }
    safetensors.torch.save_file(halved, tmp_path / "half.safetensors")
    other = network(seed=1, **RELU6)
    load_weights(other, tmp_path / "half.safetensors", model=SMALL, options=RELU6)
    assert other.fc.weight.dtype == torch.float32
    torch.testing.assert_close(other.fc.weight, made.fc.weight.half().float(), rtol=0, atol=0)


def test_every_difference_is_named_at_once(tmp_path: Path) -> None:
    _, file = exported(tmp_path)
    changes = {
        "bn1__weight": None,
        "blocks__0__0__conv_dw__weight": None,
        "extra__weight": torch.zeros(2),
        "blocks__4__1__bn2__bias": torch.zeros(7),
        "conv_stem__weight": torch.zeros(8, 3, 3, 3, dtype=torch.int64),
    }
    said = fails("A405", plain(file, **changes))
    assert (
        "timm names, 2 missing: bn1.weight, blocks.0.0.conv_dw.weight; 1 unexpected: extra.weight; 2 unfit: "
        in said
    )
    assert "blocks.4.1.bn2.bias is (7,) in the file and (256,) in the network" in said
    assert "conv_stem.weight is torch.int64 in the file and torch.float32 in the network" in said


def test_the_counter_of_batches_may_lack(tmp_path: Path) -> None:
    made, file = exported(tmp_path)
    names = [name for name in safetensors.torch.load_file(file) if name.endswith("num_batches_tracked")]
    old = plain(file, **{name.replace(".", "__"): None for name in names})
    other = network(seed=1, **RELU6)
    load_weights(other, old, model=SMALL, options=RELU6)
    same(made, other)


def test_a_head_of_another_size_is_skipped_only_when_asked(tmp_path: Path) -> None:
    made, file = exported(tmp_path)
    other = network(seed=1, classes=3, **RELU6)
    said = fails("A405", file, into=other)
    assert "classifier.weight is (4, 256) in the file and (3, 256) in the network" in said
    initial = other.fc.weight.clone()
    loaded = load_weights(other, file, model=SMALL, options=RELU6, new_head=True)
    assert (loaded.head, loaded.initial) == ("new", ("fc.weight", "fc.bias"))
    assert torch.equal(other.fc.weight, initial)
    assert torch.equal(other.conv1.conv.weight, made.conv1.conv.weight)


def test_rows_of_the_head_go_by_the_names_of_the_classes(tmp_path: Path) -> None:
    made, file = exported(tmp_path)
    other = network(seed=1, classes=3, **RELU6)
    wanted = ("violet", "daisy", "tulip")
    loaded = load_weights(other, file, model=SMALL, options=RELU6, classes=wanted)
    assert loaded.head == "rows"
    rows = [CLASSES.index(name) for name in wanted]
    assert torch.equal(other.fc.weight, made.fc.weight[rows])
    assert torch.equal(other.fc.bias, made.fc.bias[rows])


def test_the_same_number_of_other_classes_is_no_reason_to_keep_the_head(tmp_path: Path) -> None:
    _, file = exported(tmp_path)
    other = network(seed=1, **RELU6)
    initial = other.fc.weight.clone()
    strangers = ("ant", "bee", "cat", "dog")
    assert "4 of these classes: ant, bee, cat, dog" in fails("A405", file, into=other, classes=strangers)
    loaded = load_weights(other, file, model=SMALL, options=RELU6, classes=strangers, new_head=True)
    assert loaded.head == "new"
    assert torch.equal(other.fc.weight, initial)
    unnamed = load_weights(other, plain(file), model=SMALL, options=RELU6, classes=strangers, new_head=True)
    assert unnamed.head == "new"


def test_auxiliary_heads_of_one_side_are_left_out_only_with_a_new_head(tmp_path: Path) -> None:
    model = "googlenet_torchvision"
    made = network(model)
    file = export_safetensors(made, tmp_path / "a.safetensors", model=model, names="torchvision")
    without = network(model, seed=1, auxiliary=False)
    assert "aux1.conv.conv.weight" in fails(
        "A405", plain(file), model=model, into=without, options={"auxiliary": False}
    )
    load_weights(without, plain(file), model=model, options={"auxiliary": False}, new_head=True)
    assert torch.equal(without.inception_5b.branch_1x1.conv.weight, made.inception_5b.branch_1x1.conv.weight)
    file = export_safetensors(
        without, tmp_path / "b.safetensors", model=model, names="torchvision", options={"auxiliary": False}
    )
    assert "missing: aux1.conv.conv.weight" in fails(
        "A405", plain(file), model=model, into=network(model), options={}
    )
    loaded = load_weights(network(model), plain(file), model=model, new_head=True)
    assert "auxiliary_4a.fc.weight" in loaded.initial


def test_a_new_head_excuses_nothing_else(tmp_path: Path) -> None:
    _, file = exported(tmp_path)
    said = fails("A405", plain(file, bn1__bias=torch.zeros(7), bn1__weight=None), new_head=True)
    assert "1 missing: bn1.weight; 1 unfit: bn1.bias is (7,) in the file" in said
    assert "1 unexpected: extra" in fails("A405", plain(file, extra=torch.zeros(1)), new_head=True)


def test_weights_of_another_form_are_refused(tmp_path: Path) -> None:
    _, file = exported(tmp_path)
    said = fails("A417", plain(file), into=network(seed=1), options={})
    assert "timm trained mobilenet_v1_025_128 with activation='relu6', and this network has 'relu'" in said
    said = fails("A417", file, into=network(seed=1), options={})
    assert "with activation='relu6', which this network has not" in said
    assert "--set model_options.activation=relu6" in said
    made = network("resnet18", classes=3)
    named = export_safetensors(made, tmp_path / "r.safetensors", model="resnet18", names="torchvision")
    assert "those of resnet18, and this network is resnet34" in fails(
        "A417", named, model="resnet34", into=network("resnet34"), options={}
    )


def test_torchvision_s_resnet50_is_sent_to_the_network_that_it_is(tmp_path: Path) -> None:
    made = network("resnet50_v1_5", classes=3)
    file = plain(
        export_safetensors(made, tmp_path / "a.safetensors", model="resnet50_v1_5", names="torchvision")
    )
    said = fails("A405", file, model="resnet50", into=network("resnet50", classes=3), options={})
    assert "they are for resnet50_v1_5: others have the stride in the 3x3" in said
    assert "try:   --model resnet50_v1_5" in said


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    _, file = exported(tmp_path)
    assert "in bn1.bias" in fails("A415", plain(file, bn1__bias=torch.full((8,), torch.nan)))
    spoiled = network(**RELU6)
    with torch.no_grad():
        spoiled.fc.bias[0] = torch.inf
    with pytest.raises(ConvworksError, match=r"not finite, in fc\.bias"):
        export_safetensors(spoiled, tmp_path / "x.safetensors", model=SMALL, options=RELU6)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    _, file = exported(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    fails("A402", file)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    assert "there is no file of weights" in fails("A411", tmp_path / "none.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("these are no weights")
    fails("A402", text)
    strangers = tmp_path / "strangers.safetensors"
    safetensors.torch.save_file({f"layer{i}.weight": torch.zeros(2) for i in range(5)}, strangers)
    said = fails("A405", strangers)
    assert "none of its 5 names is known: layer0.weight, layer1.weight, layer2.weight ..." in said


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_never_read_here_whatever_its_name(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "weights.safetensors"
    torch.save({"a": torch.zeros(2)}, file, _use_new_zipfile_serialization=zipped)
    assert f"convworks import {file}" in fails("A412", file)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """The first byte of safetensors is the low byte of a length; pickle's first byte is 0x80."""
    file = tmp_path / "a.safetensors"
    for length in range(1, 400):
        safetensors.torch.save_file({"w": torch.zeros(2)}, file, metadata={"pad": "x" * length})
        if file.read_bytes()[0] == 0x80:
            break
    assert file.read_bytes()[0] == 0x80
    assert "none of its 1 names is known" in fails("A405", file)


def test_metadata_of_a_stranger_are_passed_over(tmp_path: Path) -> None:
    made, file = exported(tmp_path)
    tensors = safetensors.torch.load_file(file)
    for said in ("[", "[]", '{"model": 3, "classes": [1]}', '{"classes": ["a", "a"]}', "[" * 100_000):
        safetensors.torch.save_file(tensors, tmp_path / "s.safetensors", metadata={"convworks": said})
        other = network(seed=1, **RELU6)
        load_weights(other, tmp_path / "s.safetensors", model=SMALL, options=RELU6)
        same(made, other)


def test_an_export_says_what_it_is_and_replaces_nothing(tmp_path: Path) -> None:
    made, file = exported(tmp_path)
    with safetensors.safe_open(file, framework="pt") as opened:
        said = opened.metadata()
    assert said["format"] == "pt"
    expected = {"model": SMALL, "options": RELU6, "classes": list(CLASSES)}
    assert json.loads(said["convworks"]) == expected
    before = file.read_bytes()
    for target, code in (
        (file, "U143"),
        (tmp_path / "a.pth", "U006"),
        (tmp_path / "no" / "a.safetensors", "R503"),
    ):
        with pytest.raises(ConvworksError) as caught:
            export_safetensors(made, target, model=SMALL, options=RELU6)
        assert caught.value.code == code
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_export_in_other_names_needs_the_same_network(tmp_path: Path) -> None:
    with pytest.raises(ConvworksError, match="timm trained") as caught:
        export_safetensors(network(), tmp_path / "a.safetensors", model=SMALL, names="timm")
    assert caught.value.code == "A417"
    with pytest.raises(ConvworksError, match="torchvision has no names") as caught:
        export_safetensors(
            network("fastnet"), tmp_path / "a.safetensors", model="fastnet", names="torchvision"
        )
    assert caught.value.code == "U197"
    assert list(tmp_path.iterdir()) == []
