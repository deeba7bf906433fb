"""From flags, `--set`, a TOML file and a named recipe to one Recipe, with the source of every value.

Precedence: flag > --set > config file > recipe > default.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from convworks.errors import ConvworksError, closest
from convworks.recipes.recipe import Recipe, help_lines, leaves


def _keys_of(kind: type, cls: type = Recipe, prefix: str = "") -> frozenset[str]:
    """Dotted keys of the settings that may be of that kind: NoneType or tuple."""
    found: set[str] = set()
    for name, hint in get_type_hints(cls).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= _keys_of(kind, hint, f"{prefix}{name}.")
        elif any(part is kind or get_origin(part) is kind for part in (hint, *get_args(hint))):
            found.add(prefix + name)
    return frozenset(found)


OPTIONAL = _keys_of(type(None))  # may be without a value, as in  --set ema=none
LISTS = _keys_of(tuple)  # may be without brackets, as in  --set augment.area=0.08,1
# Settings that are tables of their own, with names of the user's.
TABLES = ("model_options", "optimizer.group_decay", "optimizer.group_rate", "transfer.freeze_after")
CONFIG_CAP = 1 << 20  # bytes of a TOML file


def read_config(path: Path) -> dict[str, Any]:
    """A TOML file as {dotted key: value}. Raises U110 where it cannot be read."""
    try:
        if path.stat().st_size > CONFIG_CAP:
            raise ValueError(f"it is larger than {CONFIG_CAP:,} bytes")
        return flatten(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as problem:
        raise ConvworksError(
            "U110",
            f"cannot read the settings in '{path}': {problem}",
            try_="write lines such as  epochs = 20  or  optimizer.lr = 0.1",
        ) from problem


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables to dotted keys; those of TABLES stay one value, with names that may have dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and prefix + key in TABLES:
            flat[prefix + key] = value if key == "model_options" else flatten(value)
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def parse_assignment(text: str) -> tuple[str, Any]:
    """'optimizer.lr=0.1' -> ('optimizer.lr', 0.1); a value that is no TOML is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConvworksError("U111", f"--set needs key=value, not '{text}'", try_="--set optimizer.lr=0.1")
    key, value = key.strip(), value.strip()
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
        return key, [parsed] if key in LISTS and not isinstance(parsed, list) else parsed
    except tomllib.TOMLDecodeError:
        if value.lower() in {"none", ""} and key in OPTIONAL:
            return key, None
        return key, _listed(value) if key in LISTS else value


def _listed(text: str) -> list[Any]:
    """'256,512' -> [256, 512]; words stay words."""
    try:
        return list(tomllib.loads(f"value = [{text}]")["value"])
    except tomllib.TOMLDecodeError:
        return [each.strip() for each in text.split(",") if each.strip()]


def build(values: Mapping[str, Any], base: Recipe) -> Recipe:
    """`base` with some dotted keys replaced, every type and range checked.

    Raises U101 for an unknown key (with the closest one), U112 for a value that does not fit.
    """
    known = help_lines()
    nested: dict[str, Any] = {}
    for key, value in {**dict(leaves(base)), **values}.items():
        table = _table_of(key)
        if key not in known and not table:
            near = closest(key, known)
            raise ConvworksError(
                "U101",
                f"there is no setting called '{key}'",
                where=f"did you mean '{near}'?" if near else "",
                try_="convworks train --help-all",
            )
        place = nested
        *parents, last = [*table.split("."), key[len(table) + 1 :]] if table else key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = dict(value) if isinstance(value, Mapping) else value
    try:
        return _reader().validate_python(nested)
    except ValidationError as problem:
        raise _bad_values(problem, known) from None


def _table_of(key: str) -> str:
    """The table that a key lies in: optimizer.group_decay.fc6 -> optimizer.group_decay; or ''."""
    return next((table for table in TABLES if key.startswith(table + ".")), "")


def _bad_values(problem: ValidationError, known: Mapping[str, tuple[str, Any]]) -> ConvworksError:
    lines, first = [], ""
    for each in problem.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in each["loc"] if not str(part).startswith("constrained-"))
        key = next((k for k in known if key == k or key.startswith(k + ".")), key)
        lines.append(f"{key} = {each['input']!r}: {each['msg'].removeprefix('Input should be ')}")
        first = first or key
    help_, default = known.get(first, ("", None))
    return ConvworksError(
        "U112",
        "a setting has a value that does not fit: " + "; ".join(dict.fromkeys(lines)),
        why=help_,
        try_=f"--set {first}={default}" if default is not None else "",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe, and for each key its source: 'flag', '--set', 'config x.toml', 'recipe y' or 'default'."""

    recipe: Recipe
    sources: Mapping[str, str]
    adaptable: bool = False  # nobody named a recipe: it may be fitted to the size of the data
    name: str = ""  # of the recipe that all began with


def resolve(
    *,
    base: Recipe,
    base_name: str,
    config: Path | None = None,
    assignments: tuple[str, ...] = (),
    flags: Mapping[str, Any] | None = None,
) -> Resolved:
    """One recipe out of all places where a value can be given. `flags` holds only those that were given."""
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if config is not None:
        layers.append((f"config {config.name}", read_config(config)))
    layers.append(("--set", dict(parse_assignment(each) for each in assignments)))
    layers.append(("flag", dict(flags or {})))
    default = Recipe()
    sources = {
        key: f"recipe {base_name}" if value != dict(leaves(default))[key] else "default"
        for key, value in leaves(base)
    }
    values: dict[str, Any] = {}
    for name, layer in layers:
        for key in layer:
            sources[_table_of(key) or key] = name
        values |= layer
    return Resolved(build(values, base), sources, name=base_name)


@cache
def _reader() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values, nested."""
    tree: dict[str, Any] = _reader().dump_python(recipe, mode="json")
    return tree


def from_dict(tree: Mapping[str, Any]) -> Recipe:
    """A recipe from a run's record; unknown keys and bad values are refused (U101, U112)."""
    return build(flatten(tree), Recipe())


def differences(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every setting that differs."""
    before = dict(leaves(old))
    return [(key, before[key], value) for key, value in leaves(new) if value != before[key]]
