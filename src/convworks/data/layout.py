"""From a list of relative paths to classes and splits: the one place where a layout is understood.

Folders, zip files and tar files give the same kind of list, so they are understood by the same lines. Labels
are the names of the first folder level, below the split folders (train, val, test) where there are some.
"""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convworks.data.recognise import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    has_image_signature,
    read_head,
    suffix_of,
)
from convworks.data.sources import SPLITS, Entry, Ignored, Listing, Split, listed, natural_key, shown
from convworks.errors import ConvworksError

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(slots=True)
class Found:
    """The regular files and all folders of a location, by posix relative path, junk taken out."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def is_image(path: Path) -> bool:
    """Whether one regular file is an image by its ending or its first bytes."""
    if suffix_of(path.name) in IMAGE_SUFFIXES:
        return True
    try:
        return has_image_signature(read_head(path))
    except OSError:
        return False


def split_of(name: str) -> Split | None:
    """The split that a folder name or a table value stands for, in any case of letters."""
    return _SPLIT_NAMES.get(name.lower())


def understand(
    found: Found, *, location: str, head: Callable[[str], bytes], keep_empty: bool = False
) -> Listing:
    """Classes, splits and entries of a list of files.

    `head` gives the first bytes of a file whose ending is unknown; it may raise OSError or ConvworksError.
    Raises ConvworksError D103 (no image), D104 (images outside class folders), D105 (one class), D106 (two
    folders for one split), D107 (class names that differ in their Unicode form only).
    """
    images, no_images = _images_among(found.files, head)
    ignored = [*found.ignored, *no_images]
    if not images:
        raise _no_images(location, ignored)
    wrapper = _wrapper(images, _without_files(found))
    tops = _tops(images, wrapper)
    splits = {top: split for top in tops if (split := split_of(top)) is not None}
    warnings = list(found.warnings)
    if splits and not _are_splits(tops, splits):
        others = listed(sorted(set(tops) - set(splits)))
        warnings.append(
            f"the folder {listed(splits)} is taken for a class, since {others} beside it cannot be a split"
        )
        splits = {}
    _one_folder_each(splits, os.path.join(location, wrapper))

    entries: list[Entry] = []
    strays: list[Ignored] = []
    for path in images:
        split, label = _split_and_label(path[len(wrapper) :], splits)
        if label is None:
            strays.append(Ignored(path, "an image outside the class folders"))
        else:
            entries.append(Entry(path, label, split))
    if not entries:
        raise _no_class_folders(location, wrapper, images, found, splits)
    if strays:
        warnings.append(f"{_outside(strays)}: without a label, left out")

    labels = {entry.label for entry in entries if entry.label is not None}
    empty = sorted(_class_folders(found.folders, wrapper, splits) - labels, key=natural_key)
    if empty and not keep_empty:
        warnings.append(f"no image in the class folder {listed(empty)}: left out (--keep-empty keeps it)")
    classes, about_names = check_classes(
        labels.union(empty if keep_empty else ()), location=location, folders=True
    )
    entries.sort(key=lambda entry: natural_key(entry.path))
    return Listing(
        layout=_in_words(wrapper, splits, entries),
        entries=tuple(entries),
        classes=classes,
        ignored=tuple(sorted([*ignored, *strays], key=lambda item: natural_key(item.path))),
        warnings=(*warnings, *about_names, *missing_in_splits(entries)),
    )


def check_classes(
    labels: Iterable[str], *, location: str, folders: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names in natural order, and warnings about names that differ in case only.

    Raises ConvworksError D105 for fewer than two classes and D107 for the same name in two Unicode forms.
    """
    classes = tuple(sorted(labels, key=natural_key))
    composed: dict[str, str] = {}
    folded: dict[str, list[str]] = {}
    for name in classes:
        normal = unicodedata.normalize("NFC", name)
        if normal in composed:
            raise ConvworksError(
                "D107",
                f"two classes are both called '{shown(normal)}', written in different Unicode forms",
                where=f"{composed[normal]!a} and {name!a} in {shown(location)}",
                why="they look the same everywhere, so it cannot be seen which one a prediction means",
                try_=f"ls {shlex.quote(location)} | cat -v",
            )
        composed[normal] = name
        folded.setdefault(normal.casefold(), []).append(name)
    if len(classes) < 2:
        one = f"'{shown(classes[0])}'" if classes else "none"
        raise ConvworksError(
            "D105",
            f"{shown(location)} has only one class: {one}",
            why="a classifier learns the difference between classes, so it needs two or more; "
            + ("each class is a folder of its own" if folders else "each row names the class of one image"),
            try_="convworks train digits",
        )
    alike = [names for names in folded.values() if len(names) > 1]
    return classes, tuple(
        f"the classes {listed(names)} differ only in upper and lower case" for names in alike
    )


def missing_in_splits(entries: Sequence[Entry]) -> list[str]:
    """Warnings for classes that some split lacks."""
    present: dict[Split, set[str]] = {}
    for entry in entries:
        if entry.split is not None and entry.label is not None:
            present.setdefault(entry.split, set()).add(entry.label)
    every = set().union(*present.values())
    return [
        f"no image in {split} of the class {listed(sorted(every - labels, key=natural_key))}"
        for split, labels in present.items()
        if every - labels
    ]


def _images_among(files: list[str], head: Callable[[str], bytes]) -> tuple[list[str], list[Ignored]]:
    images, others = [], []
    for path in files:
        suffix = suffix_of(path)
        if suffix in IMAGE_SUFFIXES:
            images.append(path)
        elif suffix in OTHER_SUFFIXES:
            others.append(Ignored(path, f"not an image (.{suffix})"))
        else:
            try:
                known = has_image_signature(head(path))
            except ConvworksError as problem:
                others.append(Ignored(path, problem.what))
            except OSError as problem:
                others.append(Ignored(path, (problem.strerror or str(problem)).lower()))
            else:
                if known:
                    images.append(path)
                else:
                    others.append(Ignored(path, "not an image"))
    return images, others


def _without_files(found: Found) -> set[str]:
    """Top folders below which no file lies at all: meant as classes, so nothing beside them is a wrapper."""
    return {f.partition("/")[0] for f in found.folders} - {f.partition("/")[0] for f in found.files}


def _wrapper(images: list[str], empty_tops: set[str]) -> str:
    """The prefix of single folders around everything ('caltech10/'), or ''. A class is no wrapper."""
    prefix = ""
    while not (prefix == "" and empty_tops):
        start = len(prefix)
        top, slash, rest = images[0][start:].partition("/")
        longer = prefix + top + "/"
        if not slash or split_of(top) is not None or "/" not in rest:
            break
        if not all(path.startswith(longer) and "/" in path[len(longer) :] for path in images):
            break
        prefix = longer
    return prefix


def _tops(images: list[str], wrapper: str) -> dict[str, bool]:
    """Top folder -> whether images lie deeper than directly in it."""
    tops: dict[str, bool] = {}
    for path in images:
        top, slash, rest = path[len(wrapper) :].partition("/")
        if slash:
            tops[top] = tops.get(top, False) or "/" in rest
    return tops


def _are_splits(tops: dict[str, bool], splits: dict[str, Split]) -> bool:
    """'train' among vehicles is a class: folders are splits if all are, or two kinds hold class folders."""
    return len(splits) == len(tops) or len({split for top, split in splits.items() if tops[top]}) > 1


def _one_folder_each(splits: dict[str, Split], place: str) -> None:
    counts = Counter(splits.values())
    for split, count in counts.items():
        if count > 1:
            same = sorted(top for top, kind in splits.items() if kind == split)
            raise ConvworksError(
                "D106",
                f"{count} folders stand for the split '{split}': {listed(same)}",
                where=shown(place),
                why="using one of them, or both as one, would change every number without saying so",
                try_=f"mv {shlex.quote(os.path.join(place, same[1]))} {shlex.quote(same[1] + '-unused')}",
            )


def _split_and_label(path: str, splits: dict[str, Split]) -> tuple[Split | None, str | None]:
    top, slash, rest = path.partition("/")
    if not splits:
        return None, top if slash else None
    label, slash, _ = rest.partition("/")
    if top not in splits or not slash:
        return None, None
    return splits[top], label


def _class_folders(folders: list[str], wrapper: str, splits: dict[str, Split]) -> set[str]:
    """Names of all folders that stand where class folders stand, with images or without."""
    names = set()
    for folder in folders:
        if folder.startswith(wrapper):
            top, _, rest = folder[len(wrapper) :].partition("/")
            names.add(rest.partition("/")[0] if top in splits else "" if splits else top)
    return names - {""}


def _in_words(wrapper: str, splits: dict[str, Split], entries: list[Entry]) -> str:
    depth = wrapper.count("/") + (2 if splits else 1)
    words = "one folder per class"
    if splits:
        used = {entry.split for entry in entries}
        tops = {split: top for top, split in splits.items()}
        words += " in " + ", ".join(f"{shown(tops[s])}/" for s in SPLITS if s in used)
        words += "" if "val" in used else ", no validation folder"
    else:
        words += ", no split folders"
    if wrapper:
        words += f" (inside {shown(wrapper)})"
    if any(entry.path.count("/") > depth for entry in entries):
        words += "; deeper folders belong to the class they lie in"
    return words


def _outside(strays: list[Ignored]) -> str:
    count = "one image lies" if len(strays) == 1 else f"{len(strays)} images lie"
    return f"{count} outside the class folders ({listed([s.path for s in strays], most=3)})"


def _no_images(location: str, ignored: list[Ignored]) -> ConvworksError:
    reasons = Counter(item.reason for item in ignored).most_common(4)
    found = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    return ConvworksError(
        "D103",
        f"there is no image in {shown(location)}",
        where=f"found and left out: {found}" if found else "it is empty",
        why="expected one folder of images per class, such as cat/1.jpg and dog/2.jpg",
        try_="convworks train digits",
    )


def _no_class_folders(
    location: str, wrapper: str, images: list[str], found: Found, splits: dict[str, Split]
) -> ConvworksError:
    inside = f"{shown(next(iter(splits)))}/" if splits else ""
    tables = [f for f in found.files if f.endswith((".csv", ".tsv")) and "/" not in f[len(wrapper) :]]
    table = os.path.join(location, tables[0]) if tables and os.path.isdir(location) else "labels.csv"
    return ConvworksError(
        "D104",
        f"{shown(location)} has {len(images)} image{'s' * (len(images) > 1)} and no class folders",
        where=f"for example {shown(images[0])}",
        why=f"labels are the names of folders, such as {inside}cat/1.jpg and {inside}dog/2.jpg, "
        "or come from a table of path,label",
        try_=f"convworks train {shlex.quote(location)} --labels {shlex.quote(table)}",
    )
