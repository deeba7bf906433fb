"""Every layer of the Keras page is built, with Keras's arithmetic, or answered plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convworks.errors import ConvworksError
from convworks.layers import catalogue
from convworks.layers.catalogue import OUT_OF_SCOPE, build, names

# the list of the page as the lectures show it (networks)
PAGE = [
    "concatenate", "Conv1D", "Conv2D", "Conv2DTranspose", "Conv3D", "Conv3DTranspose", "ConvLSTM2D",
    "Cropping1D", "Cropping2D", "Cropping3D", "CuDNNGRU", "CuDNNLSTM", "Dense", "DepthwiseConv2D",
    "Dot", "dot", "Dropout", "ELU", "Embedding", "Flatten", "GaussianDropout", "GaussianNoise",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
]  # fmt: skip
OTHERS = [
    "SeparableConv1D", "SeparableConv2D", "LocallyConnected1D", "LocallyConnected2D", "UpSampling1D",
    "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "MaxPooling1D",
    "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D",
    "BatchNormalization", "Activation", "Add", "Concatenate", "PReLU", "LeakyReLU",
]  # fmt: skip
LAST = "channels_last"

# name, options, shape of the input, shape of the output, parameters: as Keras's documentation has them
BUILT = [
    ("Conv1D", {"in_channels": 4, "filters": 6, "kernel_size": 3}, (2, 4, 10), (2, 6, 8), 78),
    ("Conv1D", {"in_channels": 4, "filters": 6, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
     (2, 4, 10), (2, 6, 10), 78),
    ("Conv2D", {"in_channels": 3, "filters": 8, "kernel_size": [3, 3], "strides": [1, 1], "padding": "same",
                "activation": "relu", "data_format": LAST}, (10, 24, 24, 3), (10, 24, 24, 8), 224),
    ("Conv2D", {"in_channels": 3, "filters": 8, "kernel_size": 2, "strides": 3, "padding": "SAME",
                "use_bias": False}, (1, 3, 11, 10), (1, 8, 4, 4), 96),
    ("Conv3D", {"in_channels": 1, "filters": 2, "kernel_size": 3}, (1, 1, 5, 5, 5), (1, 2, 3, 3, 3), 56),
    ("Conv2DTranspose", {"in_channels": 3, "filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"},
     (1, 3, 7, 7), (1, 5, 14, 14), 140),
    ("Conv2DTranspose", {"in_channels": 3, "filters": 5, "kernel_size": 3, "strides": 2},
     (1, 3, 7, 7), (1, 5, 15, 15), 140),
    ("Conv3DTranspose", {"in_channels": 1, "filters": 2, "kernel_size": 2, "strides": 3},
     (1, 1, 2, 2, 2), (1, 2, 6, 6, 6), 18),
    ("SeparableConv2D", {"in_channels": 3, "filters": 64, "kernel_size": 7, "strides": 2, "padding": "same",
                         "depth_multiplier": 8, "use_bias": False}, (1, 3, 8, 8), (1, 64, 4, 4), 2712),
    ("SeparableConv1D", {"in_channels": 4, "filters": 6, "kernel_size": 3}, (1, 4, 9), (1, 6, 7), 42),
    ("DepthwiseConv2D", {"in_channels": 3, "kernel_size": 3, "depth_multiplier": 2}, (1, 3, 8, 8),
     (1, 6, 6, 6), 60),
    ("LocallyConnected2D", {"in_channels": 1, "filters": 2, "kernel_size": 3, "input_size": (5, 6)},
     (1, 1, 5, 6), (1, 2, 3, 4), 2 * 12 * 9 + 24),
    ("LocallyConnected1D", {"in_channels": 2, "filters": 3, "kernel_size": 2, "input_size": (4,),
                            "activation": "tanh"}, (1, 2, 4), (1, 3, 3), 45),
    ("MaxPooling2D", {}, (1, 2, 5, 5), (1, 2, 2, 2), 0),
    ("MaxPooling2D", {"pool_size": 3, "strides": 2, "padding": "same"}, (1, 2, 55, 55), (1, 2, 28, 28), 0),
    ("MaxPooling1D", {"pool_size": 3, "strides": 2}, (1, 2, 55), (1, 2, 27), 0),
    ("MaxPooling3D", {"data_format": LAST}, (1, 4, 4, 4, 2), (1, 2, 2, 2, 2), 0),
    ("AveragePooling1D", {}, (1, 2, 4), (1, 2, 2), 0),
    ("AveragePooling2D", {"padding": "same"}, (1, 2, 5, 5), (1, 2, 3, 3), 0),
    ("AveragePooling3D", {}, (1, 2, 4, 4, 4), (1, 2, 2, 2, 2), 0),
    ("GlobalAveragePooling1D", {}, (2, 3, 5), (2, 3), 0),
    ("GlobalAveragePooling2D", {"data_format": LAST}, (2, 4, 5, 3), (2, 3), 0),
    ("GlobalMaxPooling1D", {}, (2, 3, 5), (2, 3), 0),
    ("GlobalMaxPooling2D", {"data_format": LAST, "keepdims": True}, (2, 4, 5, 3), (2, 1, 1, 3), 0),
    ("Cropping1D", {"cropping": (1, 2)}, (1, 2, 9), (1, 2, 6), 0),
    ("Cropping2D", {"cropping": ((2, 2), (4, 4))}, (2, 3, 28, 28), (2, 3, 24, 20), 0),
    ("Cropping3D", {"cropping": (2, 4, 2)}, (2, 3, 28, 28, 10), (2, 3, 24, 20, 6), 0),
    ("ZeroPadding1D", {"padding": 2}, (1, 2, 3), (1, 2, 7), 0),
    ("ZeroPadding2D", {"padding": ((1, 0), (0, 2)), "data_format": LAST}, (1, 2, 2, 3), (1, 3, 4, 3), 0),
    ("ZeroPadding3D", {"padding": (0, 1, 2)}, (1, 1, 2, 2, 2), (1, 1, 2, 4, 6), 0),
    ("UpSampling1D", {"size": 3}, (1, 2, 4), (1, 2, 12), 0),
    ("UpSampling2D", {"size": (2, 3)}, (1, 1, 2, 2), (1, 1, 4, 6), 0),
    ("UpSampling3D", {}, (1, 1, 2, 2, 2), (1, 1, 4, 4, 4), 0),
    ("Dense", {"in_features": 784, "units": 128, "activation": "relu"}, (2, 784), (2, 128), 100_480),
    ("Dropout", {"rate": 0.4}, (2, 3), (2, 3), 0),
    ("SpatialDropout2D", {"rate": 0.4, "data_format": LAST}, (2, 4, 4, 3), (2, 4, 4, 3), 0),
    ("AlphaDropout", {"rate": 0.1}, (2, 3), (2, 3), 0),
    ("GaussianNoise", {"stddev": 1.0}, (2, 3), (2, 3), 0),
    ("GaussianDropout", {"rate": 0.5}, (2, 3), (2, 3), 0),
    ("BatchNormalization", {"in_channels": 3, "data_format": LAST}, (2, 4, 4, 3), (2, 4, 4, 3), 6),
    ("ELU", {"alpha": 0.5}, (2, 3), (2, 3), 0),
    ("ReLU", {"max_value": 6.0}, (2, 3), (2, 3), 0),
    ("LeakyReLU", {}, (2, 3), (2, 3), 0),
    ("PReLU", {"in_channels": 3}, (2, 3, 4), (2, 3, 4), 3),
    ("Softmax", {}, (2, 3), (2, 3), 0),
    ("Activation", {"activation": "selu"}, (2, 3), (2, 3), 0),
    ("Activation", {"activation": "softmax"}, (2, 3), (2, 3), 0),
    ("Activation", {"activation": "linear"}, (2, 3), (2, 3), 0),
    ("Flatten", {}, (2, 3, 4, 5), (2, 60), 0),
    ("Reshape", {"target_shape": (3, 4)}, (2, 12), (2, 3, 4), 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "given_shape", "shape", "parameters"), BUILT)
def test_shapes_and_parameters(
    name: str,
    options: dict[str, object],
    given_shape: tuple[int, ...],
    shape: tuple[int, ...],
    parameters: int,
) -> None:
    layer = build(name, **options)
    assert layer(torch.randn(given_shape)).shape == shape
    assert sum(p.numel() for p in layer.parameters()) == parameters


def test_every_name_of_the_page_is_built_or_answered() -> None:
    assert set(PAGE + OTHERS) <= set(names()) | OUT_OF_SCOPE.keys()
    assert not set(names()) & OUT_OF_SCOPE.keys()
    assert set(PAGE) & OUT_OF_SCOPE.keys() == {"ConvLSTM2D", "CuDNNGRU", "CuDNNLSTM", "Embedding"}


@pytest.mark.parametrize("name", list(OUT_OF_SCOPE))
def test_layers_out_of_scope_are_answered_with_what_to_use(name: str) -> None:
    with pytest.raises(ConvworksError, match=rf"U166\]: the layer {name} is out of scope(.|\n)*try: +use ."):
        build(name)


def test_embedding_and_convlstm() -> None:
    with pytest.raises(ConvworksError, match="use torch.nn.Embedding"):
        build("Embedding", input_dim=10)
    with pytest.raises(ConvworksError, match="use Conv3D"):
        build("ConvLSTM2D")


def test_unknown_names_and_options() -> None:
    with pytest.raises(ConvworksError, match=r"U165\]: there is no layer called 'Conv2d'(.|\n)*'Conv2D'"):
        build("Conv2d")
    with pytest.raises(ConvworksError, match=r"filter = 8 .*Conv2D has no such option(.|\n)*filters=8"):
        build("Conv2D", in_channels=3, filter=8, kernel_size=3)
    with pytest.raises(ConvworksError, match=r"filters = None .*Conv2D needs it"):
        build("Conv2D", in_channels=3, kernel_size=3)
    with pytest.raises(ConvworksError, match=r"data_format = 'NHWC'(.|\n)*channels_first, channels_last"):
        build("Conv2D", in_channels=3, filters=8, kernel_size=3, data_format="NHWC")
    with pytest.raises(ConvworksError, match=r"data_format = .*Dense has no such option"):
        build("Dense", in_features=3, units=8, data_format=LAST)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Conv2D", {"strides": 2, "dilation_rate": 2}, "strides = 2 .*dilation_rate is 2"),
        ("Conv2D", {"padding": "causal"}, "padding = 'causal' .*one of valid, same"),
        ("Conv2D", {"activation": "reluu"}, r"activation = 'reluu'(.|\n)*activation='relu'"),
        ("Conv2D", {"kernel_initializer": "glorot"}, r"kernel_initializer = 'glorot'(.|\n)*glorot_normal"),
        ("DepthwiseConv2D", {"depth_multiplier": 0, "filters": None}, "depth_multiplier = 0"),
        ("MaxPooling2D", {"padding": "full"}, "padding = 'full'"),
        ("Dropout", {"rate": 1.5}, "rate = 1.5 .*probability to DROP"),
        ("Cropping2D", {"cropping": (1, 2, 3)}, r"cropping = \(1, 2, 3\) .*2 spatial dimensions"),
        ("UpSampling3D", {"interpolation": "bilinear"}, "interpolation = 'bilinear' .*one of nearest"),
        ("BatchNormalization", {"in_channels": 3, "rank": 4}, "rank = 4"),
    ],
)
def test_values_that_do_not_fit(name: str, options: dict[str, object], message: str) -> None:
    if "Conv" in name:
        options = {"in_channels": 3, "filters": 4, "kernel_size": 3} | options
        options = {key: value for key, value in options.items() if value is not None}
    with pytest.raises(ConvworksError, match=message):
        build(name, **options)


def test_channels_last_is_the_same_layer_on_turned_maps() -> None:
    torch.manual_seed(0)
    layer = build(
        "Conv2D", in_channels=3, filters=4, kernel_size=3, strides=2, padding="same", data_format=LAST
    )
    x = torch.randn(2, 7, 6, 3)
    torch.testing.assert_close(layer(x), layer.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(1, 5), k=st.integers(1, 4), s=st.integers(1, 3), mode=st.sampled_from(["same", "valid"]))
def test_a_transposed_convolution_is_the_gradient_of_the_convolution(
    n: int, k: int, s: int, mode: str
) -> None:
    rng = np.random.default_rng(0)
    layer = build("Conv1DTranspose", in_channels=1, filters=1, kernel_size=k, strides=s, padding=mode,
                  use_bias=False).double()  # fmt: skip
    (weight,) = layer.parameters()
    w = rng.normal(size=k)
    weight.data = torch.from_numpy(w).reshape(weight.shape)
    y = rng.normal(size=n)
    x_size = n * s if mode == "same" else n * s + max(k - s, 0)
    before = max((n - 1) * s + k - x_size, 0) // 2 if mode == "same" else 0
    expected = np.zeros(x_size)
    for i in range(n):  # output i of TensorFlow's convolution reads x[i s - before + m] with w[m]
        for m in range(k):
            if 0 <= i * s - before + m < x_size:
                expected[i * s - before + m] += w[m] * y[i]
    found = layer(torch.from_numpy(y)[None, None])[0, 0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_same_average_pooling_counts_no_padding() -> None:
    x = torch.arange(1.0, 6.0)[None, None]
    y = build("AveragePooling1D", pool_size=2, padding="same")(x)
    assert y.tolist() == [[[1.5, 3.5, 5.0]]]
    assert build("MaxPooling1D", pool_size=2, padding="same")(-x).tolist() == [[[-1.0, -3.0, -5.0]]]


def test_zeros_are_put_where_asked() -> None:
    y = build("ZeroPadding2D", padding=((1, 0), (0, 2)))(torch.ones(1, 1, 1, 1))
    assert y.tolist() == [[[[0.0, 0, 0], [1, 0, 0]]]]
    assert build("ZeroPadding1D", padding=(0, 1))(torch.ones(1, 1, 1)).tolist() == [[[1.0, 0]]]


def test_initialisers_by_name_and_by_function() -> None:
    layer = build("Conv2D", in_channels=3, filters=4, kernel_size=3, kernel_initializer="zeros",
                  bias_initializer=lambda b: b.fill_(2.0))  # fmt: skip
    assert set(layer(torch.randn(1, 3, 5, 5)).unique().tolist()) == {2.0}
    for name in ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "orthogonal", "ones"):
        build("Conv2D", in_channels=3, filters=4, kernel_size=3, kernel_initializer=name)


def test_softmax_after_a_convolution_sums_to_1_over_the_maps() -> None:
    layer = build("Conv2D", in_channels=3, filters=4, kernel_size=1, activation="softmax", data_format=LAST)
    total = layer(torch.randn(2, 5, 5, 3)).sum(dim=-1)
    torch.testing.assert_close(total, torch.ones(2, 5, 5))


def test_conventions_of_keras() -> None:
    norm = build("BatchNormalization", in_channels=3)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == pytest.approx(0.01)  # the share that is new, where Keras's is the share kept
    assert norm.eps == 1e-3
    torch.testing.assert_close(build("LeakyReLU")(torch.tensor([-1.0])), torch.tensor([-0.3]))
    torch.testing.assert_close(build("PReLU")(torch.tensor([[-1.0]])).detach(), torch.zeros(1, 1))
    torch.testing.assert_close(build("ReLU", max_value=6)(torch.tensor([9.0])), torch.tensor([6.0]))


def test_joining_layers_of_both_spellings() -> None:
    a, b = torch.ones(1, 2, 3), torch.ones(1, 1, 3)
    for name in ("Concatenate", "concatenate"):
        assert build(name)(a, b).shape == (1, 3, 3)
    for name in ("Add", "add"):
        torch.testing.assert_close(build(name)(a, a), 2 * a)
    for name in ("Dot", "dot"):
        assert build(name, axes=2)(a, b).shape == (1, 2, 1)


def test_a_network_of_the_catalogue_learns() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        build("Conv2D", in_channels=1, filters=4, kernel_size=3, padding="same", activation="relu"),
        build("MaxPooling2D"),
        build("GaussianNoise", stddev=0.01),
        build("Flatten"),
        build("Dense", in_features=4 * 16, units=2),
    )
    x = torch.randn(32, 1, 8, 8)
    labels = (x.mean(dim=(1, 2, 3)) > 0).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_names_are_sorted() -> None:
    assert list(names()) == sorted(names())
    assert catalogue.names() == names()
