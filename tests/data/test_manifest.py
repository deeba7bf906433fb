"""The manifest survives any file name and any damage, and says what changed in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.data import manifest as module
from convworks.data.manifest import Manifest, Sample
from convworks.data.sources import Ignored
from convworks.errors import ConvworksError

SHA = "ab" * 32


def sample(path: str = "cat/a.jpg", **changes: object) -> Sample:
    values: dict[str, object] = {
        "path": path,
        "label": "cat",
        "split": "train",
        "sha256": SHA,
        "verdict": "ok",
        "pixels": "0f" * 16,
        "height": 12,
        "width": 34,
        "channels": 3,
        "notes": ("cmyk",),
    }
    return Sample(**{**values, **changes})  # type: ignore[arg-type]


def manifest(*samples: Sample, classes: tuple[str, ...] = ("cat", "dog")) -> Manifest:
    return Manifest(
        name="photos",
        location="./photos",
        kind="folder",
        layout="one folder per class",
        classes=classes,
        samples=samples,
        ignored=(Ignored("Thumbs.db", "left by Windows"),),
        warnings=("one", "two"),
        seed=7,
        split_rule="80/20 train/val",
    )


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=()), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(path=NAMES, raw=st.binary(min_size=1, max_size=20), label=NAMES, notes=st.lists(NAMES, max_size=3))
def test_round_trip_of_any_name(
    tmp_path_factory: pytest.TempPathFactory, path: str, raw: bytes, label: str, notes: list[str]
) -> None:
    file = tmp_path_factory.mktemp("manifest") / "manifest.jsonl"
    bad_bytes = raw.decode("utf-8", "surrogateescape")  # as the file system gives names that are not UTF-8
    was = manifest(
        sample(path, label=label, notes=tuple(notes)),
        sample(bad_bytes, label=None, split="", sha256="", verdict=path),
        classes=(label,),
    )
    was.save(file)
    assert file.read_bytes().isascii()
    assert len(file.read_bytes().splitlines()) == 3
    now = Manifest.load(file)
    assert now == was
    assert now.sha256 == was.sha256
    assert now.samples[1].path.encode("utf-8", "surrogateescape") == raw


def test_lines_are_json_that_names_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "manifest.jsonl"
    manifest(sample()).save(file)
    header, row = (json.loads(line) for line in file.read_text().splitlines())
    assert (header["format"], header["samples"], header["classes"]) == (1, 1, ["cat", "dog"])
    assert dict(zip(header["columns"], row, strict=True)) == {
        "path": "cat/a.jpg",
        "label": "cat",
        "split": "train",
        "sha256": SHA,
        "verdict": "ok",
        "pixels": "0f" * 16,
        "height": 12,
        "width": 34,
        "channels": 3,
        "notes": ["cmyk"],
    }


@pytest.mark.parametrize(
    "change", [{"path": "x"}, {"label": "dog"}, {"split": "val"}, {"sha256": "cd" * 32}, {"verdict": "cut"}]
)
def test_sha256_is_that_of_the_data(change: dict[str, str]) -> None:
    assert manifest(sample()).sha256 != manifest(sample(**change)).sha256


def test_sha256_leaves_out_what_is_not_the_data() -> None:
    was = manifest(sample())
    other = replace(was, location="/elsewhere", warnings=(), seed=1, samples=(sample(pixels="", notes=()),))
    assert other.sha256 == was.sha256
    assert replace(was, classes=("dog", "cat")).sha256 != was.sha256
    # Two fields cannot be moved into one another.
    assert manifest(sample("a", split="b")).sha256 != manifest(sample("ab", split="")).sha256


def test_count_and_left_out() -> None:
    bad = sample("cat/bad.jpg", verdict="cut off", split="")
    found = manifest(sample("cat/a.jpg"), sample("dog/b.jpg", label="dog", split="val"), bad)
    assert found.count() == {"cat": 1, "dog": 1}
    assert found.count("train") == {"cat": 1, "dog": 0}
    assert found.left_out == (bad,)


def test_difference_in_words() -> None:
    before = manifest(*(sample(name) for name in ("a", "b", "c", "d", "e\udce9\n", "same")))
    after = manifest(
        sample("a", sha256="cd" * 32),
        sample("b", label="dog"),
        sample("c", split="val"),
        sample("e\udce9\n", sha256="", verdict="permission denied", split=""),
        sample("same", pixels="other", notes=()),
        sample("new"),
        classes=("dog", "emu"),
    )
    assert before.difference(after) == [
        "class removed: cat",
        "class added: emu",
        "changed: a",
        "label: b was cat, is dog",
        "split: c was train, is val",
        "removed: d",
        "changed: e\\xe9\\n (was ok, is permission denied)",
        "added: new",
    ]
    assert before.difference(before) == []
    assert manifest(classes=("a", "b")).difference(manifest(classes=("b", "a"))) == [
        "classes: in another order"
    ]


def test_a_path_listed_twice_is_compared_twice() -> None:
    twice = manifest(sample("a"), sample("a", label="dog"))
    assert twice.difference(twice) == []
    assert twice.difference(manifest(sample("a"))) == ["removed: a"]


def test_require_same_lists_the_first_five() -> None:
    before = manifest(*(sample(f"{number}.jpg") for number in range(9)))
    before.require_same(before)
    with pytest.raises(ConvworksError) as caught:
        before.require_same(manifest(*before.samples[7:]))
    assert caught.value.code == "D145"
    assert caught.value.exit_status == 3
    assert caught.value.what == "the data changed since the run began: 7 differences"
    assert caught.value.where == (
        "removed: 0.jpg; removed: 1.jpg; removed: 2.jpg; removed: 3.jpg; removed: 4.jpg; and 2 more"
    )
    with pytest.raises(ConvworksError, match="another order"):
        before.require_same(manifest(*before.samples[::-1]))


def broken(number: int, change: object) -> list[str]:
    """The lines of a good manifest, one value of line `number` changed."""
    lines = [
        {
            "format": 1, "columns": list(module.COLUMNS), "samples": 1, "name": "n", "location": "l",
            "kind": "k", "layout": "y", "classes": ["cat"], "ignored": [["a", "b"]], "warnings": ["w"],
            "seed": 0, "split_rule": "r",
        },
        ["a", "cat", "train", SHA, "ok", "", 1, 2, 3, []],
    ]  # fmt: skip
    if isinstance(change, tuple):
        lines[number][change[0]] = change[1]  # type: ignore[index]
    else:
        lines[number] = change  # type: ignore[call-overload]
    return [line if isinstance(line, str) else json.dumps(line) for line in lines]


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, "", "line 1"),
        (0, [], "names no format"),
        (0, ("format", True), "names no format"),
        (0, ("format", 0), "other keys"),
        (0, ("extra", 1), "other keys"),
        (0, ("samples", 2), "it has 1 samples, the first line says 2"),
        (0, ("samples", "1"), "wrong kind"),
        (0, ("classes", ["cat", "cat"]), "wrong kind"),
        (0, ("classes", [["cat"]]), "wrong kind"),
        (0, ("classes", "cat"), "wrong kind"),
        (0, ("ignored", [["a"]]), "wrong kind"),
        (0, ("warnings", [1]), "wrong kind"),
        (0, ("seed", 1.5), "wrong kind"),
        (0, ("name", None), "wrong kind"),
        (0, ("columns", ["path"]), "wrong kind"),
        (0, '{"format": 1, "format": 1}', "given twice"),
        (0, "[" * 100_000, "line 1"),
        (1, "[" * 100_000, "line 2"),
        (1, "9" * 10_000, "line 2"),
        (1, {"path": "a"}, "list of 10 values"),
        (1, [], "list of 10 values"),
        (1, (0, 5), "a text is missing"),
        (1, (1, "dog"), "label 'dog'"),
        (1, (1, ["cat"]), "label"),
        (1, (2, "holdout"), "split 'holdout'"),
        (1, (3, "xyz"), "64 hexadecimal digits"),
        (1, (4, None), "a text is missing"),
        (1, (6, -1), "whole number"),
        (1, (6, True), "whole number"),
        (1, (7, 1e9), "whole number"),
        (1, (8, 2**40), "whole number"),
        (1, (9, "note"), "a text is missing"),
        (1, (9, [1]), "a text is missing"),
    ],
)
def test_damaged_manifests_are_refused(tmp_path: Path, number: int, change: object, message: str) -> None:
    file = tmp_path / "manifest.jsonl"
    file.write_text("\n".join(broken(number, change)) + "\n")
    with pytest.raises(ConvworksError, match=message) as caught:
        Manifest.load(file)
    assert caught.value.code == "A441"
    assert caught.value.exit_status == 4


def test_the_unbroken_example_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "manifest.jsonl"
    file.write_text("\n".join(broken(0, ("seed", 3))) + "\n")
    assert Manifest.load(file).seed == 3


def test_cut_off_empty_newer_large_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "manifest.jsonl"
    manifest(sample(), sample("b")).save(file)
    whole = file.read_bytes()

    def code(content: bytes) -> str:
        file.write_bytes(content)
        with pytest.raises(ConvworksError) as caught:
            Manifest.load(file)
        return caught.value.code

    assert {code(whole[:end]) for end in range(len(whole))} == {"A441"}
    file.write_bytes(whole[:-1])
    with pytest.raises(ConvworksError, match="it is cut off"):
        Manifest.load(file)
    assert code(b"\xff\xfe\n") == "A441"
    assert code(b'{"format": 2, "anything": []}\n') == "A442"
    monkeypatch.setattr(module, "CAP", len(whole) - 1)
    assert code(whole) == "A440"
    file.unlink()
    with pytest.raises(ConvworksError, match="A440"):
        Manifest.load(file)


def test_saving_replaces_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "manifest.jsonl"
    manifest(sample()).save(file)
    whole = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.durable, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        manifest(sample("other")).save(file)
    assert file.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]
