"""The one error that users meet, and the rule for unknown names.

Every message has the same four parts: what happened with the name of the thing, where, why it matters, and
one command to try. The letter of the code decides the exit status of the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

MOST_NAMES = 12  # that a message lists; of more, those most like the one given

EXIT_OK = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 75
EXIT_HARD_INTERRUPT = 130

# First letter of an error code -> exit status.
EXIT_STATUS = {
    "U": 2,  # usage: a flag, a name, a value
    "D": 3,  # data: files, labels, splits
    "A": 4,  # artifacts: checkpoints, model bundles
    "R": 5,  # resources: disk, memory, permission, locks
    "N": 6,  # numbers: the training diverged
}


class ConvworksError(Exception):
    """A mistake or a condition that the user can act on.

    The message is the four parts on lines of their own; `code` is one of the rows of docs/errors.md.
    """

    def __init__(self, code: str, what: str, *, where: str = "", why: str = "", try_: str = "") -> None:
        if code[:1] not in EXIT_STATUS:
            raise ValueError(f"error code {code!r} must start with one of {', '.join(EXIT_STATUS)}")
        self.code, self.what, self.where, self.why, self.try_ = code, what, where, why, try_
        super().__init__(self.format())

    def __reduce__(self) -> tuple[Any, ...]:
        """So that an error can cross a process boundary or be copied."""
        return _rebuild, (type(self), self.__dict__.copy(), self.args)

    @property
    def hint(self) -> str:
        """The command or change to try."""
        return self.try_

    def trying(self, old: str, new: str) -> ConvworksError:
        """The same error; in what to try, `new` stands where `old` did: the real name for a placeholder."""
        if old not in self.try_:
            return self
        try_ = self.try_.replace(old, new, 1)
        return ConvworksError(self.code, self.what, where=self.where, why=self.why, try_=try_)

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.code[0]]

    def format(self) -> str:
        parts = [("where", self.where), ("why", self.why), ("try", self.try_)]
        lines = [f"error[{self.code}]: {self.what}"]
        lines += [f"  {name + ':':<7}{text}" for name, text in parts if text]
        return "\n".join(lines)


def _rebuild(cls: type[ConvworksError], values: dict[str, Any], args: tuple[Any, ...]) -> ConvworksError:
    made = cls.__new__(cls)
    made.__dict__.update(values)
    made.args = args
    return made


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where none is near."""
    names = list(known)
    lowered = {n.lower(): n for n in reversed(names)}  # the first of those that differ in case only
    found = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def unknown_name(
    kind: str, name: str, known: Iterable[str], *, code: str = "U101", try_: str = ""
) -> ConvworksError:
    """The error for a name that no table has: says the closest match, or lists what there is."""
    names = sorted(known)
    near = closest(name, names)
    shown = names
    if len(names) > MOST_NAMES:
        shown = get_close_matches(name, names, n=MOST_NAMES, cutoff=0.0)
    left = len(names) - len(shown)
    there_are = (
        f"known: {', '.join(shown)}{f' and {left} more' if left else ''}" if names else "there are none"
    )
    return ConvworksError(
        code,
        f"there is no {kind} called '{name}'",
        where=f"did you mean '{near}'?" if near else there_are,
        try_=try_.replace("{near}", near or (names[0] if names else "")),
    )
