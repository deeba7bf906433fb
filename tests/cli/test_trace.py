"""`convworks trace`: the lecture's exercise in lines and as a page that needs nothing but itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.cli.helpers import run

EXERCISE = ("--weights", "1,.2,-1,.3,.5,-.4", "--input", "1.0,0.1", "--target", "0.5", "--eta", "-0.2")


class Texts(HTMLParser):
    """Tags, texts and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_defaults_are_the_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "trace")
    assert ran.status == 0
    for text in (
        "x2[1] = h(x1[1]) = tanh(1.02) = 0.769867",
        "x2[2] = h(x1[2]) = tanh(-0.97) = -0.748704",
        "= 0.684415",
        "C = ½ |x3 - y|² = ½ (0.684415 - 0.5)² = 0.017004",
        "dC/dw1 = dC/dx1[1] x0[1] = 0.037557 · 1 = 0.037557",
        "= 0.003756",
        "= -0.032416",
        "= -0.003242",
        "= 0.141975",
        "= -0.138072",
        "w ← w + η dE/dw with η = -0.2, which is w ← w - λ dE/dw with λ = 0.2",
        "cost       0.017004 before the update, 0.009707 after it",
        "check      finite differences agree in 8 numbers, worst error",
    ):
        assert text in ran.out, text
    assert run(capsys, "trace", *EXERCISE, "--activation", "tanh", "--layers", "2-2-1").out == ran.out


def test_json_has_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "trace", "--json", "--steps", "2").out)
    first, second = found["iterations"]
    assert first["cost"] == pytest.approx(0.017004, abs=5e-7)
    assert first["cost_after"] == second["cost"] == pytest.approx(0.009707, abs=5e-7)
    assert first["finite_differences"]["ok"] is True
    assert [step["name"] for step in first["steps"]][:3] == ["x1", "x2", "x3"]
    assert found["weights"] == [1, 0.2, -1, 0.3, 0.5, -0.4]


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_other_activations_and_layers(activation: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "trace", "--layers", "6-c3-p2-1", "--activation", activation, "--seed", "4")
    assert ran.status == 0
    assert "finite differences agree in 11 numbers" in ran.out
    assert "max pooling 1" in ran.out
    other = run(capsys, "trace", "--layers", "6-c3-p2-1", "--activation", activation, "--seed", "5")
    assert other.out != ran.out


def test_a_positive_eta_climbs(capsys: pytest.CaptureFixture[str]) -> None:
    costs = re.search(r"cost +([\d.]+) before the update, ([\d.]+)", run(capsys, "trace", "--eta", "0.2").out)
    assert costs is not None
    assert float(costs[2]) > float(costs[1])


def test_the_page_is_complete_and_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "trace", "--html", "trace.html", "--steps", "2")
    assert ran.status == 0
    assert "wrote trace.html" in ran.err
    page = (tmp_path / "trace.html").read_text("utf-8")
    found = Texts(page)
    assert [link for link in found.links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"https?:|url\(|@import|//\w", page.replace("// The page", ""))
    assert "default-src 'none'" in page
    words = " ".join(found.words.split())
    for text in ("0.769867", "0.684415", "0.017004", "-0.138072", "0.992489", "0.009707", "h'(x1[1])"):
        assert text in words
    assert len(re.findall(r'id="step-\d+"', page)) == 22
    assert set(re.findall(r'href="#(step-\d+)"', page)) <= set(re.findall(r'id="(step-\d+)"', page))
    assert 'id="controls" hidden' in page  # without scripts there is nothing to press
    assert page == (run(capsys, "trace", "--html", "again.html", "--steps", "2"), tmp_path / "again.html")[
        1
    ].read_text("utf-8")


def test_a_file_of_another_kind_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.html").write_text("<title>My thesis</title>")
    ran = run(capsys, "trace", "--html", "thesis.html")
    assert ran.status == 2
    assert "error[U006]: thesis.html exists and is not a page that this verb wrote" in ran.err
    assert (tmp_path / "thesis.html").read_text() == "<title>My thesis</title>"
    assert run(capsys, "trace", "--html", "trace.html").status == 0
    assert run(capsys, "trace", "--html", "trace.html").status == 0
    assert run(capsys, "trace", "--html", ".").status == 2
    gone = run(capsys, "trace", "--html", "nowhere/trace.html")
    assert gone.status == 5
    assert "error[R503]: cannot write nowhere/trace.html" in gone.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--weights", "1,2"), "error[U153]: the layers 2-2-1 need 6 weights, 2 given"),
        (("--weights", "1,2,a"), "error[U153]: --weights cannot be '1,2,a': 'a' is no number"),
        (("--weights", "1,nan"), "'nan' is no number"),
        (("--input", "1,,2"), "'' is no number"),
        (("--layers", "2-x"), "error[U152]: the layers '2-x' make no network"),
        (("--activation", "tahn"), "error[U125]: activation = 'tahn' does not fit"),
        (("--steps", "0"), "error[U003]"),
        (("--eta", "x"), "error[U003]"),
    ],
)
def test_mistakes(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "trace", *words)
    assert ran.status == 2
    assert said in ran.err
    assert "try:" in ran.err


def test_what_was_typed_is_escaped(tmp_path: Path) -> None:
    from convworks.insight.trace import build, parse_layers, trace
    from convworks.report.trace import render

    layers = parse_layers("1-1")
    rounds = trace(layers, build(layers, [1.0], activation="tanh"), [1.0], [0.5], eta=-0.2, steps=1)
    page = render({"network": "<script>alert(1)</script>", "input": "\u202e<b>"}, rounds)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\u202e" not in page
    assert Texts(page).tags.count("script") == 1
