"""Snapshots of a run with warm restarts: a model at the end of each cycle, where the rate is lowest.

    runs/NAME/snapshots/01/ 02/ ...      model bundles, numbered by cycle

Huang, Li, Pleiss, Liu, Hopcroft, Weinberger, "Snapshot ensembles: train 1, get M for free", 2017. A snapshot
is written before the checkpoint of its epoch: a run that is killed between the two makes it again, the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from convworks.bundle import save_bundle
from convworks.durable import remove_leftovers
from convworks.evaluation.metrics import Metrics
from convworks.flows.events import Note
from convworks.recipes.recipe import Recipe
from convworks.runs import Run
from convworks.training.schedule import cycle_ends

if TYPE_CHECKING:
    from convworks.flows.session import Session


def snapshot_folder(run: Run) -> Path:
    return run.path / "snapshots"


def cycles_done(recipe: Recipe, epochs: int) -> int:
    """How many cycles have ended after so many epochs; none without warm restarts."""
    spec = recipe.schedule
    if spec.name != "warm-restarts":
        return 0
    return len(cycle_ends(epochs, cycle=spec.cycle, growth=spec.cycle_growth))


def keep_first(run: Run, count: int) -> None:
    """Remove what does not belong to the first `count` cycles: what a killed attempt left over."""
    folder = snapshot_folder(run)
    if not folder.is_dir():
        return
    remove_leftovers(folder)
    for path in folder.iterdir():
        if path.name.isdecimal() and int(path.name) > count:
            shutil.rmtree(path, ignore_errors=True)


def save_at_cycle_end(session: Session, network: nn.Module, metrics: Metrics) -> Iterator[Note]:
    """Save the evaluated network where the epoch that is ending ends a cycle, and say so.

    A disk that refuses costs the snapshot and not the run: that is a warning.
    """
    recipe, epoch = session.recipe, session.position.epoch + 1
    number = cycles_done(recipe, epoch)
    if number == cycles_done(recipe, epoch - 1):
        return
    target = snapshot_folder(session.run) / f"{number:02d}"
    facts = {
        "epoch": epoch,
        "step": session.position.step,
        "cycle": number,
        "weights": "average" if session.average is not None else "raw",
        "precision": session.plan.precision,
        "memory_format": session.plan.memory_format,
        "split": "val",
        "metrics": metrics.to_dict(),
        "manifest": session.manifest,
        "run": session.run.name,
        "parameters": sum(p.numel() for p in session.network.parameters()),
    }
    try:
        target.parent.mkdir(exist_ok=True)
        save_bundle(
            target,
            weights=network.state_dict(),
            preprocess=session.prepared.preprocess,
            model=recipe.model,
            options=recipe.model_options,
            classes=session.prepared.dataset.classes,
            facts=facts,
        )
    except OSError as problem:
        why = problem.strerror or problem
        yield Note(f"cannot save the snapshot of cycle {number}: {why}", level="warning")
        return
    restarts = "; the learning rate restarts" if epoch < recipe.epochs else ""
    yield Note(
        f"snapshot {number}: {target}, after epoch {epoch}, validation accuracy {metrics.top1:.4f}{restarts}"
    )
