"""Sections 9 and 10 beyond the tables: the paper behind the settings, and what it takes to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from convworks.durable import sha256_file
from convworks.errors import ConvworksError
from convworks.recipes.defaults import entry
from convworks.report.read import RunRecord


@dataclass(frozen=True, slots=True)
class Paper:
    """What a named recipe says about itself."""

    name: str
    claim: str
    line: str  # of the citation; "" for ours
    bibtex: str
    expected: tuple[str, ...]
    departures: tuple[str, ...]


def paper(run: RunRecord) -> Paper | None:
    """The entry of the run's recipe; None for one without a name, or of another version."""
    try:
        found = entry(run.recipe_name)
    except ConvworksError:
        return None
    citation = found.citation
    return Paper(
        name=found.name,
        claim=found.claim,
        line="" if citation is None else citation.line,
        bibtex="" if citation is None else citation.bibtex(),
        expected=tuple(str(each) for each in found.expected),
        departures=found.deviations,
    )


def where_printed(run: RunRecord) -> Callable[[str], str]:
    """Where the source has the setting of a key, or why its value is ours; '' without a source."""
    try:
        return entry(run.recipe_name).where
    except ConvworksError:
        return lambda key: ""


def checkpoints(run: RunRecord) -> list[tuple[str, str]]:
    """(name, sha256 of the network's weights) of every checkpoint that is kept."""
    folder = run.path / "checkpoints"
    return [
        (file.parent.name, sha256_file(file))
        for file in sorted(folder.glob("*/network.safetensors"))
        if not file.parent.name.startswith(".")
    ]


def next_steps(run: RunRecord) -> list[tuple[str, str]]:
    """(what for, command): to go on, to train for longer, to measure again."""
    place = shlex.quote(str(run.path))
    steps = []
    epochs = run.recipe.get("epochs")
    if not (run.path / "finished.json").is_file():
        steps.append(("Go on after a stop", f"convworks resume {place}"))
    if type(epochs) is int and run.command[:2] == ("convworks", "train"):
        steps.append(("Train longer", f"{_with_epochs(run.command, 2 * epochs)}"))
    if run.evaluations and run.manifest is not None:
        steps.append(
            (
                "Measure again",
                f"convworks eval {place} {shlex.quote(data_name(run) or run.manifest.location)}",
            )
        )
    steps.append(("Write this page again", f"convworks report {place}"))
    return steps


def data_name(run: RunRecord) -> str:
    """The data as the command names it."""
    words = [word for word in run.command[2:3] if not word.startswith("-")]
    return words[0] if words else ""


def _with_epochs(command: tuple[str, ...], epochs: int) -> str:
    """The command with another number of epochs; a name of a run is left out, since that one is taken."""
    kept: list[str] = []
    skip = False
    for word in command:
        if skip:
            skip = False
        elif word in {"--epochs", "--name"}:
            skip = True
        elif not word.startswith(("--epochs=", "--name=")):
            kept.append(word)
    return shlex.join([*kept, "--epochs", str(epochs)])
