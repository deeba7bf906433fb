"""Files are whole or absent, in the right order of system calls; hostile JSON is refused."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convworks import durable
from convworks.errors import ConvworksError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
SAME_FOLDER = settings(
    deadline=None, database=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system calls that matter, in order, each with the last part of its path."""
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        real_fsync(handle)

    def replace(source: Path, target: Path) -> None:
        calls.append(f"replace {Path(source).name} {Path(target).name}")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return calls


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name open files")


@needs_proc
def test_the_order_is_write_fsync_replace_fsync_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_calls(monkeypatch)
    durable.write_atomic(tmp_path / "state.json", b"new")
    temporary = calls[0].removeprefix("fsync ")
    assert temporary.startswith(".tmp-")
    assert calls == [f"fsync {temporary}", f"replace {temporary} state.json", f"fsync {tmp_path.name}"]
    assert (tmp_path / "state.json").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["state.json"]


@needs_proc
def test_write_bytes_is_on_the_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_calls(monkeypatch)
    durable.write_bytes(tmp_path / "weights", b"123")
    assert calls == ["fsync weights"]
    assert (tmp_path / "weights").read_bytes() == b"123"


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException, broken: str
) -> None:
    path = tmp_path / "state.json"
    durable.write_atomic(path, b"old")

    def fail(*_arguments: object) -> None:
        raise problem

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(type(problem)):
        durable.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    contents = [bytes([value]) * 200_000 for value in (1, 2)]
    durable.write_atomic(path, contents[0])
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(20):
            durable.write_atomic(path, contents[turn % 2])
    finally:
        done.set()
        reader.join()
    assert seen
    assert all(content in contents for content in seen)


def test_rename_and_replace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    durable.rename(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "y").write_bytes(b"y")
    durable.replace(tmp_path / "x", tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == b"x"


def test_fsync_of_something_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.fsync_file(tmp_path / "nothing")
    durable.fsync_folder(tmp_path)


@SAME_FOLDER
@given(value=JSON_VALUES)
def test_json_round_trip(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(durable.to_json(value))
    assert durable.read_json(path) == value


def test_json_is_sorted_ascii_and_ends_in_a_newline() -> None:
    assert durable.to_json({"b": 1, "a": "\u00e9"}) == b'{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
    assert durable.to_json({"b": 1, "a": 2}, indent=None) == b'{"a": 2, "b": 1}\n'
    assert durable.to_json("\udcff") == b'"\\udcff"\n'  # a file name that is not UTF-8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_hold_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        durable.to_json({"loss": value})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "delimiter"),
        (b'{"a": 1, "a": 2}', "a key is given twice"),
        (b'{"a": {"b": 1, "b": 1}}', "a key is given twice"),
        (b"[NaN]", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b"1" * 5000, "digits"),
    ],
)
def test_bad_json_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with pytest.raises(ConvworksError, match=reason) as caught:
        durable.read_json(path)
    assert caught.value.code == "A401"
    assert caught.value.what.startswith("cannot read recipe.json: ")
    assert caught.value.where == str(path)


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    for name, reason in (("missing.json", "No such file"), (".", "not a regular file")):
        with pytest.raises(ConvworksError, match=reason) as caught:
            durable.read_json(tmp_path / name)
        assert caught.value.exit_status == 4


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(json.dumps("x" * 98).encode())  # 100 bytes
    assert durable.read_json(path, cap=100) == "x" * 98
    with pytest.raises(ConvworksError, match="it has 100 bytes, more than the limit of 99"):
        durable.read_json(path, cap=99)
    with path.open("r+b") as file:
        file.truncate(2**40)  # a hole of a tebibyte, which must not be read
    with pytest.raises(ConvworksError, match="more than the limit"):
        durable.read_json(path)


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_sha256_of_a_file(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert durable.sha256_file(tmp_path / "file") == hashlib.sha256(content[:size]).hexdigest()
