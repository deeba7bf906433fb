"""Names, options and sizes: what `create` builds and what it says when it cannot."""

from __future__ import annotations

import pytest
from torch import nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.models.registry import register


def refusal(name: str, **arguments: object) -> ConvworksError:
    with pytest.raises(ConvworksError) as caught:
        models.create(name, **{"num_classes": 10, **arguments})  # type: ignore[arg-type]
    return caught.value


def test_an_unknown_model_offers_the_closest_name() -> None:
    error = refusal("lenet5_moden")
    assert (error.code, error.what) == ("U101", "there is no model called 'lenet5_moden'")
    assert error.where == "did you mean 'lenet5_modern'?"
    assert error.hint == "convworks show lenet5_modern"


def test_info_of_an_unknown_model() -> None:
    with pytest.raises(ConvworksError, match="there is no model called 'fastnett'"):
        models.info("fastnett")


def test_an_unknown_option_offers_the_closest() -> None:
    error = refusal("lenet5", ouput="linear")
    assert (error.code, error.what) == ("U120", "there is no option of lenet5 called 'ouput'")
    assert error.where == "did you mean 'output'?"


def test_an_option_for_a_model_that_has_none() -> None:
    error = refusal("mlp128", output="linear")
    assert (error.code, error.what) == ("U120", "mlp128 has no options, got 'output'")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"num_classes": 1}, "mlp128 cannot have 1 classes and 1 input channels"),
        ({"in_channels": 0}, "mlp128 cannot have 10 classes and 0 input channels"),
    ],
)
def test_numbers_that_make_no_sense(arguments: dict[str, int], what: str) -> None:
    error = refusal("mlp128", **arguments)
    assert (error.code, error.what) == ("U121", what)


@pytest.mark.parametrize(
    ("name", "size", "fits"),
    [
        ("lenet5", (28, 28), "what fits: 32x32, to which training pads or resizes images by itself"),
        ("lenet5", (32, 36), "what fits: 32x32, to which training pads or resizes images by itself"),
        ("lenet5_modern", (28, 11), "what fits: 12x12 and larger"),
        ("tutorial_cnn", (15, 28), "what fits: 16x16 and larger"),
        ("fastnet", (8, 8), "what fits: 16x16 and larger"),
        ("mlp128", (0, 28), "what fits: 1x1 and larger"),
    ],
)
def test_a_size_that_does_not_fit(name: str, size: tuple[int, int], fits: str) -> None:
    error = refusal(name, input_size=size)
    assert (error.code, error.where) == ("U122", fits)
    assert error.what == f"{name} cannot take images of {size[0]}x{size[1]} pixels"
    assert error.why
    assert error.hint.startswith(f"convworks train DATA --model {name} --size ")


def test_defaults_are_the_published_sizes() -> None:
    row = models.info("lenet5")
    assert (row.input_size, row.in_channels, row.num_classes) == ((32, 32), 1, 10)
    assert dict(row.options) == {"output": "rbf"}
    assert dict(models.info("mlp128").options) == {}


def test_names_are_sorted_and_each_row_says_what_it_is() -> None:
    assert list(models.names()) == sorted(models.names())
    for name in models.names():
        row = models.info(name)
        assert row.name == name
        assert row.source
        assert row.summary


def test_the_functions_build_what_create_builds() -> None:
    assert isinstance(models.lenet5(num_classes=3, in_channels=3), models.LeNet5)
    for name in models.names():
        assert getattr(models, name) is models.info(name).build


def test_a_name_is_registered_once() -> None:
    def lenet5(
        *, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (32, 32)
    ) -> nn.Module:
        raise AssertionError("never built")

    with pytest.raises(ValueError, match="a network called 'lenet5' is already registered, by LeCun"):
        register(lenet5, source="another", summary="another")
