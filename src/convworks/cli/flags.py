"""What a verb accepts, as a frozen dataclass; its fields are the flags and their docstrings the help.

A field annotated with `Shown` is displayed with that metavar; `Ge`, `Gt`, `Le`, `Lt` of annotated_types bound
its values, as they do in recipes.
"""

from __future__ import annotations

import ast
import inspect
import math
import operator
import textwrap
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

SEED_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class Shown:
    """How a flag looks in the help, a value for suggestions, and whether it has no dashes."""

    metavar: str
    example: str = ""
    positional: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """One row of the command line."""

    name: str
    flags: type
    main: tuple[str, ...]  # the fields that `-h` shows; `--help-all` shows every one
    examples: tuple[str, str]
    run: Callable[[Any, Any], int]
    more: Callable[[], list[str]] | None = None  # further lines of `--help-all`


Bound = Ge | Gt | Le | Lt
WORDS: Mapping[type, str] = {Ge: "of at least", Gt: "above", Le: "up to", Lt: "below"}
COMPARE: Mapping[type, Callable[[Any, Any], bool]] = {
    Ge: operator.ge,
    Gt: operator.gt,
    Le: operator.le,
    Lt: operator.lt,
}


def limit(bound: Bound) -> Any:
    """The number of a bound: Ge(1) -> 1."""
    return getattr(bound, type(bound).__name__.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A field of a flags dataclass, as the parser and the help need it."""

    field: str
    kind: Any  # bool, int, float, str, Path, a Literal or a union of these
    shown: Shown
    many: bool
    required: bool
    default: Any
    bounds: tuple[Bound, ...]

    @property
    def switch(self) -> bool:
        return self.kind is bool

    @property
    def name(self) -> str:
        """'--dry-run', or the metavar of a positional."""
        return self.shown.metavar if self.shown.positional else "--" + self.field.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The words among the allowed values."""
        found: list[str] = []
        for part in alternatives(self.kind):
            if get_origin(part) is Literal:
                found += [str(each) for each in get_args(part)]
        return tuple(found)

    def allowed(self) -> str:
        """In words, what a value may be."""
        words = []
        for part in alternatives(self.kind):
            if part in (int, float):
                words.append(("a whole number" if part is int else "a number") + self._range())
        words += self.choices
        if Path in alternatives(self.kind):
            words.append("a path")
        return ", ".join(words[:-1]) + (" or " if len(words) > 1 else "") + words[-1] if words else "text"

    def _range(self) -> str:
        found = [(WORDS[type(bound)], limit(bound)) for bound in self.bounds]
        return "".join(f" {words} {'2^63' if number == SEED_LIMIT else number}" for words, number in found)

    def fits(self, value: Any) -> bool:
        """Whether a converted value is inside the bounds; words have none."""
        if not isinstance(value, (int, float)):
            return True
        return math.isfinite(value) and all(
            COMPARE[type(bound)](value, limit(bound)) for bound in self.bounds
        )


def alternatives(kind: Any) -> tuple[Any, ...]:
    """int | Literal['auto'] -> (int, Literal['auto'])."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


@cache
def describe(cls: type) -> tuple[Flag, ...]:
    """The flags of a dataclass: its own fields first, then those of the groups that it extends."""
    hints = get_type_hints(cls, include_extras=True)
    order = [name for base in cls.__mro__[:-1] for name in inspect.get_annotations(base)]
    return tuple(
        _flag(each, hints[each.name]) for each in sorted(fields(cls), key=lambda f: order.index(f.name))
    )


def _flag(each: Any, hint: Any) -> Flag:
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    many = get_origin(hint) is tuple
    if many:
        hint = get_args(hint)[0]
    kinds = tuple(part for part in alternatives(hint) if part is not types.NoneType)
    kind = Union[kinds] if len(kinds) > 1 else kinds[0]  # noqa: UP007 - the parts are known only here
    shown = next((extra for extra in extras if isinstance(extra, Shown)), Shown(metavar="VALUE"))
    return Flag(
        field=each.name,
        kind=kind,
        shown=shown,
        many=many,
        required=each.default is MISSING and each.default_factory is MISSING,
        default=None if each.default is MISSING else each.default,
        bounds=tuple(extra for extra in extras if isinstance(extra, (Ge, Gt, Le, Lt))),
    )


@cache
def field_docs(cls: type) -> Mapping[str, str]:
    """Field -> the string that stands below it, for a dataclass and the dataclasses it extends."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for statement, after in pairwise(tree.body):
            match statement, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    return found


# Groups of flags that have one meaning everywhere.


@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """What is printed."""

    json: bool = False
    """print JSON on stdout; text for people goes to stderr"""
    quiet: bool = False
    """print only the answer, warnings and errors"""
    verbose: bool = False
    """print more, and the traceback of an internal error"""


@dataclass(frozen=True, kw_only=True)
class SourceFlags(OutputFlags):
    """Where data comes from."""

    data: Annotated[Path | None, Shown("DIR", "~/data")] = None
    """folder of named data sets (mnist, ...) [$CONVWORKS_DATA]"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """of downloads and prepared images [$CONVWORKS_CACHE]"""
    labels: Annotated[Path | None, Shown("CSV", "labels.csv")] = None
    """table of path,label where no class folders say it"""
    offline: bool = False
    """never use the network [$CONVWORKS_OFFLINE]"""
    keep_empty: bool = False
    """count a class folder without images as a class"""
