"""What the maps of a network do over many images: the maps themselves, which images excite a unit most, how
alike the maps are, and how sparse.

One pass with hooks, batch by batch, in which every layer is reduced to a few numbers for each image at once,
so that memory does not grow with the images. Afterwards the network is as it was. A unit is one map: its
places share their weights. Source: lectures, "Visualize features (feature maps need to be uncorrelated) and
have high variance", "Good training: hidden units are sparse across samples and across features"; Zeiler,
Fergus, "Visualizing and understanding convolutional networks", ECCV 2014 (the nine images of a unit).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from convworks import anatomy
from convworks.anatomy import Row
from convworks.insight.health import unchanged

SEED = 0  # of networks that draw in evaluation too
GRID = 32  # places along a side that correlations are taken from
ALIKE = 0.9  # |r| of two maps that say nearly the same
ROUNDING = 1e-12  # of the mean square
COPY = 0.999  # |r| of a map that is another one again
DEAF = (
    0.01  # of the root mean square: so little do the maps of a unit that ignores the input vary over images
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapLayer:
    """A layer that gives maps (channels, height, width), and what one place of them sees of the image."""

    name: str
    call: int  # which of its calls in one pass, from 0
    channels: int
    height: int
    width: int
    field: tuple[int, ...] = ()  # rows and columns of the input; empty where it is not known
    jump: tuple[float, ...] = ()
    centre: tuple[float, ...] = ()

    def window(self, place: int, size: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns of an image of `size` that place `i * width + j` sees.

        A window that is larger than the image becomes the whole image; any other keeps its size, and may
        begin before the image or end behind it.
        """
        if not self.field:
            return slice(0, size[0]), slice(0, size[1])
        rows, columns = (
            slice(0, side) if seen >= side else slice(first, first + seen)
            for side, seen, first in (
                (side, seen, round(centre - (seen - 1) / 2 + at * jump))
                for side, seen, jump, centre, at in zip(
                    size, self.field, self.jump, self.centre, divmod(place, self.width), strict=True
                )
            )
        )
        return rows, columns


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """One layer over N images. The response of a unit to an image is the mean |value| of its map."""

    layer: MapLayer
    largest: Tensor  # (N, C) of each map
    place: Tensor  # (N, C) where that is, i * width + j; the first of equal ones
    response: Tensor  # (N, C)
    smallest: float  # of all maps
    variance: Tensor  # (C,) over images and places, float64
    power: Tensor  # (C,) mean square over images and places, float64
    over_images: Tensor  # (C,) variance over the images at one place, mean over the places, float64
    correlation: Tensor  # (C, C) of the maps over images and places, float64; NaN beside a constant map
    examples: Tensor  # (E, c, H, W) the first maps of the first images


def map_layers(network: nn.Module, image: tuple[int, int, int]) -> list[MapLayer]:
    """The layers whose maps are worth a look, in the order of the pass: about one for each convolution.

    Of a convolution and what follows it up to the next multiplying layer, the last output is taken, so the
    one after normalisation, sum and activation; pooling at the end is left out. So are maps of one place, and
    the end of a branch that waits for another one: the sum of both comes later.
    """
    groups: list[list[tuple[int, int]]] = []  # numbers of rows, and which call of its layer each is
    calls: Counter[str] = Counter()
    rows = anatomy.trace(network, image)
    for number, row in enumerate(rows):
        if not row.output:
            continue
        call, calls[row.name] = calls[row.name], calls[row.name] + 1
        if row.macs or not groups:
            groups.append([])
        groups[-1].append((number, call))
    found = []
    for group in groups:
        maps = [each for each in group if _are_maps(rows[each[0]])]
        while maps and rows[maps[-1][0]].kernel and not rows[maps[-1][0]].macs:  # pooling
            maps.pop()
        if maps and _read_next(rows, maps[-1][0]):
            found.append(_layer(rows[maps[-1][0]], maps[-1][1]))
    return found


def _are_maps(row: Row) -> bool:
    return len(row.output) == 3 and row.output[1] * row.output[2] > 1


def _read_next(rows: Sequence[Row], number: int) -> bool:
    """Whether the layer that runs next reads this one, or nothing is known of what it reads."""
    following = rows[number + 1].sources if number + 1 < len(rows) else ()
    return not following or number in following


def _layer(row: Row, call: int) -> MapLayer:
    channels, height, width = row.output
    return MapLayer(
        name=row.name,
        call=call,
        channels=channels,
        height=height,
        width=width,
        field=row.field,
        jump=row.jump,
        centre=row.centre,
    )


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of range(count), the first and the last among them, at equal distances."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return [(2 * i * (count - 1) + most - 1) // (2 * (most - 1)) for i in range(most)]


@dataclass(slots=True)
class _Sums:
    """What is kept of a layer while the batches go by."""

    largest: list[Tensor] = field(default_factory=list)
    place: list[Tensor] = field(default_factory=list)
    response: list[Tensor] = field(default_factory=list)
    examples: list[Tensor] = field(default_factory=list)
    smallest: float = float("inf")
    count: int = 0
    shift: Tensor | None = None  # near the mean, so that squares stay small
    first: Tensor | None = None  # (C,) sums of value - shift
    second: Tensor | None = None  # (C, C) sums of products of these
    places: Tensor | None = None  # (C, HW) sums over the images
    squares: Tensor | None = None  # (C,) sums of squares

    def add(self, maps: Tensor, *, examples: int, channels: int) -> None:
        maps = maps.float() if maps.itemsize < 4 else maps
        left = examples - sum(len(each) for each in self.examples)
        if left > 0:
            self.examples.append(maps[:left, :channels].clone())
        flat = maps.flatten(2)  # (B, C, HW)
        largest, place = flat.max(dim=2)
        self.largest.append(largest)
        self.place.append(place)
        self.response.append(flat.abs().mean(dim=2))
        self.smallest = min(self.smallest, float(flat.min()))
        exact = flat.double()
        places, squares = exact.sum(dim=0), exact.square().sum(dim=(0, 2))
        self.places = places if self.places is None else self.places + places
        self.squares = squares if self.squares is None else self.squares + squares
        rows, columns = (slice(None, None, -(-side // GRID)) for side in maps.shape[2:])
        values = maps[:, :, rows, columns].movedim(1, 0).flatten(1).double()
        if self.shift is None:
            self.shift = values.mean(dim=1, keepdim=True)
        values = values - self.shift
        first, second = values.sum(dim=1), values @ values.T
        self.first = first if self.first is None else self.first + first
        self.second = second if self.second is None else self.second + second
        self.count += values.shape[1]

    def done(self, layer: MapLayer) -> Activations:
        assert self.first is not None and self.second is not None and self.shift is not None  # noqa: PT018
        assert self.places is not None and self.squares is not None  # noqa: PT018
        largest = torch.cat(self.largest)
        mean = self.first / self.count
        covariance = self.second / self.count - mean[:, None] * mean
        variance = covariance.diagonal().clamp(min=0)
        size = self.second.diagonal() / self.count + self.shift[:, 0].square()
        # what rounding leaves of a constant map is no variance
        variance = torch.where(variance > ROUNDING * size, variance, torch.zeros_like(variance))
        deviation = torch.where(variance > 0, variance.sqrt(), torch.full_like(variance, torch.nan))
        images, places = len(largest), self.places.shape[1]
        power = self.squares / (images * places)
        over_images = (power - (self.places / images).square().mean(dim=1)).clamp(min=0)
        return Activations(
            layer=layer,
            largest=largest,
            place=torch.cat(self.place),
            response=torch.cat(self.response),
            smallest=self.smallest,
            variance=variance,
            power=power,
            over_images=over_images,
            correlation=(covariance / deviation[:, None] / deviation).clamp(-1, 1),
            examples=torch.cat(self.examples) if self.examples else largest.new_empty(0),
        )


def record_maps(
    network: nn.Module,
    batches: Iterable[Tensor],
    layers: Sequence[MapLayer],
    *,
    examples: int = 0,
    channels: int = 0,
) -> list[Activations]:
    """Every layer of `layers` over all images of the batches (B, C, H, W), in evaluation mode.

    Of the first `examples` images the first `channels` maps are kept whole. Correlations are taken from at
    most 32 x 32 places of a map, at equal distances. Training flags, hooks, buffers, gradients and torch's
    generators are afterwards as before. Raises ValueError where there is no image.
    """
    sums = [_Sums() for _ in layers]
    wanted = {(layer.name, layer.call): at for at, layer in enumerate(layers)}
    calls: Counter[str] = Counter()

    def keep(name: str, output: Any) -> None:
        call, calls[name] = calls[name], calls[name] + 1
        while isinstance(output, tuple | list):
            output = output[0]
        if (name, call) in wanted:
            sums[wanted[name, call]].add(output.detach(), examples=examples, channels=channels)

    modules = dict(network.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in dict.fromkeys(layer.name for layer in layers)
    ]
    images = 0
    try:
        with unchanged(network, training=False), torch.no_grad():
            torch.manual_seed(SEED)
            for batch in batches:
                calls.clear()
                network(batch)
                images += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not images:
        raise ValueError("maps are recorded of at least one image")
    return [each.done(layer) for each, layer in zip(sums, layers, strict=True)]


def top_images(found: Activations, unit: int, *, count: int = 9) -> list[int]:
    """The images that excite a unit most, by the largest value of its map; of equal ones the first.

    Images that leave a rectified unit at 0 do not excite it.
    """
    values = found.largest[:, unit]
    order = torch.sort(values, descending=True, stable=True).indices[:count].tolist()
    return [int(image) for image in order if found.smallest < 0 or values[image] > 0]


def live_units(found: Activations) -> list[int]:
    """The units whose largest value is not the same for all images."""
    spread = found.largest.amax(dim=0) > found.largest.amin(dim=0)
    return [int(unit) for unit in spread.nonzero().flatten()]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapHealth:
    """Shares from 0 to 1; None where fewer than two images, or fewer than two maps that vary, allow none."""

    maps: int
    constant: int  # maps with the same value everywhere, mostly 0
    alike: float | None  # of the pairs of maps that vary, those with |r| >= ALIKE
    copies: int  # maps with |r| >= COPY to an earlier one
    deaf: int | None  # units that ignore the input
    over_images: float | None  # mean sparseness of a unit over the images
    over_units: float | None  # mean sparseness of an image over the units


def map_health(found: Activations) -> MapHealth:
    """How far the maps are what good training gives: uncorrelated, varying, sparse in both ways.

    A unit ignores the input where the values of its map, place by place, deviate over the images by at most a
    hundredth of their root mean square; so also where they are always 0.
    """
    vary = found.variance > 0
    size = found.correlation[vary][:, vary].abs()
    above = torch.triu(torch.ones_like(size, dtype=torch.bool), diagonal=1)
    pairs = int(above.sum())
    response = found.response.double()
    several = len(response) > 1
    deaf = found.over_images <= DEAF**2 * found.power
    return MapHealth(
        maps=len(vary),
        constant=int((~vary).sum()),
        alike=float((size[above] >= ALIKE).double().mean()) if pairs else None,
        copies=int(((size >= COPY) & above).any(dim=0).sum()),
        deaf=int(deaf.sum()) if several else None,
        over_images=_mean(sparseness(response.T)) if several else None,
        over_units=_mean(sparseness(response)) if response.shape[1] > 1 else None,
    )


def sparseness(response: Tensor) -> Tensor:
    """(1 - (mean r)^2 / mean r^2) / (1 - 1/n) for each row of n responses r >= 0; NaN for a row of zeros.

    0 where all are equal, 1 where a single one is not 0. Source: Vinje, Gallant, "Sparse coding and
    decorrelation in primary visual cortex during natural vision", Science 287, 2000, after Rolls and Tovee.
    """
    r = response.double()
    n = r.shape[1]
    return (1 - r.mean(dim=1).square() / r.square().mean(dim=1)) / (1 - 1 / n)


def _mean(values: Tensor) -> float | None:
    kept = values[~values.isnan()]
    return float(kept.mean()) if len(kept) else None
