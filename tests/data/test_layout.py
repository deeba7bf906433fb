"""What is understood of a list of files, with the messages word by word."""

from __future__ import annotations

import unicodedata

import pytest

from convworks.data.layout import Found, understand
from convworks.data.recognise import has_image_signature, junk_reason, suffix_of
from convworks.data.sources import Listing, natural_key
from convworks.errors import ConvworksError
from tests.data.trees import PNG, picture


def no_head(path: str) -> bytes:
    raise AssertionError(f"{path} must not be opened")


def understood(*files: str, folders: tuple[str, ...] = (), keep_empty: bool = False) -> Listing:
    every = {f.rpartition("/")[0] for f in files} | set(folders)
    parents = {"/".join(f.split("/")[:n]) for f in every for n in range(1, f.count("/") + 2)} - {""}
    found = Found(files=list(files), folders=sorted(parents))
    return understand(found, location="photos/", head=no_head, keep_empty=keep_empty)


def labels(listing: Listing) -> list[tuple[str | None, str | None]]:
    return [(entry.label, entry.split) for entry in listing.entries]


def error(*files: str, folders: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConvworksError) as caught:
        understood(*files, folders=folders)
    return str(caught.value)


def test_class_folders_without_splits() -> None:
    listing = understood("rose/10.jpg", "rose/2.JPEG", "daisy/a b.png")
    assert [e.path for e in listing.entries] == ["daisy/a b.png", "rose/2.JPEG", "rose/10.jpg"]
    assert labels(listing) == [("daisy", None), ("rose", None), ("rose", None)]
    assert listing.classes == ("daisy", "rose")
    assert listing.layout == "one folder per class, no split folders"
    assert listing.warnings == ()


def test_deeper_folders_belong_to_the_first_level() -> None:
    listing = understood("cat/2019/a.jpg", "cat/b.jpg", "dog/x/y/z.jpg")
    assert labels(listing) == [("cat", None), ("cat", None), ("dog", None)]
    assert listing.layout.endswith("; deeper folders belong to the class they lie in")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("val", "val"),
        ("valid", "val"),
        ("VALIDATION", "val"),
        ("dev", "val"),
        ("Test", "test"),
        ("testing", "test"),
    ],
)
def test_split_folders_in_any_case(name: str, split: str) -> None:
    listing = understood(f"{name}/cat/1.jpg", f"{name}/dog/1.jpg")
    assert labels(listing) == [("cat", split), ("dog", split)]


def test_all_three_splits_in_words() -> None:
    files = [f"{s}/{c}/1.jpg" for s in ("test", "train", "valid") for c in ("a", "b")]
    assert understood(*files).layout == "one folder per class in train/, valid/, test/"


def test_train_and_test_have_no_validation_folder() -> None:
    listing = understood("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg")
    assert listing.layout == "one folder per class in train/, test/, no validation folder"


def test_two_folders_for_one_split() -> None:
    assert error("train/a/1.jpg", "val/a/1.jpg", "valid/b/1.jpg") == (
        "error[D106]: 2 folders stand for the split 'val': 'val', 'valid'\n"
        "  where: photos/\n"
        "  why:   using one of them, or both as one, would change every number without saying so\n"
        "  try:   mv photos/valid valid-unused"
    )


def test_an_empty_validation_folder_is_no_second_one() -> None:
    listing = understood(
        "train/a/1.jpg", "train/b/1.jpg", "valid/a/1.jpg", "valid/b/1.jpg", folders=("val", "val/a")
    )
    assert labels(listing)[-1] == ("b", "val")


def test_a_class_called_train() -> None:
    listing = understood("train/1.jpg", "car/1.jpg", "bus/1.jpg")
    assert listing.classes == ("bus", "car", "train")
    assert listing.warnings == (
        "the folder 'train' is taken for a class, since 'bus', 'car' beside it cannot be a split",
    )


def test_splits_beside_another_folder() -> None:
    listing = understood("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg", "more/x.jpg")
    assert [e.split for e in listing.entries] == ["test", "test", "train", "train"]
    assert [item.path for item in listing.ignored] == ["more/x.jpg"]
    assert listing.warnings == (
        "one image lies outside the class folders ('more/x.jpg'): without a label, left out",
    )


def test_unlabelled_test_images_are_left_out_loudly() -> None:
    listing = understood("train/a/1.jpg", "train/b/1.jpg", "test/1.jpg", "test/2.jpg")
    assert [e.split for e in listing.entries] == ["train", "train"]
    assert listing.layout == "one folder per class in train/, no validation folder"
    assert listing.warnings[0].startswith("2 images lie outside the class folders")


def test_one_folder_around_everything_is_looked_through() -> None:
    listing = understood("set/data/cat/1.jpg", "set/data/dog/1.jpg")
    assert listing.classes == ("cat", "dog")
    assert listing.layout == "one folder per class, no split folders (inside set/data/)"
    listing = understood("set/train/cat/1.jpg", "set/test/cat/1.jpg", "set/train/dog/1.jpg")
    assert {e.split for e in listing.entries} == {"train", "test"}


def test_a_class_beside_an_empty_one_is_no_wrapper() -> None:
    with pytest.raises(ConvworksError, match="only one class: 'cat'"):
        understood("cat/2019/1.jpg", "cat/2020/1.jpg", folders=("dog",))


def test_empty_class_folder() -> None:
    listing = understood("cat/1.jpg", "dog/1.jpg", folders=("lynx", "cat/empty"))
    assert listing.classes == ("cat", "dog")
    assert listing.warnings == ("no image in the class folder 'lynx': left out (--keep-empty keeps it)",)
    listing = understood("cat/1.jpg", "dog/1.jpg", folders=("lynx",), keep_empty=True)
    assert listing.classes == ("cat", "dog", "lynx")
    assert listing.warnings == ()


def test_empty_class_folder_below_splits() -> None:
    files = ("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg")
    listing = understood(*files, folders=("train/c", "val"))
    assert listing.warnings == ("no image in the class folder 'c': left out (--keep-empty keeps it)",)


def test_a_class_that_a_split_lacks() -> None:
    listing = understood("train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "test/a/1.jpg", "test/d/1.jpg")
    assert listing.warnings == (
        "no image in test of the class 'b', 'c'",
        "no image in train of the class 'd'",
    )


def test_one_class() -> None:
    assert error("cat/1.jpg", "cat/2.jpg") == (
        "error[D105]: photos/ has only one class: 'cat'\n"
        "  why:   a classifier learns the difference between classes, so it needs two or more; "
        "each class is a folder of its own\n"
        "  try:   convworks train digits"
    )


def test_no_image() -> None:
    assert error("cat/a.txt", "b.pdf", "c.txt") == (
        "error[D103]: there is no image in photos/\n"
        "  where: found and left out: 2 x not an image (.txt); 1 x not an image (.pdf)\n"
        "  why:   expected one folder of images per class, such as cat/1.jpg and dog/2.jpg\n"
        "  try:   convworks train digits"
    )
    assert "it is empty" in error()


def test_images_without_folders() -> None:
    assert error("1.jpg", "2.jpg") == (
        "error[D104]: photos/ has 2 images and no class folders\n"
        "  where: for example 1.jpg\n"
        "  why:   labels are the names of folders, such as cat/1.jpg and dog/2.jpg, "
        "or come from a table of path,label\n"
        "  try:   convworks train photos/ --labels labels.csv"
    )
    assert "train/cat/1.jpg" in error("train/1.jpg", "test/2.jpg")


def test_stray_images_beside_class_folders() -> None:
    listing = understood("cover.jpg", "cat/1.jpg", "dog/1.jpg")
    assert [item.path for item in listing.ignored] == ["cover.jpg"]
    assert "cover.jpg" in listing.warnings[0]


def test_the_same_name_in_two_unicode_forms() -> None:
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    message = error(f"{names[0]}/1.jpg", f"{names[1]}/1.jpg", "tea/1.jpg")
    assert message.startswith("error[D107]: two classes are both called 'café'")
    assert r"'caf\xe9'" in message
    assert r"'cafe\u0301'" in message


def test_names_that_differ_in_case_only() -> None:
    listing = understood("Cat/1.jpg", "cat/1.jpg")
    assert len(listing.classes) == 2
    assert listing.warnings == ("the classes 'Cat', 'cat' differ only in upper and lower case",)


def test_class_names_in_natural_order() -> None:
    names = ["10", "9", "1", "=cmd()", "<img src=x onerror=y>", "été", "名", "a b", "Zebra"]
    assert understood(*[f"{n}/1.jpg" for n in names]).classes == tuple(sorted(names, key=natural_key))
    assert understood(*[f"{n}/1.jpg" for n in range(1, 12)]).classes == tuple(map(str, range(1, 12)))


def test_order_does_not_depend_on_the_order_of_the_files() -> None:
    files = [f"{c}/{i}.jpg" for c in ("b", "a") for i in range(12)]
    assert understood(*files) == understood(*files[::-1])


def test_unknown_endings_are_judged_by_their_first_bytes() -> None:
    heads = {"cat/1": PNG[:32], "dog/2.img": picture(form="JPEG")[:32], "dog/3": b"hello"}
    found = Found(files=[*heads, "cat/2.tar"], folders=["cat", "dog"])
    listing = understand(found, location="x", head=heads.__getitem__)
    assert labels(listing) == [("cat", None), ("dog", None)]
    reasons = {item.path: item.reason for item in listing.ignored}
    assert reasons == {"dog/3": "not an image", "cat/2.tar": "not an image (.tar)"}


def test_a_file_that_cannot_be_opened_is_listed() -> None:
    def head(path: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    found = Found(files=["a/1.jpg", "b/1.jpg", "b/2"], folders=["a", "b"])
    listing = understand(found, location="x", head=head)
    assert [(item.path, item.reason) for item in listing.ignored] == [("b/2", "permission denied")]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_signatures(form: str) -> None:
    assert has_image_signature(picture(form=form)[:32])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"BM",
        b"BM" + bytes(5) + b"x" + bytes(6) + b"(",
        b"BMW is a car, and no picture of it.",
        b"RIFF1234WAVE",
        b"%PDF",
    ],
)
def test_no_signature(head: bytes) -> None:
    assert not has_image_signature(head)


def test_junk_and_suffixes() -> None:
    for name in (".ipynb_checkpoints", "__MACOSX", ".DS_Store", "Thumbs.db", "@eaDir", ".git", "desktop.ini"):
        assert junk_reason(name), name
    for name in ("cat", "thumbs", "a.db", "macosx"):
        assert junk_reason(name) is None, name
    assert [suffix_of(p) for p in ("a/b.JPG", "a.b/c", "a/.png", "x.tar.gz")] == ["jpg", "", "", "gz"]
