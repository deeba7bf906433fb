"""`convworks trace`: one step of back-propagation of a small network, every number of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le, Lt

from convworks.cli.console import Console
from convworks.cli.flags import SEED_LIMIT, OutputFlags, Shown, Verb
from convworks.cli.text import folder
from convworks.errors import EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.insight.trace import Iteration

# The lecture's exercise; its weights were in a figure that is lost, these are our own.
EXERCISE = "2-2-1"
WEIGHTS, INPUT, TARGET = "1,.2,-1,.3,.5,-.4", "1.0,0.1", "0.5"
MARK = "<title>Back-propagation"  # by which a file is known as one of ours


@dataclass(frozen=True, kw_only=True)
class TraceFlags(OutputFlags):
    """Which network, at which point."""

    layers: Annotated[str, Shown("N-N-N", "6-c3-p2-1")] = EXERCISE
    """inputs, units, ...; c3 convolution, p2 pooling [2-2-1]"""
    weights: Annotated[str | None, Shown("W,W,...", WEIGHTS)] = None
    """all weights, layer by layer, row by row"""
    input: Annotated[str | None, Shown("X,X,...", INPUT)] = None
    """the example"""
    target: Annotated[str | None, Shown("Y,...", TARGET)] = None
    """what the outputs should be [0.5 each]"""
    eta: Annotated[float, Shown("X", "-0.2"), Ge(-100), Le(100)] = -0.2
    """w <- w + eta dE/dw: negative goes down [-0.2]"""
    activation: Annotated[str, Shown("NAME", "tanh")] = "tanh"
    """after every convolution and hidden layer [tanh]"""
    steps: Annotated[int, Shown("N", "1"), Ge(1), Le(20)] = 1
    """forward, backward and update so many times [1]"""
    seed: Annotated[int, Shown("N", "0"), Ge(0), Lt(SEED_LIMIT)] = 0
    """of weights and input that were not given [0]"""
    html: Annotated[Path | None, Shown("FILE", "trace.html")] = None
    """write a page to step through"""


def run(args: TraceFlags, console: Console) -> int:
    """Print every number; with --html write the page too."""
    import torch

    from convworks.insight.trace import build, draw, parse_layers, trace

    if args.html is not None:
        _check_page(args.html)
    layers = parse_layers(args.layers)
    generator = torch.Generator().manual_seed(args.seed)
    lecture = args.layers == EXERCISE
    weights = _given("weights", args.weights or (WEIGHTS if lecture else None)) or draw(
        layers.weights, generator=generator
    )
    inputs = _given("input", args.input or (INPUT if lecture else None)) or draw(
        layers.inputs, generator=generator
    )
    targets = _given("target", args.target) or [0.5] * layers.outputs
    chain = build(layers, weights, activation=args.activation)
    iterations = trace(layers, chain, inputs, targets, eta=args.eta, steps=args.steps)
    console.document(
        {
            "layers": args.layers,
            "activation": args.activation,
            "weights": weights,
            "input": inputs,
            "target": targets,
            "eta": args.eta,
            "iterations": [_record(each) for each in iterations],
        }
    )
    facts = {
        "network": f"{args.layers}, {args.activation}, Euclidean cost",
        "weights": ", ".join(f"w{at} = {value:g}" for at, value in enumerate(weights, 1)),
        "input": f"x0 = {', '.join(f'{value:g}' for value in inputs)}",
        "target": f"y = {', '.join(f'{value:g}' for value in targets)}",
    }
    for name, text in facts.items():
        console.answer(f"{name:<11}{text}")
    for at, iteration in enumerate(iterations, 1):
        _print(iteration, f"step {at} of {len(iterations)}: " if len(iterations) > 1 else "", console)
    if args.html is not None:
        _write(args.html, facts, iterations, console)
    return EXIT_OK


def _print(iteration: Iteration, title: str, console: Console) -> None:
    phase = ""
    for step in iteration.steps:
        if step.phase != phase:
            phase = step.phase
            console.answer()
            console.answer(f"{title}{phase}", style="bold")
        console.answer(f"  {step.box:<16}{step.formula}")
        for line in step.lines:
            console.answer(f"{'':<20}{line}")
    console.answer()
    console.answer(f"cost       {iteration.cost:.6f} before the update, {iteration.cost_after:.6f} after it")
    check = iteration.check
    if check.ok:
        kinks = f", {check.kinks} at a kink" if check.kinks else ""
        text = (
            f"finite differences agree in {check.checked} numbers{kinks}, worst error {check.worst_error:.1e}"
        )
    else:
        text = f"finite differences do NOT agree: {check.first_wrong}"
    console.answer(f"check      {text}")


def _record(iteration: Iteration) -> dict[str, object]:
    steps = [
        {
            "phase": step.phase,
            "box": step.box,
            "name": step.name,
            "formula": step.formula,
            "lines": [str(line) for line in step.lines],
            "values": step.values,
        }
        for step in iteration.steps
    ]
    return {
        "cost": iteration.cost,
        "cost_after": iteration.cost_after,
        "finite_differences": {"ok": iteration.check.ok, "worst_error": iteration.check.worst_error},
        "steps": steps,
    }


def _given(name: str, text: str | None) -> list[float]:
    """The numbers of "1,.2,-1"; none where the flag was not given. Raises U153."""
    if text is None:
        return []
    parts = [part.strip() for part in re.split(r"\s*,\s*|\s+", text.strip())]
    for part in parts:
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?", part):
            raise ConvworksError(
                "U153",
                f"--{name} cannot be '{text}': '{part}' is no number",
                why="numbers are written with a point and stand between commas",
                try_=f"convworks trace --{name}={'1,0.5,-0.25'}",
            )
    return [float(part) for part in parts]


def _check_page(path: Path) -> None:
    """Before the work: raises U006 where `path` is a folder, or a file that this verb did not write."""
    if path.is_dir():
        raise ConvworksError("U006", f"{path} is a folder", try_=f"--html {path / 'trace.html'}")
    if path.exists() and MARK not in path.read_text("utf-8", "replace")[:4096]:
        raise ConvworksError(
            "U006",
            f"{path} exists and is not a page that this verb wrote",
            why="it would be lost",
            try_=f"--html {path.with_name('new-' + path.name)}",
        )


def _write(path: Path, facts: dict[str, str], iterations: list[Iteration], console: Console) -> None:
    from convworks.durable import write_atomic
    from convworks.report.trace import render

    try:
        write_atomic(path, render(facts, iterations).encode("utf-8"))
    except OSError as problem:
        raise ConvworksError("R503", f"cannot write {path}: {problem.strerror or problem}") from problem
    console.say(f"wrote {folder(path)}")


VERB = Verb(
    name="trace",
    flags=TraceFlags,
    main=("layers", "weights", "input", "target", "eta", "activation", "steps", "html", "json"),
    examples=(
        "convworks trace",
        "convworks trace --layers 6-c3-p2-1 --html trace.html",
    ),
    run=run,
)
