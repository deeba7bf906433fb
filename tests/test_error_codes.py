"""The table of error codes and the sources say the same; the page is made from the table."""

from __future__ import annotations

import re
from pathlib import Path

from convworks.error_codes import CODES, markdown
from convworks.errors import EXIT_STATUS

ROOT = Path(__file__).parent.parent


def used_codes() -> set[str]:
    files = (ROOT / "src" / "convworks").rglob("*.py")
    text = "\n".join(path.read_text() for path in files if path.name not in {"error_codes.py"})
    return set(re.findall(r'"([UDARN]\d{3})"', text))


def test_every_code_has_a_meaning_and_a_use() -> None:
    assert used_codes() - CODES.keys() == set()
    assert CODES.keys() - used_codes() == set()


def test_letters_have_an_exit_status() -> None:
    assert {code[0] for code in CODES} == EXIT_STATUS.keys()


def test_meanings_differ() -> None:
    assert len(set(CODES.values())) == len(CODES)


def test_the_page_is_the_table() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == markdown()
