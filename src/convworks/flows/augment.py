"""Training images as the network sees them, epoch by epoch, with what was drawn for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from convworks.data.augment import Augment
from convworks.data.augment_draws import draw, in_words
from convworks.data.loader import Batch, Loader
from convworks.data.preprocess import Preprocess
from convworks.errors import ConvworksError
from convworks.flows.prepare import DataRequest, Prepared, prepare_data, training_loader
from convworks.flows.session import StopRequest
from convworks.recipes.recipe import Recipe
from convworks.report.contact_sheet import Tile, draw_sheet
from convworks.training.loop import Numerics

if TYPE_CHECKING:
    from PIL import Image

# Settings that say how another one works, and the one.
QUALIFY = {"border": "shift", "aspect": "area", "elastic_sigma": "elastic", "magnitude": "randaugment"}


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One image in one epoch."""

    epoch: int
    label: str
    pixels: NDArray[np.uint8]  # (H, W, C), the network's input with the normalisation undone
    changes: tuple[str, ...]  # what was drawn, in words
    share: float  # of its own label
    other: str = ""  # path of the image that it was mixed with
    other_label: str = ""

    @property
    def title(self) -> str:
        """'rose', or '0.71 rose + 0.29 daisy' where two are mixed."""
        both = f"{self.share:.2f} {self.label} + {1 - self.share:.2f} {self.other_label}"
        return both if self.other else self.label


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A training image and its views."""

    path: str
    label: str
    stored: NDArray[np.uint8]  # (Hs, Ws, C), as it is kept
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """What augmentation does to some training images."""

    settings: dict[str, Any]  # of the policy, those that are on
    images: tuple[Seen, ...]
    epochs: tuple[int, ...]
    stored: tuple[int, int]
    size: tuple[int, int]

    def policy(self) -> str:
        """'shift 4, flip, area 0.08-1 (aspect 1.33)'."""
        return ", ".join(_setting(key, value) for key, value in self.settings.items()) or "no changes"

    def document(self) -> dict[str, Any]:
        """For programs: everything but the pixels."""
        views = [
            {"path": seen.path, "label": seen.label, "epoch": view.epoch, "changes": list(view.changes)}
            | (
                {"share": view.share, "other": view.other, "other_label": view.other_label}
                if view.other
                else {}
            )
            for seen in self.images
            for view in seen.views
        ]
        return {"policy": self.settings, "stored": self.stored, "input": self.size, "views": views}

    def sheet(self, title: str) -> Image.Image:
        """The stored image on the left, then one column for each epoch."""
        rows = []
        for seen in self.images:
            tiles = [Tile(seen.stored, seen.label, (seen.path,))]
            for view in seen.views:
                lines = view.changes + ((f"with {view.other}",) if view.other else ())
                tiles.append(Tile(view.pixels, view.title, lines))
            rows.append(tiles)
        heads = [f"stored, {self.stored[0]}x{self.stored[1]}", *(f"epoch {e}" for e in self.epochs)]
        notes = [f"augment: {self.policy()}", f"The network sees {self.size[0]}x{self.size[1]} pixels."]
        return draw_sheet(rows, title=title, notes=notes, heads=heads)


def _setting(key: str, value: Any) -> str:
    if value is True:
        return key
    if isinstance(value, (tuple, list)):
        return f"{key} {value[0]:g} to {value[1]:g}"
    return f"{key} {value if isinstance(value, str) else format(value, '.4g')}"


def active_settings(policy: Augment) -> dict[str, Any]:
    """The settings that have an effect, in the order of the fields."""
    values = asdict(policy)
    return {
        key: value
        for key, value in values.items()
        if value not in (0, None, "fill") and values[QUALIFY.get(key, key)]
    }


def preview(
    request: DataRequest,
    recipe: Recipe,
    *,
    count: int,
    epochs: Sequence[int],
    should_stop: StopRequest = lambda: False,
) -> Preview:
    """`count` training images of a source, prepared as training would. Raises D-errors, and U170 to U204."""
    prepared = prepare_data(request, recipe, expected=None, geometry=None, should_stop=should_stop)
    return preview_of(prepared, recipe, count=count, epochs=epochs)


def preview_of(prepared: Prepared, recipe: Recipe, *, count: int, epochs: Sequence[int]) -> Preview:
    """The very pictures that training sees in these epochs: they are made by its loader."""
    dataset = prepared.dataset
    loader = training_loader(prepared, recipe, numerics=Numerics(), workers=0)
    rows = spread(dataset.split_rows("train"), dataset.labels.numpy(), count)
    if len(rows) == 0:
        raise ConvworksError("D158", "there is no training image to show", try_="convworks check DATA")
    views = [_views(prepared, loader, rows, epoch) for epoch in epochs]
    geometry = dataset.geometry
    images = tuple(
        Seen(
            path=dataset.path_of(row),
            label=dataset.classes[int(dataset.labels[row])],
            stored=dataset.images[row].numpy(),
            views=tuple(each[place] for each in views),
        )
        for place, row in enumerate(rows.tolist())
    )
    return Preview(
        settings=active_settings(_policy(loader)),
        images=images,
        epochs=tuple(epochs),
        stored=(geometry.stored_height, geometry.stored_width),
        size=(geometry.height, geometry.width),
    )


def _policy(loader: Loader) -> Augment:
    return loader.augment or Augment()


def _views(prepared: Prepared, loader: Loader, rows: NDArray[np.int64], epoch: int) -> list[View]:
    dataset, geometry, policy = prepared.dataset, prepared.dataset.geometry, _policy(loader)
    stored, size = (geometry.stored_height, geometry.stored_width), (geometry.height, geometry.width)
    batch, mix = loader.batch_of(epoch, rows), loader.mix(epoch, rows)
    pixels = undone(batch, prepared.preprocess)
    draws = draw(policy, seed=loader.seed, epoch=epoch, indices=rows, stored=stored, size=size)
    found = []
    for number in range(len(rows)):
        changes = in_words(policy, draws, number, stored=stored)
        label = dataset.classes[int(dataset.labels[rows[number]])]
        if mix is None:
            found.append(View(epoch, label, pixels[number], changes, 1.0))
            continue
        other = int(mix.partner[number])
        how = "mixup" if mix.blended[number] else _rectangle(mix.rectangles[number])
        found.append(
            View(
                epoch,
                label,
                pixels[number],
                (*changes, how),
                float(mix.share[number]),
                dataset.path_of(other),
                dataset.classes[int(dataset.labels[other])],
            )
        )
    return found


def _rectangle(rectangle: NDArray[np.int64]) -> str:
    top, left, bottom, right = rectangle.tolist()
    return f"CutMix {bottom - top}x{right - left} at {top},{left}"


def undone(batch: Batch, preprocess: Preprocess) -> NDArray[np.uint8]:
    """The network's input (B, C, H, W) as bytes (B, H, W, C), before the normalisation."""
    mean, std = torch.from_numpy(preprocess.mean), torch.from_numpy(preprocess.std)
    levels = 255.0 * (batch.x.float().cpu() * std + mean)
    return np.ascontiguousarray(levels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())


def spread(rows: NDArray[np.int64], labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` different rows: the first of each class, then the second of each, and so on."""
    rows = np.unique(rows)
    kinds = labels[rows]
    turn = np.empty(len(rows), dtype=np.int64)
    for kind in np.unique(kinds):
        turn[kinds == kind] = np.arange(np.count_nonzero(kinds == kind))
    return rows[np.lexsort((kinds, turn))[:count]]


def batch_sheet(prepared: Prepared, recipe: Recipe, *, count: int, epoch: int, title: str) -> Image.Image:
    """`count` training images of one epoch, in a square."""
    found = preview_of(prepared, recipe, count=count, epochs=[epoch])
    tiles = [Tile(each.views[0].pixels, each.views[0].title) for each in found.images]
    across = max(3, int(np.ceil(np.sqrt(len(tiles)))))
    rows = [tiles[start : start + across] for start in range(0, len(tiles), across)]
    return draw_sheet(rows, title=title, notes=[f"augment: {found.policy()}"])
