"""Numbers and tables as people read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from convworks.cli.text import block, clock, count, duration, folder, fraction, magnitude, table


@pytest.mark.parametrize(
    ("seconds", "about", "exact"),
    [
        (0.44, "0.4 s", "0:00"),
        (48.2, "48 s", "0:48"),
        (99.6, "2 min", "1:40"),
        (25 * 60, "25 min", "25:00"),
        (3 * 3600 + 600, "3 h 10 min", "3:10:00"),
        (5 * 86400, "5 days", "120:00:00"),
        (-1.0, "0.0 s", "0:00"),
    ],
)
def test_time(seconds: float, about: str, exact: str) -> None:
    assert (duration(seconds), clock(seconds)) == (about, exact)


def test_counts_and_sizes() -> None:
    assert [count(n, "image") for n in (0, 1, 1195)] == ["0 images", "1 image", "1,195 images"]
    assert (count(2, "class"), count(2, "entry")) == ("2 classes", "2 entries")
    assert [magnitude(n) for n in (840, 269_722, 11_181_642)] == ["840", "269.7 k", "11.2 M"]
    assert (fraction(0.5), fraction(None)) == ("0.500", "-")


def test_a_block_is_indented_under_its_label() -> None:
    assert block("I found", "one two three", width=20) == ["I found    one two", "           three"]


def test_a_table_has_straight_columns() -> None:
    rows = [("class", "n"), ("a", "10"), ("bcd", "7")]
    assert table(rows, right=(1,)) == ["class   n", "a      10", "bcd     7"]
    assert table([("a", "x " * 20)], width=30) == ["a  " + "x " * 13 + "x", "   x x x x x x"]
    assert table([]) == []


def test_folders_below_the_current_one_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder(tmp_path / "runs" / "a") == "runs/a"
    assert folder(Path("runs/a")) == "runs/a"
    assert folder(Path("/elsewhere")) == "/elsewhere"
