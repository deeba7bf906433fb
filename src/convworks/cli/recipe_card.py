"""What `convworks show recipe NAME` prints: claim, every value with its place in the source, citation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convworks.cli.architecture import facts
from convworks.cli.console import Console
from convworks.cli.text import block, table
from convworks.errors import ConvworksError

if TYPE_CHECKING:
    from convworks.recipes.published import PublishedRecipe

OWN = "ours"  # stands where the source prints nothing


def show_recipe(entry: PublishedRecipe, console: Console) -> dict[str, Any]:
    """Print one recipe and return it as data."""
    facts(console, _head(entry))
    console.answer()
    rows = setting_rows(entry, everything=console.verbose)
    for number, line in enumerate(
        table([("setting", "value", "where"), *rows], width=max(80, console.width), fold=[1])
    ):
        console.answer(line, style="bold" if number == 0 else "")
    for label, sentences in (("deviations", entry.departures), ("notes", entry.notes)):
        for number, sentence in enumerate(sentences):
            if number == 0:
                console.answer()
            for line in block(label if number == 0 else "", sentence, width=max(80, console.width)):
                console.answer(line)
    console.answer()
    cite = {"cite": f"convworks show recipe {entry.name} --cite"} if entry.citation else {}
    facts(console, {"use": use(entry), **cite})
    return document(entry)


def _head(entry: PublishedRecipe) -> dict[str, str]:
    return {
        "recipe": entry.name,
        "claim": entry.claim,
        "source": entry.citation.line if entry.citation else "ours, no paper",
        "data": entry.data,
        **({"expected": "; ".join(map(str, entry.expected))} if entry.expected else {}),
    }


def use(entry: PublishedRecipe) -> str:
    """The command that trains with it."""
    data = {"MNIST": "mnist", "CIFAR-10": "cifar10"}.get(entry.data, "DATA")
    return f"convworks train {data} --recipe {entry.name}"


def setting_rows(entry: PublishedRecipe, *, everything: bool) -> list[tuple[str, str, str]]:
    """(setting, value, where) of what the source prints, what was chosen, and what is not usual."""
    from convworks.recipes.published import short
    from convworks.recipes.recipe import Recipe, leaves

    usual = dict(leaves(Recipe()))
    rows = []
    for key, value in leaves(entry.recipe):
        where = entry.where(key)
        if where or everything or value != usual[key]:
            if key in entry.chosen:
                where = f"{OWN}: {where}"
            text = "as the network has it" if where and value is None else short(value)
            rows.append((key, text, where))
    return rows


def document(entry: PublishedRecipe) -> dict[str, Any]:
    """The recipe's settings, and beside them what it says of itself."""
    from convworks.recipes.resolve import to_dict

    return {
        "name": entry.name,
        **to_dict(entry.recipe),
        "claim": entry.claim,
        "claim_data": entry.data,
        "source": entry.source,
        "expected": [
            {"value": e.value, "unit": e.unit, "what": e.what, "data": e.data, "where": e.where}
            for e in entry.expected
        ],
        "where": {key: place for key, (_, place) in entry.values.items()},
        "chosen": dict(entry.chosen),
        "deviations": list(entry.deviations),
        "notes": list(entry.notes),
        "citation": entry.citation.bibtex() if entry.citation else None,
        "command": use(entry),
    }


def show_citation(entry: PublishedRecipe, console: Console) -> dict[str, Any]:
    """Print the BibTeX entry. Raises U220 for a recipe of ours."""
    if entry.citation is None:
        raise ConvworksError(
            "U220",
            f"the recipe {entry.name} is ours: there is no paper to cite",
            try_=f"convworks show recipe {entry.name}",
        )
    console.answer(entry.citation.bibtex())
    return {"name": entry.name, "citation": entry.citation.bibtex()}
