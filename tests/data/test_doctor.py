"""Every kind of problem that the doctor knows, planted among made-up pictures, and none where nothing is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convworks.data import doctor as module
from convworks.data.doctor import Diagnosis
from tests.data.defects import NEAR, jpeg, plant_defects
from tests.data.doctor_proof import look, named, pairs
from tests.data.test_doctor_near import photograph

FREE_OF = (
    *module.NOTES,
    "unreadable",
    "too-large",
    "blank",
    "near-blank",
    "tiny",
    "long",
    "huge",
    "exact",
)


def scenes(root: Path, folders: tuple[str, ...], *, each: int = 22, seed: int = 0) -> Path:
    """Different pictures of 200x150 pixels as JPEG files in every folder."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            image = photograph(seed + 1000 * number + i)
            (root / folder / f"{i:03d}.jpg").write_bytes(jpeg(image))
    return root


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("clean") / "photos", ("cat", "dog"))


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    target = tmp_path / "photos"
    shutil.copytree(clean, target)
    return target


def check(folder: Path) -> Diagnosis:
    return look(folder, folder.parent / "cache")


def test_a_clean_set_raises_no_alarm(clean: Path) -> None:
    assert [problem.kind for problem in check(clean).problems] == []


def test_every_planted_kind_is_found(folder: Path) -> None:
    planted = plant_defects(folder, sorted((folder / "cat").glob("*.jpg")), folder / "dog")
    diagnosis = check(folder)
    assert len(planted) >= 12
    for kind, paths in planted.items():
        assert paths <= named(diagnosis, kind), kind
    originals = {f"cat/{n:03d}.jpg" for n in (11, 12, 13)}
    every = set().union(*planted.values()) | originals
    for kind in FREE_OF:
        extra = named(diagnosis, kind) - every
        assert not extra, kind
    unreadable = diagnosis.problem("unreadable")
    assert unreadable is not None
    reasons = {diagnosis.entries[item.images[0]].path: item.note for item in unreadable.items}
    assert reasons["cat/zz-cut.jpg"].startswith("cut off")
    assert reasons["cat/zz-page.jpg"] == "an HTML page, not an image"
    assert reasons["cat/zz-empty.png"] == "empty file"


def test_copies_across_splits_and_labels(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("train/cat", "train/dog", "test/cat", "test/dog"), each=12)
    shutil.copy(folder / "train/cat/000.jpg", folder / "test/cat/copy.jpg")
    random = np.random.default_rng(0)
    near = NEAR["resized"](Image.open(folder / "train/dog/001.jpg"), random)
    (folder / "test/dog/near.jpg").write_bytes(near)
    torn = NEAR["recompressed"](Image.open(folder / "train/cat/002.jpg"), random)
    (folder / "train/dog/torn.jpg").write_bytes(torn)
    diagnosis = check(folder)
    assert pairs(diagnosis, "leak") == {frozenset(("test/cat/copy.jpg", "train/cat/000.jpg"))}
    assert pairs(diagnosis, "near-leak") == {frozenset(("test/dog/near.jpg", "train/dog/001.jpg"))}
    assert pairs(diagnosis, "near-conflict") == {frozenset(("train/cat/002.jpg", "train/dog/torn.jpg"))}
    for kind in ("leak", "near-leak", "near-conflict"):
        problem = diagnosis.problem(kind)
        assert problem is not None
        assert problem.look
        assert problem.advice
    number = {entry.path: int(diagnosis.groups[i]) for i, entry in enumerate(diagnosis.entries)}
    assert number["test/cat/copy.jpg"] == number["train/cat/000.jpg"]
    assert number["test/dog/near.jpg"] == number["train/dog/001.jpg"]
    assert len(set(number.values())) == len(number) - 3


def test_a_near_copy_of_an_exact_copy_joins_its_group(folder: Path) -> None:
    shutil.copy(folder / "cat/000.jpg", folder / "cat/copy.jpg")
    near = NEAR["brightened"](Image.open(folder / "cat/000.jpg"), np.random.default_rng(0))
    (folder / "cat/near.jpg").write_bytes(near)
    diagnosis = check(folder)
    groups = {entry.path: int(diagnosis.groups[i]) for i, entry in enumerate(diagnosis.entries)}
    assert len({groups[f"cat/{name}.jpg"] for name in ("000", "copy", "near")}) == 1
    exact, near_problem = diagnosis.problem("exact"), diagnosis.problem("near")
    assert exact is not None
    assert near_problem is not None
    assert (exact.count, near_problem.count) == (1, 1)


def test_content_in_the_border_only_is_not_blank(folder: Path) -> None:
    """The store keeps the middle square: what is empty there is decoded before it is called blank."""
    pixels = np.full((60, 240, 3), 200, np.uint8)
    pixels[:, :40] = np.random.default_rng(0).integers(0, 256, (60, 40, 3))
    Image.fromarray(pixels).save(folder / "cat" / "border.png")
    diagnosis = check(folder)
    assert not named(diagnosis, "blank") | named(diagnosis, "near-blank")


def test_classes_few_empty_and_imbalance(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=20)
    scenes(folder, ("fox",), each=4, seed=9000)
    diagnosis = check(folder)
    few, imbalance = diagnosis.problem("few"), diagnosis.problem("imbalance")
    assert few is not None
    assert imbalance is not None
    assert [item.note for item in few.items] == ["fox"]
    assert (imbalance.title, imbalance.count) == ("class imbalance 5.0 : 1", 4)


def test_one_size_one_image_one_pixel(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("L", (1, 1), 7 if label == "a" else 9).save(tmp_path / "photos" / label / "1.png")
    diagnosis = check(tmp_path / "photos")
    assert named(diagnosis, "tiny") == {"a/1.png", "b/1.png"}
    assert named(diagnosis, "blank") == {"a/1.png", "b/1.png"}
    assert named(diagnosis, "near") == set()
