"""Layers by the names and options of the Keras page that the lectures show.

`build("Conv2D", in_channels=3, filters=8, kernel_size=3, padding="same", activation="relu")` is a module of
torch or of this package. What torch must know and Keras finds out from the first input is asked for:
`in_channels` or `in_features`. Maps are (N, C, H, W) unless `data_format="channels_last"`, Keras's own
default, makes them (N, H, W, C). "same" is TensorFlow's SAME: output ceil(N / stride), the odd cell after the
input. Source: lectures, the Keras page of layers and "arguments"; the documentation of Keras.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from convworks.errors import ConvworksError, closest, unknown_name
from convworks.layers import catalogue_convolution as convolution
from convworks.layers.dropout import GaussianDropout, GaussianNoise
from convworks.layers.pooling import GlobalAveragePool, GlobalMaxPool, Pool
from convworks.layers.structure import Add, Amount, Concatenate, Crop, Dot, Flatten, Unflatten, border_pairs
from convworks.ops.arguments import Sizes, bad_argument, one_of, per_dimension

Builder = Callable[..., nn.Module]


class ChannelsLast(nn.Module):
    """A layer of (N, C, ...) on maps of Keras's shape (N, ..., C), and back."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.movedim(-1, 1))
        return y.movedim(1, -1) if y.ndim > 2 else y  # global pooling gives vectors


def _dense(
    units: int, *, in_features: int, use_bias: bool = True, activation: str | None = None
) -> nn.Module:
    return convolution.activated(nn.Linear(in_features, units, bias=use_bias), activation)


def _pool(
    kind: str, rank: int, *, pool_size: Sizes = 2, strides: Sizes | None = None, padding: str = "valid"
) -> nn.Module:
    """Torch's own layer without padding; with "same" ours, which pads on one side and counts no padding."""
    size = per_dimension("pool_size", pool_size, rank)
    steps = size if strides is None else per_dimension("strides", strides, rank)
    if one_of("padding", padding.lower(), ("valid", "same")) == "same":
        return Pool(kind, size, stride=steps, padding="tf_same", count_padding=False)
    kinds: dict[tuple[str, int], Builder] = {
        ("max", 1): nn.MaxPool1d, ("max", 2): nn.MaxPool2d, ("max", 3): nn.MaxPool3d,
        ("mean", 1): nn.AvgPool1d, ("mean", 2): nn.AvgPool2d, ("mean", 3): nn.AvgPool3d,
    }  # fmt: skip
    return kinds[kind, rank](size, steps)


def _global(kind: Builder, *, keepdims: bool = False) -> nn.Module:
    return kind(keepdim=keepdims)


def _crop(rank: int, *, cropping: Amount = 1) -> nn.Module:
    return Crop(border_pairs("cropping", _of_line(cropping, rank), rank))


def _zero_padding(rank: int, *, padding: Amount = 1) -> nn.Module:
    pairs = border_pairs("padding", _of_line(padding, rank), rank)
    sides = tuple(n for pair in reversed(pairs) for n in pair)  # torch begins with the last dimension
    kinds: dict[int, Builder] = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}
    return kinds[rank](sides, 0.0)


def _of_line(amount: Amount, rank: int) -> Amount:
    """In one dimension Keras writes (before, after) without a second pair of brackets."""
    if rank == 1 and not isinstance(amount, int) and all(isinstance(n, int) for n in amount):
        return (amount,)  # type: ignore[return-value]
    return amount


def _up_sampling(rank: int, *, size: Sizes = 2, interpolation: str = "nearest") -> nn.Module:
    modes = ("nearest",) if rank != 2 else ("nearest", "bilinear")
    mode = one_of("interpolation", interpolation, modes)
    factors = tuple(float(n) for n in per_dimension("size", size, rank))
    return nn.Upsample(scale_factor=factors, mode=mode)


def _batch_normalization(
    *, in_channels: int, rank: int = 2, momentum: float = 0.99, epsilon: float = 1e-3
) -> nn.Module:
    """Keras's momentum is the share that is kept, torch's the share that is new: they add up to 1."""
    kinds: dict[int, Builder] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    if rank not in kinds:
        raise bad_argument("rank", rank, why="maps have 1 to 3 dimensions", fits="rank=2")
    return kinds[rank](in_channels, eps=epsilon, momentum=1 - momentum)


def _prelu(*, in_channels: int = 1) -> nn.Module:
    return nn.PReLU(in_channels, init=0.0)  # Keras begins with a slope of 0, He et al. with 0.25


def _relu(*, max_value: float | None = None) -> nn.Module:
    return nn.ReLU() if max_value is None else nn.Hardtanh(0.0, max_value)


def _dropout(kind: Builder, rate: float) -> nn.Module:
    if not 0 <= rate <= 1:
        raise bad_argument("rate", rate, why="it is the probability to DROP, in [0, 1]", fits="rate=0.5")
    return kind(rate)


# Layers of maps take data_format as well.
_MAPS: dict[str, Builder] = {
    **{f"MaxPooling{r}D": partial(_pool, "max", r) for r in (1, 2, 3)},
    **{f"AveragePooling{r}D": partial(_pool, "mean", r) for r in (1, 2, 3)},
    **{f"GlobalAveragePooling{r}D": partial(_global, GlobalAveragePool) for r in (1, 2, 3)},
    **{f"GlobalMaxPooling{r}D": partial(_global, GlobalMaxPool) for r in (1, 2, 3)},
    **{f"Cropping{r}D": partial(_crop, r) for r in (1, 2, 3)},
    **{f"ZeroPadding{r}D": partial(_zero_padding, r) for r in (1, 2, 3)},
    **{f"UpSampling{r}D": partial(_up_sampling, r) for r in (1, 2, 3)},
    "SpatialDropout1D": lambda rate: _dropout(nn.Dropout1d, rate),
    "SpatialDropout2D": lambda rate: _dropout(nn.Dropout2d, rate),
    "SpatialDropout3D": lambda rate: _dropout(nn.Dropout3d, rate),
    "BatchNormalization": _batch_normalization,
    "PReLU": _prelu,
    **{f"Conv{r}D": partial(convolution.plain, r) for r in (1, 2, 3)},
    **{f"Conv{r}DTranspose": partial(convolution.transposed, r) for r in (1, 2, 3)},
    **{f"DepthwiseConv{r}D": partial(convolution.depthwise, r) for r in (1, 2)},
    **{f"SeparableConv{r}D": partial(convolution.separable, r) for r in (1, 2)},
    **{f"LocallyConnected{r}D": partial(convolution.locally_connected, r) for r in (1, 2)},
}

_ANY: dict[str, Builder] = {
    "Dense": _dense,
    "Activation": convolution.function,
    "ReLU": _relu,
    "LeakyReLU": lambda *, alpha=0.3: nn.LeakyReLU(alpha),  # Keras's default; the lectures' slope is 0.01
    "ELU": lambda *, alpha=1.0: nn.ELU(alpha),
    "Softmax": lambda *, axis=-1: nn.Softmax(dim=axis),
    "Dropout": lambda rate: _dropout(nn.Dropout, rate),
    "AlphaDropout": lambda rate: _dropout(nn.AlphaDropout, rate),
    "GaussianNoise": lambda stddev: GaussianNoise(std=stddev),
    "GaussianDropout": lambda rate: GaussianDropout(drop_probability=rate),
    "Flatten": Flatten,
    "Reshape": lambda target_shape: Unflatten(shape=target_shape),
    "Add": Add,
    "add": Add,
    "Concatenate": lambda *, axis=1: Concatenate(dim=axis),
    "concatenate": lambda *, axis=1: Concatenate(dim=axis),
    "Dot": lambda axes, *, normalize=False: Dot(axes, normalize=normalize),
    "dot": lambda axes, *, normalize=False: Dot(axes, normalize=normalize),
}

_RECURRENT = "recurrent networks are not part of this project"
OUT_OF_SCOPE: dict[str, tuple[str, str]] = {
    "ConvLSTM2D": (_RECURRENT, "Conv3D over (time, height, width), or nn.LSTMCell after a convolution"),
    "CuDNNGRU": (_RECURRENT, "torch.nn.GRU, which takes cuDNN by itself on a GPU"),
    "CuDNNLSTM": (_RECURRENT, "torch.nn.LSTM, which takes cuDNN by itself on a GPU"),
    "GRU": (_RECURRENT, "torch.nn.GRU"),
    "LSTM": (_RECURRENT, "torch.nn.LSTM"),
    "SimpleRNN": (_RECURRENT, "torch.nn.RNN"),
    "Bidirectional": (_RECURRENT, "torch.nn.LSTM(..., bidirectional=True)"),
    "TimeDistributed": (_RECURRENT, "x.flatten(0, 1) before the layer and unflatten after it"),
    "Masking": (_RECURRENT, "torch.nn.utils.rnn.pack_padded_sequence"),
    "Embedding": ("inputs are images or signals, not words", "torch.nn.Embedding"),
    "Input": ("torch needs no declared input", "the tensor itself"),
    "InputLayer": ("torch needs no declared input", "the tensor itself"),
    "Lambda": ("a function needs no layer", "a torch.nn.Module with that forward"),
    "Permute": ("a function needs no layer", "x.permute(...)"),
    "RepeatVector": ("a function needs no layer", "x[:, None].expand(-1, n, -1)"),
    "ActivityRegularization": ("penalties are part of the loss", "a penalty added to the loss"),
}


def names() -> tuple[str, ...]:
    """The names that `build` knows, in order."""
    return tuple(sorted((*_MAPS, *_ANY)))


def build(name: str, **options: object) -> nn.Module:
    """The layer of that Keras name with Keras's names of options.

    Raises U165 for an unknown name, U166 for a layer of Keras that is out of scope, with what to use instead,
    and BadArgument for an option that the layer lacks, one that is missing, or a value that does not fit.
    """
    if name in OUT_OF_SCOPE:
        why, instead = OUT_OF_SCOPE[name]
        raise ConvworksError("U166", f"the layer {name} is out of scope", why=why, try_=f"use {instead}")
    maker = _MAPS.get(name) or _ANY.get(name)
    if maker is None:
        raise unknown_name("layer", name, (*names(), *OUT_OF_SCOPE), code="U165", try_="build('{near}', ...)")
    given = dict(options)
    last = name in _MAPS and _is_channels_last(given.pop("data_format", "channels_first"))
    _check_options(name, maker, given)
    layer = maker(**given)
    return ChannelsLast(layer) if last else layer


def _is_channels_last(data_format: object) -> bool:
    word = one_of("data_format", str(data_format), ("channels_first", "channels_last"))
    return word == "channels_last"


def _check_options(name: str, maker: Builder, given: dict[str, object]) -> None:
    """All options are known and none is missing."""
    known = inspect.signature(maker).parameters
    shown = ", ".join((*known, "data_format") if name in _MAPS else known) or "none"
    for option, value in given.items():
        if option not in known:
            near = closest(option, known)
            fits = f"{near}={value}" if near else f"the options {shown}"
            raise bad_argument(option, value, why=f"{name} has no such option", fits=fits)
    for option, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and option not in given:
            raise bad_argument(option, None, why=f"{name} needs it", fits=f"the options {shown}")
