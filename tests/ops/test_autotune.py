"""Measuring once, remembering, and never choosing what is not clearly faster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from convworks.ops import autotune, convolution
from convworks.ops.algorithms import library, named
from convworks.ops.algorithms.window import Window
from convworks.ops.autotune import Choices, best_of, candidates, fastest, problem

SAME3 = Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> Choices:
    own = Choices()
    monkeypatch.setattr(autotune, "CHOICES", own)
    return own


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was measured; always the same times, in which lowering wins all but the forward pass."""
    asked: list[str] = []

    def measure(part: str, *_: object) -> dict[str, float]:
        asked.append(part)
        return {"library": 1.0, "lowering": 2.0 if part == "forward" else 0.5}

    monkeypatch.setattr(autotune, "measure", measure)
    monkeypatch.setattr(autotune, "confirmed", lambda *_: True)
    return asked


def test_measures_each_shape_once(choices: Choices, measured: list[str]) -> None:
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3, requires_grad=True)
    for _ in range(3):
        convolution.convolve(x, w, algorithm="auto")
    assert measured == ["forward", "weight_gradient"]
    convolution.convolve(x[..., :5], w, algorithm="auto")
    assert len(measured) == 4


def test_each_pass_has_its_own_winner(choices: Choices, measured: list[str]) -> None:
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    chosen = fastest(x, w, SAME3, passes=autotune.PASSES)
    assert chosen.name == "library, lowering, lowering"


def test_a_forward_pass_that_won_alone_is_not_mixed_into_an_unconfirmed_training(
    choices: Choices, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "measure", lambda *_: {"library": 1.0, "direct": 0.5})
    monkeypatch.setattr(autotune, "confirmed", lambda names, x, w, window, passes: passes == ("forward",))
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    assert choices.names(x, w, SAME3, ("forward",)) == {"forward": "direct"}
    assert set(choices.names(x, w, SAME3, autotune.PASSES).values()) == {"library"}


def test_without_gradients_the_backward_passes_are_not_measured(
    choices: Choices, measured: list[str]
) -> None:
    with torch.no_grad():
        convolution.convolve(
            torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3, requires_grad=True), algorithm="auto"
        )
    assert measured == ["forward"]


def test_what_is_not_confirmed_is_the_librarys(
    choices: Choices, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "confirmed", lambda *_: False)
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    assert fastest(x, w, SAME3, passes=autotune.PASSES).name == "library"


@pytest.mark.parametrize(("ours", "is_confirmed"), [(0.5, True), (0.97, False), (2.0, False)])
def test_a_choice_is_confirmed_by_all_passes_together(
    monkeypatch: pytest.MonkeyPatch, ours: float, is_confirmed: bool
) -> None:
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    names = dict.fromkeys(autotune.PASSES, "lowering")
    ran: list[str] = []

    def run(part: str, each: named.Algorithm, *_: object) -> Callable[[], Tensor]:
        def pass_() -> Tensor:
            ran.append(each.name)
            return x

        return pass_

    def seconds(run: Callable[[], Tensor], like: Tensor, repeats: int = 1) -> float:
        ran.clear()
        run()
        return len(ran) * (ours if ran[0].startswith("lowering") else 1.0)

    monkeypatch.setattr(autotune, "_run", run)
    monkeypatch.setattr(autotune, "_seconds", seconds)
    assert autotune.confirmed(names, x, w, SAME3, autotune.PASSES[:2]) is is_confirmed


def test_the_librarys_gradients_count_as_the_one_call_that_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    calls: list[str] = []
    whole = library.gradients
    monkeypatch.setattr(library, "gradients", lambda *args: (calls.append("both"), whole(*args))[1])
    autotune.confirmed(dict.fromkeys(autotune.PASSES, "lowering"), x, w, SAME3, autotune.PASSES)
    assert len(calls) >= autotune.TURNS


@pytest.mark.parametrize(
    ("seconds", "winner"),
    [
        ({"library": 1.0, "direct": 0.96}, "library"),  # less than 5 %
        ({"library": 1.0, "direct": 0.9}, "direct"),
        ({"library": 1e-4, "direct": 0.8e-4}, "library"),  # Python's own time would eat it
    ],
)
def test_only_a_clear_gain_is_taken(seconds: dict[str, float], winner: str) -> None:
    assert best_of(seconds) == winner


def test_choices_outlive_the_process(tmp_path: Path, choices: Choices, measured: list[str]) -> None:
    file = tmp_path / "cache" / "convolutions.json"
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    choices.open(file)
    first = choices.names(x, w, SAME3, autotune.PASSES)
    again = Choices()
    again.open(file)
    assert again.names(x, w, SAME3, autotune.PASSES) == first
    assert len(measured) == 3
    stored = json.loads(file.read_text())
    assert stored["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"machine": {}, "choices": {}}',
        '{"choices": 3}',
        '{"machine": null, "choices": {"a": 1}}',
    ],
)
def test_a_file_that_is_damaged_or_from_elsewhere_is_measured_anew(
    tmp_path: Path, choices: Choices, measured: list[str], content: str
) -> None:
    file = tmp_path / "convolutions.json"
    file.write_text(content)
    choices.open(file)
    choices.names(torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3), SAME3, ("forward",))
    assert measured == ["forward"]
    assert json.loads(file.read_text())["choices"]


def test_a_stored_name_that_is_no_algorithm_is_not_used(
    tmp_path: Path, choices: Choices, measured: list[str]
) -> None:
    file = tmp_path / "convolutions.json"
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    key = f"{problem(x, w, SAME3).key} forward"
    content = {"machine": autotune._machine(), "choices": {key: {"forward": "quantum"}}}
    file.write_text(json.dumps(content))
    choices.open(file)
    assert choices.names(x, w, SAME3, ("forward",))["forward"] == "library"


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, choices: Choices, measured: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    choices.open(tmp_path / "file" / "convolutions.json")
    assert choices.names(torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3), SAME3, ("forward",))


def test_what_is_tried_fits_the_problem() -> None:
    small = problem(torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3), SAME3)
    assert {"channels_last", "lowering", "direct", "winograd", "winograd4"} <= set(candidates(small))
    wide = Window((31, 31), (1, 1), ((15, 15),) * 2, (1, 1))
    large = candidates(problem(torch.randn(8, 64, 7, 7), torch.randn(64, 64, 31, 31), wide))
    assert "trimmed library" in large
    assert any(name.startswith("trimmed fft") for name in large)
    assert not any("winograd" in name or "direct" in name for name in large)


def test_a_real_measurement_covers_the_library_and_every_candidate() -> None:
    x, w = torch.randn(1, 2, 8, 8), torch.randn(2, 2, 3, 3)
    for part in autotune.PASSES:
        seconds = autotune.measure(part, x, w, SAME3)
        assert set(seconds) == {"library", *candidates(problem(x, w, SAME3))}
        assert all(0 < s < 5 for s in seconds.values())
