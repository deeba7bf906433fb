"""What a named recipe says about itself: its claim, the number that is expected, and where each value stands.

Every setting of a published recipe that decides the result is in one of two tables: `values`, with the place
in the paper where it is printed, or `chosen`, with the reason for ours where the paper prints none. What the
paper does and this package does otherwise is a sentence in `departures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convworks.recipes.recipe import Recipe, leaves

# Settings of the machine and of the draw: no paper has them, and none of them is a hyper-parameter.
MACHINE = frozenset(
    {
        "seed", "precision", "memory_format", "winograd", "amx", "threads", "workers", "device",
        "checkpoint_every", "keep_checkpoints",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A source, as a line and as a BibTeX entry."""

    key: str  # he2016deep
    authors: tuple[str, ...]  # "Kaiming He"
    title: str
    venue: str
    year: int | None = None
    kind: str = "inproceedings"
    url: str = ""

    @property
    def line(self) -> str:
        """He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016."""
        names = ", ".join(author.rsplit(" ", 1)[-1] for author in self.authors)
        when = f" {self.year}" if self.year else ""
        return f'{names}, "{self.title}", {self.venue}{when}'

    def bibtex(self) -> str:
        place = {"inproceedings": "booktitle", "article": "journal"}.get(self.kind, "howpublished")
        rows = {
            "author": " and ".join(self.authors),
            "title": f"{{{self.title}}}",
            place: self.venue,
            "year": str(self.year or ""),
            "url": self.url,
        }
        body = "".join(f"  {name:<9} = {{{text}}},\n" for name, text in rows.items() if text)
        return f"@{self.kind}{{{self.key},\n{body}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A number that the source prints: what was measured, in which unit, on which data."""

    value: float
    unit: str  # "%"
    what: str  # "top-5 error, ten crops"
    data: str
    where: str  # "Table 3"

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit} {self.what} on {self.data} ({self.where})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRecipe:
    """A named recipe with its claim. Without a citation it is ours, and has no paper to differ from."""

    name: str
    recipe: Recipe
    claim: str  # one short sentence
    data: str = "any images"  # what the claim is about
    expected: tuple[Expected, ...] = ()
    citation: Citation | None = None
    values: Mapping[str, tuple[Any, str]]  # dotted key -> (value, where it is printed)
    chosen: Mapping[str, str]  # dotted key -> why this value, where the source prints none
    departures: tuple[str, ...] = ()  # what the source does and this package does otherwise
    notes: tuple[str, ...] = ()
    of: str = "the paper's"  # whose values, for the compliance line

    @property
    def deviations(self) -> tuple[str, ...]:
        """Departures, then every value that is ours for want of a printed one."""
        return (*self.departures, *(f"{key}: {why}" for key, why in self.chosen.items()))

    @property
    def source(self) -> str:
        """'LeCun et al. 1998', or 'ours'."""
        if self.citation is None:
            return "ours"
        names = [author.rsplit(" ", 1)[-1] for author in self.citation.authors]
        most = 2
        who = " and ".join(names) if len(names) <= most else f"{names[0]} et al."
        return f"{who} {self.citation.year}" if self.citation.year else who

    def where(self, key: str) -> str:
        """The place of a value in the source, the reason for ours, or ''."""
        if key in self.values:
            return self.values[key][1]
        return self.chosen.get(key, "")


def ours(name: str, recipe: Recipe, claim: str, **more: Any) -> PublishedRecipe:
    """A recipe without a paper."""
    return PublishedRecipe(name=name, recipe=recipe, claim=claim, values={}, chosen={}, **more)


def derive(
    base: PublishedRecipe, name: str, recipe: Recipe, claim: str, *, forget: tuple[str, ...] = (), **more: Any
) -> PublishedRecipe:
    """A sibling in the same paper: tables of `base`, with `values` and `chosen` given here laid over them.

    A key that moves from one table to the other leaves the first; those in `forget` leave both.
    """
    values, chosen = more.pop("values", {}), more.pop("chosen", {})
    stay = {key: value for key, value in base.values.items() if key not in {*chosen, *forget}}
    reasons = {key: value for key, value in base.chosen.items() if key not in {*values, *forget}}
    rest: dict[str, Any] = {
        "data": base.data,
        "expected": base.expected,
        "citation": base.citation,
        "departures": base.departures,
        "notes": base.notes,
        "of": base.of,
    }
    return PublishedRecipe(
        name=name, recipe=recipe, claim=claim, values=stay | values, chosen=reasons | chosen, **rest | more
    )


def compliance(entry: PublishedRecipe | None, recipe: Recipe, sources: Mapping[str, str]) -> str:
    """One line on what a run's settings have to do with the recipe that it was given.

    Every setting is compared but those of MACHINE. `entry` is None for settings without a name.
    """
    if entry is None:
        return "settings without a named recipe: no paper to compare with"
    if entry.citation is None:
        return f"recipe {entry.name}: ours, no paper"
    before = dict(leaves(entry.recipe))
    told = [
        f"{key} ({short(before[key])} -> {short(value)}, {sources.get(key, 'default')})"
        for key, value in leaves(recipe)
        if value != before[key] and key not in MACHINE
    ]
    count = len(entry.deviations)
    plural = "" if count == 1 else "s"
    known = f"{count} named deviation{plural}: convworks show recipe {entry.name}"
    if told:
        rest = f"; beside {known}" if count else ""
        return f"recipe {entry.name}: differs from {_owner(entry)} in {', '.join(told)}{rest}"
    return f"recipe {entry.name}: every value is {entry.of}" + (f" or one of {known}" if count else "")


def _owner(entry: PublishedRecipe) -> str:
    """'the paper' of "the paper's"."""
    return entry.of.removesuffix("'s").removesuffix("'")


def short(value: Any) -> str:
    """A value as one reads it: floats to four digits, runs of one number as '0.1 x8', nothing as 'none'."""
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, (float, tuple, list, Mapping)):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {short(each)}" for key, each in value.items()) or "none"
    texts: list[str] = []
    counts: list[int] = []
    for each in map(short, value):
        if texts and texts[-1] == each:
            counts[-1] += 1
        else:
            texts.append(each)
            counts.append(1)
    runs = [t if n == 1 else f"{t} x{n}" for t, n in zip(texts, counts, strict=True)]
    return ", ".join(runs) or "none"
