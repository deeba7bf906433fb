"""Back-propagation to step through: one HTML file with every number, complete without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convworks.insight.trace import Iteration, Step
from convworks.report.page import templates


@dataclass(frozen=True, slots=True)
class _Box:
    """A box of the picture: what stands in it, and the step that fills it."""

    step: int
    kind: str
    title: str
    name: str
    values: str


def render(facts: Mapping[str, str], iterations: Sequence[Iteration]) -> str:
    """The page as text: facts about the network, a picture of its boxes, and one section for each step."""
    rounds, at = [], 0
    for place, iteration in enumerate(iterations, 1):
        numbered = [(at + i, step) for i, step in enumerate(iteration.steps, 1)]
        at += len(iteration.steps)
        rounds.append((place, iteration, numbered, _columns(numbered)))
    return templates().get_template("trace.html").render(facts=facts, rounds=rounds, steps=at)


def _columns(numbered: Sequence[tuple[int, Step]]) -> list[tuple[_Box | None, _Box | None, _Box | None]]:
    """For each module from left to right its boxes: forward, backward to the input, to the weights."""
    columns: list[tuple[_Box | None, _Box | None, _Box | None]] = []
    for at, step in numbered:
        if step.phase != "forward":
            continue
        down = [(n, s) for n, s in numbered if s.phase == "backward" and s.box == step.box]
        weights = next(((n, s) for n, s in down if s.name == "dC/dw"), None)
        below = next(((n, s) for n, s in down if s.name != "dC/dw"), None)
        columns.append((_box(at, step, "forward"), _pair(below, "to input"), _pair(weights, "to weights")))
    return columns


def _pair(found: tuple[int, Step] | None, kind: str) -> _Box | None:
    return None if found is None else _box(*found, kind)


def _box(at: int, step: Step, kind: str) -> _Box:
    values = ", ".join(f"{value:.4f}" for value in step.values)
    return _Box(at, kind, step.box, step.name, values)
