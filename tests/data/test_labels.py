"""Tables of path,label[,split]: every mistake names its row."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from convworks.data.folder import Folder
from convworks.data.labels import open_table
from convworks.data.sources import Source
from convworks.errors import ConvworksError
from tests.data.trees import PNG, failure, left_out, opened, plant, rows, zipped

PLAIN = [("a/1.png", "cat", None), ("a/2.png", "dog", None), ("b/3.png", "cat", None)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plant(tmp_path / "photos", ["a/1.png", "a/2.png", "b/3.png", "c d;e,f.png", "notes.txt"])


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, content: str | bytes) -> Source:
    return opened(table(folder, content))


def mistake(folder: Path, content: str | bytes, code: str) -> str:
    error = failure(table(folder, content), code)
    assert str(folder / "labels.csv") in error.where
    return error.what.removeprefix("labels.csv, ")


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na/1.png,cat\na/2.png,dog\nb/3.png,cat\n",
        "a/1.png,cat\na/2.png,dog\nb/3.png,cat",
        "\ufeffpath,label\r\na/1.png,cat\r\na/2.png,dog\r\nb/3.png,cat\r\n",
        "path;label\na/1.png;cat\na/2.png;dog\nb/3.png;cat\n",
        "Image\tClass\na/1.png\tcat\na/2.png\tdog\nb/3.png\tcat\n",
        "id,category,width,file_name\n7,cat,3,a/1.png\n8,dog,3,a/2.png\n9,cat,3,b/3.png\n",
        '"path","label"\n"a/1.png","cat"\n"a/2.png", "dog"\n"b/3.png","cat"\n',
        "path,label\n\n./a/1.png, cat \na//2.png,dog\n\nb/../b/3.png,cat\n\n",
        "path,label\na\\1.png,cat\na\\2.png,dog\nb\\3.png,cat\n",
        "path,label\na/1.png,cat\na/2.png,dog\nb/3.png,cat\n".encode("utf-16"),
    ],
    ids=["header", "none", "BOM", "semicolon", "tab", "columns", "quotes", "untidy", "backslash", "UTF-16"],
)
def test_ways_to_write_the_same_table(folder: Path, content: str | bytes) -> None:
    source = read(folder, content)
    assert rows(source) == PLAIN
    assert (source.kind, source.name, source.classes) == ("csv", "photos", ("cat", "dog"))
    assert source.warnings == ()
    assert source.read(1) == PNG


def test_layout_in_words(folder: Path) -> None:
    content = "path;class;split\na/1.png;cat;train\na/2.png;dog;train\n"
    assert read(folder, content).layout == (
        "a table of 2 rows, semicolon between columns, labels from the column 'class'"
    )
    assert read(folder, "a/1.png,cat\na/2.png,dog").layout == (
        "a table of 2 rows, comma between columns, no split column"
    )


@pytest.mark.parametrize("header", ["path,label,split\n", "", "split_name,path\n"])
def test_splits(folder: Path, header: str) -> None:
    content = f"{header}a/1.png,cat,Train\na/2.png,dog,valid\nb/3.png,cat,TEST\n"
    if header.startswith("split_name"):
        assert "there is no column 'label'" in mistake(folder, content, "D183")
        return
    source = read(folder, content)
    assert [entry.split for entry in source.entries] == ["train", "val", "test"]
    assert source.warnings == (
        "no image in train of the class 'dog'",
        "no image in val of the class 'cat'",
        "no image in test of the class 'dog'",
    )


def test_a_path_with_delimiters_in_it(folder: Path) -> None:
    for content in ('"c d;e,f.png",cat\na/1.png,dog\n', "a/1.png\tdog\nc d;e,f.png\tcat\n"):
        assert {(path, label) for path, label, _ in rows(read(folder, content))} == {
            ("c d;e,f.png", "cat"),
            ("a/1.png", "dog"),
        }
    assert rows(read(folder, '"c d;e,f.png";cat\na/1.png;dog\n'))[0][:2] == ("c d;e,f.png", "cat")


def test_odd_names(tmp_path: Path) -> None:
    names = ['q"u.png', "new\nline.png", "名.png", " x.png".strip(), "caf\udce9.png"]
    plant(tmp_path, names)
    fields = ['"q""u.png"', '"new\nline.png"', "名.png", "x.png", "caf\udce9.png"]
    lines = [f"{field},{'=cmd()' if i % 2 else '<b>'}" for i, field in enumerate(fields)]
    source = read(tmp_path, "\n".join(lines).encode("utf-8", "surrogateescape"))
    assert [path for path, _, _ in rows(source)] == names
    assert source.classes == ("<b>", "=cmd()")


def test_labels_for_a_folder_or_an_archive(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "tables/mine.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text("path,label\na/1.png,x\na/2.png,y\n")
    source = opened(folder, labels=elsewhere)
    assert rows(source) == [("a/1.png", "x", None), ("a/2.png", "y", None)]
    assert (source.name, source.kind, source.location) == ("photos", "csv", str(folder))
    archive = zipped(tmp_path / "set.zip", {"a/1.png": PNG, "a/2.png": b"second", "z.txt": b""})
    with opened(archive, labels=elsewhere) as source:
        assert rows(source) == [("a/1.png", "x", None), ("a/2.png", "y", None)]
        assert source.read(1) == b"second"
    with pytest.raises(ConvworksError, match="two tables"):
        opened(elsewhere, labels=elsewhere)


def test_absolute_paths_inside_the_folder(folder: Path) -> None:
    content = f"path,label\n{folder}/a/1.png,cat\n{folder}/a/2.png,dog\nb/3.png,cat\n"
    assert rows(read(folder, content)) == PLAIN


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "..\\secret.png"])
def test_paths_outside(folder: Path, path: str) -> None:
    plant(folder.parent, ["secret.png"])
    what = mistake(folder, f"path,label\na/1.png,cat\n{path},dog\n", "D187" if "\\" in path else "D185")
    assert what.startswith(f"row 3: the file '{path}'")


@pytest.mark.parametrize(
    ("content", "code", "what"),
    [
        ("", "D180", "row 1: the table is empty"),
        ("path,label\n", "D180", "row 1: the table has a header and no rows"),
        ("just text\nmore text\n", "D182", "row 1: one column, where path and label are expected"),
        ("path,note\na/1.png,x\n", "D183", "row 1: there is no column 'label' (the columns are path, note)"),
        ("label,note\nx,a/1.png\n", "D183", "row 1: there is no column 'path' (the columns are label, note)"),
        ("path,label\na/1.png,cat\na/2.png\n", "D182", "row 3: 1 column, where 2 are expected"),
        ("path,label\na/1.png,cat\n\na/2.png, \n", "D184", "row 4: 'a/2.png' has no label"),
        ("path,label\n,cat\na/1.png,dog\n", "D185", "row 2: the file '' lies outside the folder"),
        ("path,label\na/1.png,cat\na/9.png,dog\n", "D187", "row 3: the file 'a/9.png' does not exist"),
        ("path,label\na/1.png,cat\na,dog\n", "D187", "row 3: the file 'a' does not exist"),
        ("path,label\na/1.png,cat\na/\0.png,dog\n", "D187", "row 3: the file 'a/\\x00.png' does not exist"),
        ("img_1,cat\nimg_2,dog\n", "D187", "row 1: the file 'img_1' does not exist"),
        (
            "path,label\na/1.png,cat\na/2.png,dog\na/1.png,dog\n",
            "D186",
            "row 4: 'a/1.png' is 'dog' here and 'cat' in row 2",
        ),
        (
            "path,label,split\na/1.png,cat,train\na/2.png,dog,val\n./a/1.png,cat,val\n",
            "D186",
            "row 4: 'a/1.png' is 'val' here and 'train' in row 2",
        ),
        (
            "path,label,split\na/1.png,cat,train\na/2.png,dog,trian\n",
            "D188",
            "row 3: 'trian' is no split: train, val or test",
        ),
        (
            "path,label,split\na/1.png,cat,train\na/2.png,dog,\n",
            "D188",
            "row 3: no split, where other rows have one",
        ),
        (
            'path,label\na/1.png,cat\n"a/2.png,dog\n' + "x" * 140_000,
            "D181",
            "row 3: field larger than field limit (131072): is a quotation mark left open?",
        ),
    ],
)
def test_mistakes(folder: Path, content: str, code: str, what: str) -> None:
    assert mistake(folder, content, code) == what


def test_labels_that_are_not_utf8(folder: Path) -> None:
    what = mistake(folder, b"path,label\na/1.png,caf\xe9\na/2.png,tea\n", "D184")
    assert what == r"row 2: the label 'caf\xe9' is not UTF-8: save the table as UTF-8"


def test_the_same_mistake_in_many_rows_is_counted(folder: Path) -> None:
    lines = [f"gone/{i}.png,cat" for i in range(40)]
    error = failure(table(folder, "path,label\n" + "\n".join(lines)), "D187")
    assert error.what == "labels.csv, row 2: the file 'gone/0.png' does not exist"
    assert error.where.endswith("the same in rows 2, 3, 4, 5, 6 and 35 more")
    assert error.try_ == f"sed -n 2p {folder}/labels.csv"


def test_repeated_rows_are_used_once(folder: Path) -> None:
    source = read(folder, "path,label\na/1.png,cat\na/2.png,dog\na/1.png,cat\n./a/2.png,dog\nb/3.png,cat\n")
    assert rows(source) == PLAIN
    assert source.warnings == ("2 rows of the table repeated: rows 4, 5, used once",)


def test_classes_are_checked_as_in_folders(folder: Path) -> None:
    error = failure(table(folder, "path,label\na/1.png,cat\na/2.png,cat\n"), "D105")
    assert error.why.endswith("each row names the class of one image")
    names = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    failure(table(folder, f"path,label\na/1.png,{names[0]}\na/2.png,{names[1]}\n"), "D107")
    source = read(folder, "path,label\na/1.png,Cat\na/2.png,cat\n")
    assert "differ only in upper and lower case" in source.warnings[0]


def test_a_table_that_is_not_there(folder: Path) -> None:
    error = failure(folder, "D101", labels=folder / "label.csv")
    assert error.what == f"cannot read the table of labels '{folder}/label.csv': no such file or directory"


def test_links_in_the_folder_of_a_table(folder: Path) -> None:
    (folder / "a/self.png").symlink_to("self.png")
    (folder / "a/4.png").symlink_to(folder / "b/3.png")
    assert len(read(folder, "a/1.png,cat\na/4.png,dog\n").entries) == 2
    assert "does not exist" in mistake(folder, "a/1.png,cat\na/self.png,dog\n", "D187")
    assert left_out(read(folder, "a/1.png,cat\na/2.png,dog\n")) == {}


def test_many_rows_are_read_without_a_look_at_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bytes] = []
    monkeypatch.setattr("os.path.isfile", looks.append)
    container = Folder(tmp_path)  # as if it had 100 folders of 1,000 files
    container._names = {str(c): {f"{i}.jpg" for i in range(1000)} for c in range(100)}
    lines = [f"{c}/{i}.jpg,class {c}" for c in range(100) for i in range(1000)]
    path = table(tmp_path, "path,label\n" + "\n".join(lines))
    source = open_table(path, container, location="x", name="x")
    assert len(source.entries) == 100_000
    assert len(looks) < 5  # for what may be a header
