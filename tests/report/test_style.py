"""Contrast of the colours in both themes by the formula of WCAG 2.2, and rules for style and script."""

from __future__ import annotations

import re
from importlib import resources

import pytest

FOLDER = resources.files("convworks.report") / "templates"
CSS = (FOLDER / "report.css").read_text(encoding="utf-8")
SCRIPT = (FOLDER / "report.js").read_text(encoding="utf-8")


def themes() -> dict[str, dict[str, str]]:
    light, dark = (
        dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", block)) for block in CSS.split(":root {")[1:3]
    )
    return {"light": light, "dark": {**light, **dark}}


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


SHADES = [f"--{kind}{level}" for kind in "rw" for level in range(1, 7)]
TEXT = [("--ink", "--paper"), ("--ink", "--panel"), ("--muted", "--paper"), ("--muted", "--panel")]
TEXT += [("--accent", "--paper"), ("--accent", "--panel")]
TEXT += [("--on-light" if int(shade[-1]) < 5 else "--on-strong", shade) for shade in SHADES]
GRAPHICS = [("--train", "--paper"), ("--val", "--paper"), ("--note", "--paper"), ("--muted", "--paper")]


def test_the_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT)
def test_text_can_be_read(theme: str, text: str, ground: str) -> None:
    colours = themes()[theme]
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("line", "ground"), GRAPHICS)
def test_lines_can_be_seen(theme: str, line: str, ground: str) -> None:
    colours = themes()[theme]
    assert contrast(colours[line], colours[ground]) >= 3


def test_both_themes_name_the_same_colours() -> None:
    light, dark = (set(re.findall(r"(--[\w-]+): #", block)) for block in CSS.split(":root {")[1:3])
    assert light == dark


def test_every_shade_has_its_text_colour() -> None:
    for shade in SHADES:
        expected = "--on-light" if int(shade[-1]) < 5 else "--on-strong"
        assert f".{shade[2:]} {{ background: var({shade}); color: var({expected}); }}" in CSS


def test_every_variable_is_defined() -> None:
    assert set(re.findall(r"var\((--[\w-]+)\)", CSS)) <= set(themes()["light"])


@pytest.mark.parametrize(
    "word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval", "fetch", "import("]
)
def test_the_script_builds_no_markup_and_asks_for_nothing(word: str) -> None:
    assert word not in SCRIPT


@pytest.mark.parametrize("text", [CSS, SCRIPT])
def test_the_template_engine_finds_nothing_to_do(text: str) -> None:
    assert not re.search(r"\{\{|\{%|\{#|</", text)
