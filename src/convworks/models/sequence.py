"""Networks for sequences: characters of a text, and time series.

Both take a sequence as an image of one row, (N, C, 1, L), with a map for each character or sensor.

X. Zhang, J. Zhao, Y. LeCun, "Character-level convolutional networks for text classification", NIPS 2015:
Tables 1 and 2, section 2.3 (70 characters, 1014 of them, in reverse order) and 2.4 (dropout of half of the
units after the two dense layers, initial weights). `char_cnn_small` and `char_cnn_large` are its columns.
The length in front of the first dense layer is (L - 96) / 27, as printed: 34 of 1014.

Z. Wang, W. Yan, T. Oates, "Time series classification from scratch with deep neural networks: a strong
baseline", IJCNN 2017, section II-B: `series_fcn`, the fully convolutional network of 128, 256 and 128 maps
with kernels of 8, 5 and 3, batch norm, and the mean over time. Series of any length fit.

Deviations of char_cnn_small and char_cnn_large: none known. Biases begin at 0, which is not printed. The list
of characters has the hyphen twice, as printed, so that one of the 70 maps is always 0.
Deviations of series_fcn: none known. Not printed: zeros around the series so that its length stays, and
torch's own initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convworks.layers import Conv1d, stage
from convworks.models.fit import Window, smallest_side
from convworks.models.registry import misfit, register

CHAR_CNN = "Zhang, Zhao, LeCun 2015, Character-level convolutional networks for text classification"
SERIES_FCN = "Wang, Yan, Oates 2017, Time series classification from scratch with deep neural networks"
# Section 2.2: 26 letters, 10 digits, 33 other characters and the new line.
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{}\n"


class Row(NamedTuple):
    """A row of Table 1; the width comes from the column."""

    layer: int
    kernel: int
    pool: int | None


class Column(NamedTuple):
    """The "large" or "small" column of Tables 1 and 2, and the deviation of its normal initial weights."""

    features: int
    units: int
    std: float


# Table 1: layer, kernel, pool.
# fmt: off
TABLE_1 = (
    Row(1, 7, 3),
    Row(2, 7, 3),
    Row(3, 3, None),
    Row(4, 3, None),
    Row(5, 3, None),
    Row(6, 3, 3),
)
# Tables 1 and 2: feature, output units of layers 7 and 8; section 2.4: initial weights.
COLUMNS = {
    "char_cnn_large": Column(1024, 2048, std=0.02),
    "char_cnn_small": Column( 256, 1024, std=0.05),
}
# fmt: on


def one_hot(text: str, *, length: int = 1014) -> Tensor:
    """(70, 1, length) of zeros and ones: column t is the t-th character from the end of the text.

    Letters are taken in lower case; a blank and what is not in `ALPHABET` is a column of zeros. Of a longer
    text the first `length` characters count, as for the paper, whose order "is backward so that the latest
    reading on characters is always placed near the begin of the output".
    """
    rows = {character: row for row, character in enumerate(ALPHABET)}
    image = torch.zeros(len(ALPHABET), 1, length)
    for t, character in enumerate(reversed(text[:length].lower())):
        if character in rows:
            image[rows[character], 0, t] = 1
    return image


def final_length(
    name: str, input_size: tuple[int, int], windows: Sequence[Window], *, channels: int, published: int
) -> int:
    """Steps that are left of a sequence after all windows.

    Raises U122 for an image of more than one row, and for a sequence that is too short, with the layer at
    which it breaks.
    """
    height, length = input_size
    fits = f"1xL, one row, with L from {smallest_side(windows)} on"
    try_ = f"convworks show {name} --input 1x{published}x{channels}"  # a square image is no sequence
    if height != 1:
        why = "it reads a sequence, which is an image of one row"
        raise misfit(name, input_size, why=why, fits=fits, size=published, try_=try_)
    for window in windows:
        before, length = length, window.output(length)
        if length < 1:
            why = f"{window.layer} looks at {window.kernel} steps, and {before} are left"
            raise misfit(name, input_size, why=why, fits=fits, size=published, try_=try_)
    return length


def char_cnn(
    column: Column,
    *,
    name: str,
    num_classes: int = 10,
    in_channels: int = len(ALPHABET),
    input_size: tuple[int, int] = (1, 1014),
) -> nn.Sequential:
    """A column of Tables 1 and 2, for (1, L) with L from 123 on. Raises U122 for another size."""
    stages: dict[str, nn.Module] = {"text": nn.Flatten(start_dim=2)}  # (N, 70, 1014)
    windows: list[Window] = []
    c_in = in_channels
    for row in TABLE_1:
        parts: dict[str, nn.Module] = {
            "conv": nn.Conv1d(c_in, column.features, row.kernel),
            "relu": nn.ReLU(),
        }
        windows += [Window(f"conv{row.layer}", row.kernel)]
        if row.pool:
            parts["pool"] = nn.MaxPool1d(row.pool)
            windows += [Window(f"the pooling after conv{row.layer}", row.pool, row.pool)]
        stages[f"conv{row.layer}"] = stage(**parts)
        c_in = column.features
    steps = final_length(name, input_size, windows, channels=in_channels, published=1014)  # 34
    net = stage(
        **stages,
        fc7=stage(
            flatten=nn.Flatten(),
            linear=nn.Linear(column.features * steps, column.units),
            relu=nn.ReLU(),
            dropout=nn.Dropout(p=0.5),
        ),
        fc8=stage(linear=nn.Linear(column.units, column.units), relu=nn.ReLU(), dropout=nn.Dropout(p=0.5)),
        fc9=nn.Linear(column.units, num_classes),
    )
    for layer in net.modules():
        if isinstance(layer, nn.Conv1d | nn.Linear):
            nn.init.normal_(layer.weight, std=column.std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def series_fcn(
    *, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (1, 128)
) -> nn.Sequential:
    """Three convolutions and the mean over time, for (1, L) of any length. Raises U122 for more rows."""
    final_length("series_fcn", input_size, (), channels=in_channels, published=128)

    def block(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
        conv = Conv1d(c_in, c_out, kernel, padding="tf_same")
        return stage(conv=conv, bn=nn.BatchNorm1d(c_out), relu=nn.ReLU())

    return stage(
        series=nn.Flatten(start_dim=2),  # (N, C, L)
        conv1=block(in_channels, 128, 8),  # (N, 128, L)
        conv2=block(128, 256, 5),  # (N, 256, L)
        conv3=block(256, 128, 3),  # (N, 128, L)
        pool=stage(mean=nn.AdaptiveAvgPool1d(1), flatten=nn.Flatten()),  # (N, 128)
        output=nn.Linear(128, num_classes),
    )


for _name, _column in COLUMNS.items():
    register(
        partial(char_cnn, _column, name=_name),
        name=_name,
        source=CHAR_CNN,
        summary=f"text, a map for each character: six convolutions of {_column.features}, three dense layers",
    )
register(
    series_fcn,
    source=SERIES_FCN,
    summary="time series, one map for each sensor: three convolutions and the mean over time",
)
