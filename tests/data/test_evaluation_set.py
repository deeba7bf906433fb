"""Data for evaluation: classes by name, the right split, and no image left out unseen."""

from __future__ import annotations

from collections import Counter

import pytest

from convworks.data.dataset import Dataset, build_evaluation_set
from convworks.data.sources import Entry, Ignored
from convworks.errors import ConvworksError
from tests.data.fakes import GEOMETRY, FakeSource, photos


def evaluation(source: FakeSource, *classes: str, **options: object) -> Dataset:
    return build_evaluation_set(
        source,
        geometry=GEOMETRY,
        classes=classes,
        cache=None,
        **options,  # type: ignore[arg-type]
    )


def test_classes_are_matched_by_name_in_the_order_of_the_model() -> None:
    files = photos({"cat": 2, "dog": 3, "eel": 1})
    data = evaluation(FakeSource(files), "tulip", "eel", "dog", "cat")
    assert data.classes == ("tulip", "eel", "dog", "cat")
    assert data.labels.tolist() == [3, 3, 2, 2, 2, 1]
    assert data.manifest.count() == {"tulip": 0, "eel": 1, "dog": 3, "cat": 2}
    assert data.manifest.split_rule == "all images"
    assert {sample.split for sample in data.manifest.samples} == {"test"}


def test_a_class_that_the_model_never_saw() -> None:
    source = FakeSource(photos({"cat": 2, "lily": 31, "fir tree": 1}), location="newset/")
    with pytest.raises(ConvworksError) as caught:
        evaluation(source, "cat", "dog")
    problem = caught.value
    assert (problem.code, problem.exit_status) == ("D201", 3)
    assert problem.what == (
        "newset/ has 2 classes the model never saw: 'lily' (31 images), 'fir tree' (1 image)"
    )
    assert problem.where == "model classes: cat, dog ('dog' is missing in newset/: fine, scored as absent)"
    assert problem.try_ == "convworks eval RUN newset/ --ignore-classes lily --ignore-classes 'fir tree'"
    assert source.reads.total() == 0
    data = evaluation(source, "cat", "dog", ignore_classes=("lily", "fir tree"))
    assert len(data.labels) == 2
    assert source.reads.total() == 2
    assert data.manifest.ignored == (
        Ignored("class lily", "31 images to ignore"),
        Ignored("class fir tree", "1 image to ignore"),
    )
    with pytest.raises(ConvworksError, match="did you mean 'lily'"):
        evaluation(source, "cat", ignore_classes=("lilly",))


def test_which_split_is_evaluated() -> None:
    def paths(prefix: list[str], split: str | None) -> tuple[Counter[str], str]:
        data = evaluation(FakeSource(photos({"cat": 2}, prefix=prefix)), "cat", split=split)
        return Counter(sample.split for sample in data.manifest.samples), data.manifest.split_rule

    whole = ["train/", "val/", "test/"]
    assert paths(whole, None) == ({"test": 2}, "the test split as given")
    assert paths(whole, "train") == ({"train": 2}, "the train split as given")
    assert paths(whole, "all") == ({"train": 2, "val": 2, "test": 2}, "all images")
    assert paths(whole[:2], None) == ({"val": 2}, "the val split as given")
    assert paths(whole[:1], None) == ({"train": 2}, "all images")
    with pytest.raises(ConvworksError, match="photos has no split 'test'") as caught:
        paths(whole[:2], "test")
    assert (caught.value.code, caught.value.where) == ("D202", "it has train, val")
    assert caught.value.try_ == "convworks eval RUN photos --split val"
    with pytest.raises(ConvworksError, match="it has no splits: one folder per class") as caught:
        paths([""], "test")


def test_nothing_is_left_out_of_an_evaluation_unseen() -> None:
    files = photos({"cat": 30, "dog": 30})
    files["cat/003.png"] = b""
    with pytest.raises(ConvworksError) as caught:
        evaluation(FakeSource(files), "cat", "dog")
    assert (caught.value.code, caught.value.exit_status) == ("D149", 3)
    assert caught.value.what == "1 of 60 images of photos cannot be read"
    assert caught.value.where.startswith("cat/003.png (")
    assert caught.value.try_ == "convworks eval RUN photos --skip-unreadable"
    data = evaluation(FakeSource(files), "cat", "dog", skip_unreadable=True)
    assert len(data.labels) == 59
    assert [sample.path for sample in data.manifest.left_out] == ["cat/003.png"]
    with pytest.raises(ConvworksError, match="none of 1 images can be read") as caught:
        evaluation(FakeSource({"cat/1.png": b""}), "cat", skip_unreadable=True)
    assert caught.value.code == "D203"
    with pytest.raises(ConvworksError, match="photos has no image to evaluate") as caught:
        evaluation(FakeSource(files), "cat", ignore_classes=("cat", "dog"))
    assert caught.value.code == "D203"


def test_labels_are_required() -> None:
    source = FakeSource(photos({"cat": 3}))
    source.entries = [Entry("a.jpg", None, None)]
    with pytest.raises(ConvworksError, match="'a.jpg' has no label") as caught:
        evaluation(source, "cat")
    assert caught.value.code == "D204"
