"""Training that begins with weights of another: found, fetched, copied into the new network, recorded.

Only the beginning of a run needs them. What a run was begun with is in its `pretrained.json`; after its first
checkpoint the file may be gone, and before it the file must be the same one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from convworks.data.remote import megabytes
from convworks.durable import folder_damage, read_json
from convworks.errors import ConvworksError
from convworks.flows.events import Note
from convworks.flows.initial import initialise_as_wanted
from convworks.flows.prepare import DataRequest, Prepared, build_network
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import Resolved
from convworks.runs import Run
from convworks.weights.files import WeightFile, read_weights
from convworks.weights.load import Loaded, fill
from convworks.weights.published import bring, find_published, folder_of
from convworks.weights.staged import Staged, copy_shared

RECORD = "pretrained.json"
STAGED_RECORD = "init.json"
MOST_NAMES = 4
MOST_LAYERS = 8


def absolute(resolved: Resolved) -> Resolved:
    """The same recipe with the whole path of its weights, so that resuming works from any folder."""
    recipe = resolved.recipe
    return replace(
        resolved, recipe=replace(recipe, pretrained=_whole(recipe.pretrained), init=_whole(recipe.init))
    )


def _whole(given: str | None) -> str | None:
    if given is None or not Path(given).expanduser().exists():
        return given
    return str(Path(given).expanduser().absolute())


def fetched(recipe: Recipe, data: DataRequest) -> Iterator[Note]:
    """Bring published weights before a folder is made, and say first how large they are.

    Raises U195 (neither a path nor a published name), and those of `published.bring`.
    """
    if recipe.pretrained is None or Path(recipe.pretrained).exists():
        return
    row = find_published(recipe.model, recipe.pretrained, recipe.model_options)
    folder = folder_of(row, data.cache)
    if not data.offline and (not folder.is_dir() or folder_damage(folder)):
        yield Note(f"downloading {row.file} ({megabytes(row.size)}) to {folder.parent}")
    bring(row, cache=data.cache, offline=data.offline)


def new_network(
    run: Run, recipe: Recipe, prepared: Prepared, data: DataRequest, *, begin: bool
) -> Generator[Note, None, nn.Module]:
    """The recipe's network; where the run begins, with the weights that it is to begin with.

    Raises A420 where the run was begun with other bytes, and those of `load_weights` and `copy_shared`.
    """
    network = build_network(recipe, len(prepared.dataset.classes), prepared.dataset.geometry)
    told = initialise_as_wanted(network, recipe, prepared) if begin else ""
    if told:
        yield Note(told)
    if recipe.pretrained is not None and begin:
        path = Path(recipe.pretrained)
        if not path.exists():
            row = find_published(recipe.model, recipe.pretrained, recipe.model_options)
            path = bring(row, cache=data.cache, offline=data.offline)
        found = read_weights(path)
        _require_the_same(run, found, RECORD)
        loaded = fill(
            network,
            found,
            model=recipe.model,
            options=recipe.model_options,
            new_head=True,
            classes=prepared.dataset.classes,
        )
        run.write_json(run.path / RECORD, {"from": recipe.pretrained, **loaded.to_dict()})
        yield Note(_told(path, loaded))
    if recipe.init is not None and begin:
        found = read_weights(Path(recipe.init))
        _require_the_same(run, found, STAGED_RECORD)
        staged = copy_shared(
            network,
            found,
            model=recipe.model,
            options=recipe.model_options,
            classes=prepared.dataset.classes,
        )
        run.write_json(run.path / STAGED_RECORD, {"from": recipe.init, **staged.to_dict()})
        for line in _told_staged(recipe.init, staged):
            yield Note(line)
    return network


def _require_the_same(run: Run, found: WeightFile, name: str) -> None:
    record = run.path / name
    before: Any = read_json(record) if record.is_file() else {}
    if isinstance(before, dict) and before.get("sha256", found.sha256) != found.sha256:
        raise ConvworksError(
            "A420",
            f"the weights in {found.path} are not those that the run {run.name} was begun with",
            where=f"expected sha256 {str(before['sha256'])[:12]}, found {found.sha256[:12]}",
            why="the result would be that of another training",
            try_="the same command with --fresh",
        )


def _told(path: Path, loaded: Loaded) -> str:
    heads = {
        "file": "with its last layer: the classes are the same",
        "rows": "with its last layer, in the order of these classes",
        "new": "with a new last layer",
    }
    parts = sorted({name.rpartition(".")[0] for name in loaded.initial})
    more = f" and {len(parts) - MOST_NAMES} more" if len(parts) > MOST_NAMES else ""
    new = f"; new: {', '.join(parts[:MOST_NAMES])}{more}" if parts else ""
    return f"weights from {path} ({loaded.names}'s names), {heads[loaded.head]}{new}"


def _told_staged(path: str, staged: Staged) -> Iterator[str]:
    """Which layers were copied, and which were not and why."""
    source = f" ({staged.source})" if staged.source else ""
    number = f"{len(staged.copied)} layer{'s' * (len(staged.copied) != 1)}"
    yield f"{number} copied from {path}{source}, by {staged.rule}: {_few(staged.copied)}"
    if staged.left:
        yield f"not copied: {_few([f'{layer} ({reason})' for layer, reason in staged.left.items()])}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_LAYERS} more" if len(names) > MOST_LAYERS else ""
    return ", ".join(names[:MOST_LAYERS]) + more
