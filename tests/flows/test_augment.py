"""The preview shows the pictures of training; every augmentation trains, stops and resumes to the bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convworks as cw
from convworks.data.augment import Augment
from convworks.data.store import Probe
from convworks.errors import ConvworksError
from convworks.flows.augment import active_settings, preview, preview_of, spread, undone
from convworks.flows.events import Finished
from convworks.flows.prepare import (
    DataRequest,
    Prepared,
    choose_geometry,
    prepare_data,
    stored_side,
    training_loader,
)
from convworks.recipes.recipe import AugmentSpec, Recipe
from convworks.recipes.resolve import resolve
from convworks.training.loop import Numerics

from .helpers import fingerprint, resume_all, train_all, train_until, write_images

pytestmark = pytest.mark.usefixtures("no_pages")

EVERYTHING: dict[str, Any] = {
    "augment.shift": 1,
    "augment.flip": True,
    "augment.rotate": 10.0,
    "augment.scale_jitter": (28, 40),
    "augment.lighting": 0.3,
    "augment.brightness": 0.2,
    "augment.contrast": 0.2,
    "augment.saturation": 0.2,
    "augment.hue": 0.1,
    "augment.elastic": 20.0,
    "augment.randaugment": 2,
    "augment.cutout": 6,
    "augment.mixup": 0.3,
    "augment.cutmix": 1.0,
}


MIRRORED: dict[str, Any] = {"shift": 2, "border": "mirror"}


def recipe(**changes: Any) -> Recipe:
    flags = {
        key if "." in key or hasattr(Recipe(), key) else f"augment.{key}": v for key, v in changes.items()
    }
    return resolve(base=Recipe(model="tutorial_cnn", size=28), base_name="test", flags=flags).recipe


def prepared(work: Path, wanted: Recipe) -> Prepared:
    data = work / "images"
    if not data.exists():
        write_images(data, each=8)
    request = DataRequest(location=str(data), cache=work / "cache")
    return prepare_data(request, wanted, expected=None, geometry=None, should_stop=lambda: False)


# Every setting reaches the loader


def test_a_recipe_and_a_policy_have_the_same_settings() -> None:
    from dataclasses import asdict

    assert asdict(AugmentSpec()) == asdict(Augment())


def test_the_training_loader_has_the_recipes_policy(tmp_path: Path) -> None:
    wanted = recipe(**EVERYTHING, batch=4)
    loader = training_loader(prepared(tmp_path, wanted), wanted, numerics=Numerics(), workers=0)
    assert loader.augment == Augment(**{k.removeprefix("augment."): v for k, v in EVERYTHING.items()})
    assert loader.lighting is not None


# The preview


@pytest.mark.parametrize(
    "changes",
    [{}, {"mixup": 0.4}, {"cutmix": 1.0}, {"area": (0.08, 1.0), "aspect": 2.0}, MIRRORED, EVERYTHING],
)
def test_the_pictures_are_those_of_training(tmp_path: Path, changes: dict[str, Any]) -> None:  # fmt: skip
    wanted = recipe(**changes, batch=5, seed=3)
    data = prepared(tmp_path, wanted)
    found = preview_of(data, wanted, count=7, epochs=[2, 3])
    loader = training_loader(data, wanted, numerics=Numerics(), workers=0)
    rows = {data.dataset.path_of(row): row for row in data.dataset.split_rows("train")}
    for place, epoch in enumerate((2, 3)):
        seen = {}
        for batch in loader.epoch(epoch):
            seen |= dict(zip(batch.rows.tolist(), undone(batch, data.preprocess), strict=True))
        for image in found.images:
            np.testing.assert_array_equal(image.views[place].pixels, seen[rows[image.path]])
    assert len(found.images) == 7
    assert {image.label for image in found.images} == {"blue", "green", "red"}


def test_without_changes_the_normalisation_is_undone_exactly(tmp_path: Path) -> None:
    for normalize in ("per-channel", "per-feature", "mean-image", "none"):
        wanted = recipe(normalize=normalize)
        data = prepared(tmp_path, wanted)
        found = preview_of(data, wanted, count=5, epochs=[0])
        for image in found.images:
            np.testing.assert_array_equal(image.views[0].pixels, image.stored)
        assert found.policy() == "no changes"


def test_what_was_drawn_is_said(tmp_path: Path) -> None:
    wanted = recipe(**EVERYTHING)
    data = prepared(tmp_path, wanted)
    found = preview_of(data, wanted, count=4, epochs=[0])
    view = found.images[0].views[0]
    text = ", ".join(view.changes)
    for word in (
        "S=",
        "turned",
        "elastic 20",
        "brightness x",
        "contrast x",
        "saturation x",
        "hue",
        "PCA",
        "hidden",
    ):
        assert word in text
    assert view.other
    assert view.title == f"{view.share:.2f} {view.label} + {1 - view.share:.2f} {view.other_label}"
    kinds = {
        v.changes[-1].split()[0]
        for image in preview_of(data, wanted, count=12, epochs=[0]).images
        for v in image.views
    }
    assert kinds == {"mixup", "CutMix"}  # fmt: skip
    assert found.settings.keys() == {k.removeprefix("augment.") for k in EVERYTHING} | {
        "elastic_sigma",
        "magnitude",
    }
    document = found.document()
    assert document["views"][0]["share"] == view.share
    area = preview_of(data, recipe(area=(0.08, 1.0)), count=1, epochs=[0]).images[0].views[0]
    assert "% of the area" in area.changes[0]


def test_settings_that_do_nothing_are_not_named() -> None:
    assert active_settings(Augment(aspect=2.0, magnitude=3.0, border="mirror")) == {}
    assert active_settings(Augment(shift=2, border="mirror")) == {"shift": 2, "border": "mirror"}
    assert active_settings(Augment(area=(0.1, 1.0), aspect=2.0)) == {"area": (0.1, 1.0), "aspect": 2.0}


def test_rows_are_spread_over_the_classes() -> None:
    rows, labels = np.array([9, 3, 3, 4, 8, 1]), np.array([0, 2, 0, 1, 1, 0, 0, 0, 1, 0])
    assert spread(rows, labels, 4).tolist() == [9, 3, 1, 4]
    assert sorted(spread(rows, labels, 99).tolist()) == [1, 3, 4, 8, 9]


def test_a_preview_of_a_source(tmp_path: Path) -> None:
    write_images(tmp_path / "images", each=8)
    request = DataRequest(location=str(tmp_path / "images"), cache=tmp_path / "cache")
    found = preview(request, recipe(shift=2), count=3, epochs=[0, 1])
    sheet = found.sheet("a title")
    assert isinstance(sheet, Image.Image)
    with pytest.raises(ConvworksError) as caught:
        preview(request, recipe(scale_jitter=(8, 20)), count=3, epochs=[0])
    assert caught.value.code == "U200"


def test_the_same_from_python(tmp_path: Path) -> None:
    write_images(tmp_path / "images", each=8)
    data = cw.Data.from_folder(tmp_path / "images", size=16, cache=tmp_path / "cache", augment__mixup=0.2)
    first = data.show_batch(count=9)
    assert first.mode == "RGB"
    assert np.asarray(first).shape == np.asarray(data.show_batch(count=9)).shape
    assert (np.asarray(first) != np.asarray(data.show_batch(count=9, epoch=1).resize(first.size))).any()
    still = data.show_batch(count=4, policy=AugmentSpec())
    assert still.height < data.show_augment(count=4, epochs=[0, 1]).height


# At which size images are kept


@pytest.mark.parametrize(
    ("spec", "size", "native", "stored"),
    [
        (AugmentSpec(), 224, 500, 224),
        (AugmentSpec(scale_jitter=(256, 512)), 224, 500, 384),
        (AugmentSpec(scale_jitter=(256, 480)), 224, 500, 368),
        (AugmentSpec(scale_jitter=(256, 512)), 224, 300, 300),
        (AugmentSpec(scale_jitter=(36, 48)), 32, 32, 32),
        (AugmentSpec(area=(0.08, 1.0)), 224, 500, 256),
        (AugmentSpec(area=(0.08, 1.0)), 32, 20, 32),
    ],
)
def test_random_scales_are_cut_from_larger_images(
    spec: AugmentSpec, size: int, native: int, stored: int
) -> None:
    """The middle of VGG's range is the scale Q of its tests, and nothing is enlarged before it is kept."""
    assert stored_side(spec, size=size, native=native) == stored
    probe = Probe(channels=3, size=None, median_size=(native, native + 9))
    wanted = Recipe(model="resnet18", size=size, augment=spec)
    assert choose_geometry(wanted, probe).stored_height == stored
    given = Recipe(model="resnet18", size=size, stored=size + 1, augment=spec)
    assert choose_geometry(given, probe).stored_height == size + 1


# Training


SINGLE = [{key: value} for key, value in EVERYTHING.items()] + [{"augment.area": (0.08, 1.0)}]


@pytest.mark.parametrize("changes", [*SINGLE, EVERYTHING], ids=lambda c: "-".join(c)[:24])
def test_every_augmentation_trains_and_is_on_or_off(tmp_path: Path, changes: dict[str, Any]) -> None:
    """One epoch with and without: the first loss differs, so the setting has an effect."""
    data = write_images(tmp_path / "images", each=8)
    losses = []
    for number, extra in enumerate(({}, changes)):
        events = train_all(tmp_path, data, name=f"r{number}", epochs=1, **{"augment.shift": 0, **extra})
        assert any(isinstance(event, Finished) for event in events)
        losses.append((tmp_path / "runs" / f"r{number}" / "metrics.jsonl").read_text().splitlines()[0])
    assert losses[0] != losses[1]


@pytest.mark.usefixtures("with_page")
def test_a_stopped_run_with_everything_ends_with_the_same_bits(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", each=12)
    train_all(tmp_path, data, name="whole", **EVERYTHING)
    wanted = fingerprint(tmp_path, "whole")
    for asked in (1, 3, 5):
        name = f"stopped-{asked}"
        train_until(tmp_path, data, asked, name=name, **EVERYTHING)
        assert not (tmp_path / "runs" / name / "finished.json").exists()
        resume_all(tmp_path, name)
        assert fingerprint(tmp_path, name) == wanted


def test_batch_threads_do_not_change_a_bit(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", each=8)
    found = []
    for workers in (0, 2):
        train_all(tmp_path, data, name=f"w{workers}", workers=workers, epochs=1, **EVERYTHING)
        found.append(fingerprint(tmp_path, f"w{workers}"))
    assert found[0] == found[1]


def test_combinations_of_two_fit_together(tmp_path: Path) -> None:
    """Every pair of changes makes batches without a failure, on colour and on one pixel's margin."""
    base = prepared(tmp_path, recipe())
    for one, two in itertools.combinations([*EVERYTHING, "augment.area"], 2):
        if {one, two} == {"augment.scale_jitter", "augment.area"}:
            continue
        values = {**EVERYTHING, "augment.area": (0.08, 1.0)}
        wanted = recipe(**{one: values[one], two: values[two]}, batch=8)
        batch = next(training_loader(base, wanted, numerics=Numerics(), workers=0).epoch(0))
        assert batch.x.isfinite().all()
