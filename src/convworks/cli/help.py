"""Help pages, written from the same dataclass fields that the parser reads."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from convworks.cli.flags import Flag, Verb, describe, field_docs
from convworks.cli.parse import usage

WIDTH = 80
COLUMN = 24  # where the explanations begin


def top_page(verbs: Iterable[tuple[str, str, str]], *, everyday: Sequence[str] = ()) -> list[str]:
    """`convworks --help`: the everyday verbs explained and the others named; without any, all explained."""
    verbs = list(verbs)
    main = [verb for verb in verbs if not everyday or verb[0] in everyday]
    others = ", ".join(name for name, _, _ in verbs if everyday and name not in everyday)
    named = textwrap.wrap(
        others, WIDTH - 2, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    return [
        "convworks: from a folder of labelled images to a network that you can trust",
        "",
        "  convworks VERB SUBJECT [flags]",
        "",
        *(_row(f"{name} {subject}".strip(), summary) for name, subject, summary in main),
        *(["", "Further verbs, explained by convworks --help-all:", *named] if named else []),
        "",
        "Examples",
        "  convworks check photos/",
        "  convworks train photos/",
        "",
        "More: convworks VERB --help, convworks VERB --help-all, convworks --version",
    ]


def short_page(verb: Verb, summary: str) -> list[str]:
    """`convworks VERB -h`: what most commands need, within 24 lines."""
    flags = [flag for flag in describe(verb.flags) if flag.shown.positional or flag.field in verb.main]
    docs = field_docs(verb.flags)
    return [
        usage(verb),
        summary[:1].upper() + summary[1:] + ".",
        "",
        *(_row(_spelled(flag), docs[flag.field]) for flag in flags),
        "",
        "Examples",
        *(f"  {each}" for each in verb.examples),
        "",
        f"All flags: convworks {verb.name} --help-all",
    ]


def full_page(verb: Verb, summary: str) -> list[str]:
    """`convworks VERB --help-all`: every flag, with the values it takes."""
    docs = field_docs(verb.flags)
    lines = [usage(verb), summary[:1].upper() + summary[1:] + ".", ""]
    for flag in describe(verb.flags):
        lines += _wrapped(_spelled(flag, both=True), _explained(flag, docs[flag.field]))
    lines += ["", "Examples", *(f"  {each}" for each in verb.examples)]
    return [*lines, *(["", *verb.more()] if verb.more else [])]


def settings_lines(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Rows of (name, explanation), wrapped; for lists at the end of a page."""
    lines: list[str] = []
    for name, text in rows:
        lines += _wrapped(name, text)
    return lines


def _spelled(flag: Flag, *, both: bool = False) -> str:
    if flag.shown.positional:
        return flag.name + ("..." if flag.many else "")
    if flag.switch:
        return f"{flag.name}, --no-{flag.name[2:]}" if both else flag.name
    return f"{flag.name} {flag.shown.metavar}"


def _explained(flag: Flag, doc: str) -> str:
    """The help with the range of values and the default, where the text does not say them already."""
    text = doc
    if flag.bounds:
        text += f"; {flag.allowed()}"
    if flag.many and not flag.shown.positional:
        text += "; can be given more than once"
    if flag.default not in (None, False, ()) and "[" not in doc:
        text += f" [{flag.default}]"
    return text


def _row(name: str, text: str) -> str:
    return f"  {name:<{COLUMN - 3}} {text}"


def _wrapped(name: str, text: str) -> Sequence[str]:
    lines = textwrap.wrap(text, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False) or [""]
    head = [] if len(name) <= COLUMN - 3 else [f"  {name}"]
    first = [_row(name, lines[0])] if not head else [" " * COLUMN + lines[0]]
    return [*head, *first, *(" " * COLUMN + line for line in lines[1:])]
