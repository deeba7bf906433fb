"""Flags come before environment variables, and those before the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from convworks import environment


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONVWORKS_DATA", "CONVWORKS_CACHE", "CONVWORKS_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")


def test_the_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.data_root(None) is None
    monkeypatch.setenv("CONVWORKS_DATA", "~/data")
    assert environment.data_root(None) == Path("/home/ada/data")
    assert environment.data_root(Path("here")) == Path("here")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.cache_folder(None) == Path("/home/ada/.cache/convworks")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert environment.cache_folder(None) == Path("/home/ada/.cache/convworks")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert environment.cache_folder(None) == Path("/xdg/convworks")
    monkeypatch.setenv("CONVWORKS_CACHE", "/own")
    assert environment.cache_folder(None) == Path("/own")
    assert environment.cache_folder(Path("flag")) == Path("flag")


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("yes", True), ("0", False), ("", False), ("Off", False)]
)
def test_offline(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("CONVWORKS_OFFLINE", value)
    assert environment.is_offline(False) is expected
    assert environment.is_offline(True) is True


def test_the_flows_read_no_environment() -> None:
    package = Path(environment.__file__).parent
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    # the one reader, the verb that explains the variables, and what hands a part of them to a child process
    children = {"weights/pth.py", "exercises/grade.py", "ops/native/build.py"}
    assert readers <= {"environment.py", "flows/doctor.py", "threads.py"} | children
