"""Section 8, inside the model: its layers, first filters, weights, batch-norm statistics and dead units.

Everything comes from the bundle; dead units and maps need images too, and take some evaluated ones.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.report.activations import Looks, Seen, images_for, look_at, looks, network_input
from convworks.report.pictures import Picture, Thumbnail
from convworks.report.read import Evaluation, RunRecord

if TYPE_CHECKING:
    from torch import nn

    from convworks.bundle import Bundle

MOST_LAYERS = 60  # rows of a table
MOST_FILTERS = 64
IMAGES = 32  # looked at for dead units
BINS = 40
TINY = 0.01  # of the layer's largest |gamma|: such a channel is all but off
WIDE, TALL = 120, 26  # of a histogram


@dataclass(frozen=True, slots=True)
class LayerRow:
    name: str
    kind: str
    window: str
    output: str
    parameters: int
    macs: int
    field: str


@dataclass(frozen=True, slots=True)
class WeightRow:
    name: str
    shape: str
    mean: float
    deviation: float
    low: float
    high: float
    zeros: float  # share of weights that are exactly 0
    bars: str  # the histogram as the data of an SVG path


@dataclass(frozen=True, slots=True)
class NormRow:
    name: str
    channels: int
    gamma: tuple[float, float]  # smallest and largest |gamma|; (1, 1) without
    off: int  # channels with a gamma below TINY of the largest
    mean: tuple[float, float]
    deviation: tuple[float, float]  # roots of the running variances


@dataclass(frozen=True, slots=True)
class DeadRow:
    name: str
    units: int
    dead: int


@dataclass(frozen=True, slots=True)
class Inside:
    layers: tuple[LayerRow, ...]
    all_layers: int
    parameters: int
    macs: int
    widest: str
    filters: Picture | None
    filters_of: str
    weights: tuple[WeightRow, ...]
    all_weights: int
    norms: tuple[NormRow, ...]
    dead: tuple[DeadRow, ...]
    images: int
    looks: Looks | None


def model_of(run: RunRecord) -> Bundle | None:
    """The run's model; None where there is none that can be read."""
    from convworks.bundle import load_bundle

    try:
        return load_bundle(run.path)
    except (ConvworksError, RuntimeError, ValueError):
        return None


def inside(
    bundle: Bundle | None, run: RunRecord, evaluation: Evaluation | None, *, thumbnail: Thumbnail | None
) -> Inside | None:
    """The section; None for a run without a model, or one that cannot be looked into."""
    if bundle is None:
        return None
    try:
        return _inside(bundle, run, evaluation, thumbnail)
    except (ConvworksError, RuntimeError, ValueError):  # a page without this section is better than none
        return None


def _inside(
    bundle: Bundle, run: RunRecord, evaluation: Evaluation | None, thumbnail: Thumbnail | None
) -> Inside:
    shape = bundle.info["input"]
    layers, more = _layers(bundle.network, (shape["channels"], shape["height"], shape["width"]))
    weights = list(_weights(bundle.network))
    picture, of = first_filters(bundle.network)
    seen = look_at(bundle, run, evaluation, thumbnail=thumbnail, most=images_for(more["macs"]))
    dead, images = _dead(bundle, seen)
    return Inside(
        layers=layers,
        filters=picture,
        filters_of=of,
        weights=tuple(weights[:MOST_LAYERS]),
        all_weights=len(weights),
        norms=tuple(_norms(bundle.network))[:MOST_LAYERS],
        dead=dead,
        images=images,
        looks=looks(bundle, seen),
        **more,
    )


def _layers(network: nn.Module, image: tuple[int, int, int]) -> tuple[tuple[LayerRow, ...], dict[str, Any]]:
    """Every layer, or the stages where there are many; and the sums."""
    from convworks import anatomy

    rows = anatomy.trace(network, image)
    total = anatomy.totals(rows)
    seen = [row for row in rows if row.kernel and row.field]
    widest = max(seen, key=lambda row: max(row.field), default=None)
    shown = rows if len(rows) <= MOST_LAYERS else anatomy.stages(rows)
    table = tuple(
        LayerRow(
            name=row.name,
            kind=row.kind,
            window=_sides(row.kernel) + (f" / {_sides(row.stride)}" if row.kernel and row.stride else ""),
            output=_sides(row.output),
            parameters=row.parameters + row.fixed,
            macs=row.macs,
            field=_sides(row.field),
        )
        for row in shown
    )
    words = (
        "" if widest is None else f"{_sides(widest.field)} pixels of {_sides(image[1:])}, in {widest.name}"
    )
    return table, {
        "all_layers": len(rows),
        "parameters": total.parameters + total.fixed,
        "macs": total.macs,
        "widest": words,
    }


def _sides(values: tuple[int, ...]) -> str:
    """'3×3', or '3' for equal sides of a window alone."""
    return "×".join(f"{value:,}" for value in values)


def first_filters(network: nn.Module) -> tuple[Picture | None, str]:
    """The filters of the first convolution on one or three channels, each scaled so that grey is 0."""
    from torch import nn

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().float().cpu().numpy()  # (O, C, kh, kw)
            if weight.shape[1] not in {1, 3} or max(weight.shape[2:]) < 2:
                return None, ""
            shown = weight[:MOST_FILTERS]
            words = f"{len(shown)} of the {len(weight)} filters" if len(shown) < len(weight) else (
                f"The {len(weight)} filters"
            )  # fmt: skip
            size = f"{weight.shape[3]}×{weight.shape[2]}"
            colour = "in colour" if weight.shape[1] == 3 else "in grey"
            return _grid(shown), f"{words} of {name}, {size}, {colour}; middle grey is 0"
    return None, ""


def _grid(weight: NDArray[np.float32]) -> Picture:
    """(O, C, kh, kw) as one small picture, eight in a row, a pixel of white between."""
    from PIL import Image

    count, channels, tall, wide = weight.shape
    across = min(16, count)
    down = -(-count // across)
    sheet = np.full((down * (tall + 1) + 1, across * (wide + 1) + 1, 3), 255, dtype=np.uint8)
    for number, each in enumerate(weight):
        largest = float(np.abs(each).max()) or 1.0
        levels = (127.5 + 127.5 * each / largest).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        top, left = (number // across) * (tall + 1) + 1, (number % across) * (wide + 1) + 1
        sheet[top : top + tall, left : left + wide] = levels if channels == 3 else levels.repeat(3, axis=2)
    times = max(1, 24 // max(tall, wide))
    image = Image.fromarray(sheet.repeat(times, axis=0).repeat(times, axis=1))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, image.width, image.height, pixelated=True)


def _weights(network: nn.Module) -> Iterator[WeightRow]:
    """Every parameter with two axes or more: kernels and matrices."""
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            continue
        values = parameter.detach().double().cpu().numpy().ravel()
        if not values.size:
            continue
        yield WeightRow(
            name=name.removesuffix(".weight"),
            shape="×".join(str(side) for side in parameter.shape),
            mean=float(values.mean()),
            deviation=float(values.std()),
            low=float(values.min()),
            high=float(values.max()),
            zeros=float((values == 0).mean()),
            bars=bars(values),
        )


def bars(values: NDArray[np.float64]) -> str:
    """A histogram from -m to m, m the largest |value|, as the data of a filled path."""
    largest = float(np.abs(values).max()) or 1.0
    counts, _ = np.histogram(values, bins=BINS, range=(-largest, largest))
    heights = TALL * counts / max(counts.max(), 1)
    step = WIDE / BINS
    parts = [
        f"M{i * step:.4g} {TALL}v{-h:.3g}h{step:.4g}v{h:.3g}z" for i, h in enumerate(heights) if h >= 0.05
    ]
    return "".join(parts)


def _norms(network: nn.Module) -> Iterator[NormRow]:
    """Layers with running statistics: batch normalisation."""
    for name, module in network.named_modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if mean is None or variance is None or not mean.numel():
            continue
        gamma = getattr(module, "weight", None)
        sizes = np.ones(mean.numel()) if gamma is None else gamma.detach().abs().double().cpu().numpy()
        spread = variance.detach().double().clamp(min=0).sqrt().cpu().numpy()
        centre = mean.detach().double().cpu().numpy()
        yield NormRow(
            name=name,
            channels=mean.numel(),
            gamma=(float(sizes.min()), float(sizes.max())),
            off=int((sizes < TINY * sizes.max()).sum()),
            mean=(float(centre.min()), float(centre.max())),
            deviation=(float(spread.min()), float(spread.max())),
        )


def _dead(bundle: Bundle, seen: Seen) -> tuple[tuple[DeadRow, ...], int]:
    """Units of rectifiers that were silent for every one of a few evaluated images."""
    from convworks.insight.activations import evenly
    from convworks.insight.health import dead_units

    pixels = [seen.pixels[at] for at in evenly(len(seen.pixels), IMAGES)]
    if not pixels:
        return (), 0
    found = dead_units(bundle.network, network_input(bundle, pixels))
    return tuple(DeadRow(each.name, each.units, each.dead) for each in found)[:MOST_LAYERS], len(pixels)
