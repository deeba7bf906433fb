"""From the words of a command to a flags dataclass, or to one error that names the word.

The words are sorted into flags and subjects here, so that every message is ours; tyro turns each text into
the type of its field.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from convworks.cli.flags import Flag, Verb, describe
from convworks.errors import ConvworksError, closest

HELP_FLAGS = ("--help", "--help-all")

# What other programs call the same thing.
SYNONYMS = {
    "--learning-rate": "--lr",
    "--lr0": "--lr",
    "--batch-size": "--batch",
    "--bs": "--batch",
    "--img-size": "--size",
    "--image-size": "--size",
    "--imgsz": "--size",
    "--num-workers": "--workers",
    "--arch": "--model",
    "--architecture": "--model",
    "--network": "--model",
    "--output": "--out",
    "--output-dir": "--out",
    "--num-epochs": "--epochs",
    "--gpu": "--device",
    "--random-seed": "--seed",
    "--topk": "--top",
    "--top-k": "--top",
}


@dataclass(slots=True)
class _Words:
    """The command being read, and what was found in it so far."""

    verb: Verb
    argv: Sequence[str]
    values: dict[str, list[str]] = field(default_factory=dict)
    switches: dict[str, bool] = field(default_factory=dict)
    subjects: list[str] = field(default_factory=list)

    def corrected(self, start: int, stop: int, *instead: str) -> str:
        """The user's command with the words start..stop replaced."""
        return command(self.verb.name, *self.argv[:start], *instead, *self.argv[stop:])


def command(*words: str) -> str:
    """A command line that a shell reads back as these words."""
    return shlex.join(["convworks", *words])


def parse(verb: Verb, argv: Sequence[str]) -> Any:
    """The flags of one command.

    Raises U002 (an unknown flag), U003 (a value that does not fit), U004 (no subject), U005 (one too many).
    """
    flags = describe(verb.flags)
    words = _Words(verb, argv)
    _sort(words, {flag.name: flag for flag in flags if not flag.shown.positional})
    found: dict[str, Any] = dict(words.switches)
    for flag in flags:
        if flag.field in words.values:
            converted = tuple(_convert(flag, text, words) for text in words.values[flag.field])
            found[flag.field] = converted if flag.many else converted[0]
    found |= _subjects([flag for flag in flags if flag.shown.positional], words)
    return verb.flags(**found)


def _sort(words: _Words, table: Mapping[str, Flag]) -> None:
    """Every word becomes a switch, a value of a flag or a subject."""
    at = 0
    while at < len(words.argv):
        word = words.argv[at]
        if word == "--":
            words.subjects += words.argv[at + 1 :]
            return
        if not word.startswith("-") or word == "-":
            words.subjects.append(word)
            at += 1
            continue
        name, equals, value = word.partition("=")
        negated = name.startswith("--no-") and "--" + name[5:] in table
        flag = table.get("--" + name[5:] if negated else name)
        if flag is None or (negated and not flag.switch):
            raise _unknown_flag(words, at, table)
        if flag.switch:
            if equals:
                raise ConvworksError(
                    "U003",
                    f"{name} takes no value, but got '{value}'",
                    where=f"write {flag.name} or --no-{flag.name[2:]}",
                    try_=words.corrected(at, at + 1, name),
                )
            words.switches[flag.field] = not negated
            at += 1
            continue
        at = _take_value(words, at, flag, value if equals else None)


def _take_value(words: _Words, at: int, flag: Flag, value: str | None) -> int:
    """Store the value of the flag at position `at`; the position of the word after it."""
    end = at + 1
    if value is None:
        following = words.argv[end] if end < len(words.argv) else None
        if following is not None and not re.match(r"--?[a-zA-Z]|--$", following):
            value, end = following, end + 1
    if not value:
        raise ConvworksError(
            "U003",
            f"{flag.name} needs a value",
            where=f"allowed: {flag.allowed()}",
            try_=words.corrected(at, end, flag.name, example(flag)),
        )
    if flag.field in words.values and not flag.many:
        raise ConvworksError(
            "U003",
            f"{flag.name} is given twice, as '{words.values[flag.field][0]}' and as '{value}'",
            try_=words.corrected(at, end),
        )
    words.values.setdefault(flag.field, []).append(value)
    return end


def example(flag: Flag) -> str:
    """A value that fits."""
    return flag.shown.example or (flag.choices[0] if flag.choices else str(flag.default or "VALUE"))


def _unknown_flag(words: _Words, at: int, table: Mapping[str, Flag]) -> ConvworksError:
    word, _, value = words.argv[at].partition("=")
    spelled = "--" + word.lstrip("-").replace("_", "-").lower()
    known = [*table, *HELP_FLAGS]
    near = spelled if spelled in known else SYNONYMS.get(spelled)
    near = near if near in known else closest(spelled, known)
    if near is None:
        return ConvworksError(
            "U002",
            f"unknown flag {word}",
            where=f"flags of {words.verb.name}: {', '.join(table)}",
            try_=command(words.verb.name, "--help"),
        )
    stop = at + 1
    instead = [near]
    if near in table and not table[near].switch:
        following = words.argv[stop : stop + 1] if not value else []
        if following and not following[0].startswith("--"):
            value, stop = following[0], stop + 1
        instead.append(value or example(table[near]))
    return ConvworksError(
        "U002",
        f"unknown flag {word}      did you mean  {shlex.join(instead)}",
        try_=words.corrected(at, stop, *instead),
    )


_REFUSED = object()


def _convert(flag: Flag, text: str, words: _Words) -> Any:
    value = _typed(flag.kind, text)
    if value is _REFUSED or not flag.fits(value):
        near = closest(text, flag.choices)
        instead = near or example(flag)
        raise ConvworksError(
            "U003",
            f"{flag.name} cannot be '{text}'" + (f"      did you mean  {near}" if near else ""),
            where=f"allowed: {flag.allowed()}",
            try_=_with_value(words, flag, text, instead),
        )
    return value


def _with_value(words: _Words, flag: Flag, text: str, instead: str) -> str:
    """The user's command with another value for one flag."""
    argv = list(words.argv)
    for at, word in enumerate(argv):
        if word == f"{flag.name}={text}":
            argv[at] = f"{flag.name}={instead}"
        elif word == text and (flag.shown.positional or (at and argv[at - 1] == flag.name)):
            argv[at] = instead
        else:
            continue
        break
    return command(words.verb.name, *argv)


def _typed(kind: Any, text: str) -> Any:
    """A text as a value of one type, or _REFUSED."""
    if kind is str:
        return text
    import tyro  # here, because a command without values does not need it

    silent = io.StringIO()  # tyro draws a box around some errors whatever it is asked
    try:
        with contextlib.redirect_stderr(silent), contextlib.redirect_stdout(silent):
            value = tyro.cli(
                Annotated[kind, tyro.conf.arg(name="value")],
                args=["--", text],
                console_outputs=False,
                add_help=False,
            )
    except SystemExit:
        return _REFUSED
    return Path(os.path.expanduser(text)) if isinstance(value, Path) else value


def _subjects(flags: Sequence[Flag], words: _Words) -> dict[str, Any]:
    """The words without dashes, given to the positional fields in order; the last may take many."""
    found: dict[str, Any] = {}
    left = list(words.subjects)
    if "" in left:  # an unset variable of the shell; it must not mean the current folder
        raise ConvworksError(
            "U004",
            f"{words.verb.name} was given an empty word",
            where=usage(words.verb),
            why="an unset variable of the shell, perhaps",
            try_=words.verb.examples[0],
        )
    for flag in flags:
        if not left and flag.required:
            raise ConvworksError(
                "U004",
                f"{words.verb.name} needs {flag.name}",
                where=usage(words.verb),
                try_=words.verb.examples[0],
            )
        if not left:
            continue
        if flag.many:
            found[flag.field] = tuple(_convert(flag, text, words) for text in left)
            left = []
        else:
            found[flag.field] = _convert(flag, left.pop(0), words)
    if left:
        raise _one_too_many(words, left[0])
    return found


def _one_too_many(words: _Words, extra: str) -> ConvworksError:
    """An argument that no subject takes; `epochs=5` is read as the flag that was meant."""
    at = len(words.argv) - 1 - list(reversed(words.argv)).index(extra)
    key, equals, value = extra.partition("=")
    names = [flag.name for flag in describe(words.verb.flags) if not flag.shown.positional]
    near = closest("--" + key.replace("_", "-"), names) if equals else None
    if near:
        return ConvworksError(
            "U005",
            f"unexpected argument '{extra}'      did you mean  {shlex.join([near, value])}",
            try_=words.corrected(at, at + 1, near, value),
        )
    return ConvworksError(
        "U005",
        f"unexpected argument '{extra}'",
        where=usage(words.verb),
        try_=words.corrected(at, at + 1),
    )


def usage(verb: Verb) -> str:
    """'convworks predict MODEL PATH... [flags]'"""
    subjects = []
    for flag in describe(verb.flags):
        if flag.shown.positional:
            text = flag.shown.metavar + ("..." if flag.many else "")
            subjects.append(text if flag.required else f"[{text}]")
    return " ".join(["convworks", verb.name, *subjects, "[flags]"])


def spelled(verb: Verb, args: Any) -> tuple[str, ...]:
    """The words of the command that gives these flags; defaults are left out."""
    subjects: list[str] = []
    words = ["convworks", verb.name]
    for flag in describe(verb.flags):
        value = getattr(args, flag.field)
        each = [str(part) for part in (value if flag.many else [value])]
        if flag.shown.positional:
            subjects += each
        elif value == flag.default:
            continue
        elif flag.switch:
            words.append(flag.name if value else f"--no-{flag.name[2:]}")
        else:
            words += [word for part in each for word in (flag.name, part)]
    dashes = ["--"] if any(subject.startswith("-") for subject in subjects) else []
    return (*words[:2], *([] if dashes else subjects), *words[2:], *dashes, *(subjects if dashes else []))
