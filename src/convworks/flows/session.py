"""The training session: from prepared data and a network to a finished run, stoppable at every step.

Everything that the paper's training section speaks of is a visible line here: when the rate drops, when the
network is evaluated, which weights are kept, when training ends.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from convworks.errors import ConvworksError
from convworks.evaluation.inference import EvaluationBatches, StoppedEarlyError, predict_probabilities
from convworks.evaluation.metrics import Metrics, measure
from convworks.flows import snapshots
from convworks.flows.events import EpochDone, Event, Note, Progress, Stopped
from convworks.flows.prepare import (
    Prepared,
    average_for,
    evaluation_loader,
    optimizer_for,
    schedule_for,
    step_settings,
    training_loader,
)
from convworks.flows.session_state import Best, diverged, packed, step_record, unpacked
from convworks.flows.technique_notes import plateau_note, technique_notes
from convworks.layers.arrangement import arrange, as_torch
from convworks.recipes.recipe import Recipe
from convworks.runs import MetricsLog, Run, append_timing
from convworks.training.checkpoint import (
    Checkpoint,
    best_name,
    load_checkpoint,
    load_into,
    remove_old,
    save_checkpoint,
    step_name,
)
from convworks.training.loop import (
    Batches,
    NotFiniteError,
    Position,
    Step,
    train_epoch,
    weights_are_finite,
)
from convworks.training.optimizer import load_state_tensors, state_tensors
from convworks.training.planner import Plan
from convworks.training.schedule import Plateau
from convworks.training.stochastic_depth import fold_survival_, survivals

StopRequest = Callable[[], bool]
_PROGRESS_SECONDS = 0.25
_STEP_RECORDS = 20  # lines about single steps in metrics.jsonl for each epoch


class Session:
    """Network, optimizer and position of one run, and the files that they are saved to.

    Where only a part of the network learns, on what the frozen rest computed once: `trainee` is that part,
    a module inside `network` or a row of its children under their names; `loader` gives its batches, and
    `validation` those of the validation images.
    `before_epoch(epoch)` is called with the epoch, from 0, before its first batch, and again before the first
    batch after a resume, when the network is in training mode.
    """

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        prepared: Prepared,
        network: nn.Module,
        plan: Plan,
        *,
        manifest: str,
        trainee: nn.Module | None = None,
        loader: Batches | None = None,
        validation: EvaluationBatches | None = None,
        before_epoch: Callable[[int], None] | None = None,
    ) -> None:
        self.run, self.recipe, self.prepared, self.plan, self.manifest = run, recipe, prepared, plan, manifest
        numerics = plan.numerics
        network = network.to(plan.device)
        self.network: nn.Module = network.to(memory_format=numerics.torch_memory_format)  # type: ignore[call-overload]
        arrange(self.network, fused=plan.fused, winograd=plan.winograd, amx=plan.amx)
        self.trainee = self.network if trainee is None else trainee
        places = (name for name, module in self.network.named_modules() if module is self.trainee)
        self._part = next(places, "")
        self.validation, self.before_epoch = validation, before_epoch
        self.optimizer: Optimizer = optimizer_for(recipe, self.trainee)
        self.position = Position()
        self.best = Best()
        spec = recipe.schedule
        self.plateau = Plateau(spec.patience, spec.max_drops, spec.factor)
        self.loader: Batches = loader or training_loader(
            prepared, recipe, numerics=numerics, workers=plan.workers
        )
        labels = prepared.dataset.labels[torch.from_numpy(prepared.dataset.split_rows("train"))]
        settings = step_settings(recipe, labels, len(prepared.dataset.classes), plan.device)
        settings.regularizers.prepare(self.network)
        if self.trainee is not self.network:
            acting = settings.regularizers.within(self.trainee, self._part)
            settings = replace(settings, regularizers=acting)
        self.settings = settings
        self.average = average_for(recipe, self.trainee, self.loader.steps)
        self.schedule = schedule_for(recipe, self.loader.steps)
        self._judge: nn.Module | None = None
        self.first_step = 0  # of this session: where it began or was resumed

    def begin(self) -> None:
        """Start from nothing: whatever an earlier attempt logged is cut off."""
        self.log = MetricsLog(self.run.metrics_file)
        snapshots.keep_first(self.run, 0)

    # --- saving and restoring -------------------------------------------------------------------------------

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put everything back as it was; the metrics log is cut to its length at that step."""
        where, state = checkpoint.path, checkpoint.state
        try:
            load_into(self.network.state_dict(), checkpoint.tensors["network"], where=where)
            load_state_tensors(self.trainee, self.optimizer, dict(checkpoint.tensors["optimizer"]))
            if self.average is not None:
                load_into(self.average.average, checkpoint.tensors["average"], where=where)
            self.position = Position(**state["position"])
            self.first_step = self.position.step
            self.position.batch = min(self.position.batch, self.loader.steps)  # images may have gone
            self.best = Best(**unpacked(state["best"]))
            self.plateau = Plateau(**unpacked(state["plateau"]))
            self.log = MetricsLog(self.run.metrics_file, length=int(state["metrics_bytes"]))
        except (KeyError, TypeError) as problem:
            raise ConvworksError(
                "A405", f"the checkpoint {where.name} does not fit this recipe: {problem}", where=str(where)
            ) from problem
        snapshots.keep_first(self.run, snapshots.cycles_done(self.recipe, self.position.epoch))

    def save(self) -> None:
        """A checkpoint of this very step. Raises N602 instead of saving weights that are not finite."""
        if not weights_are_finite(self.network):
            self._note_divergence(self.position.step)
            raise ConvworksError(
                "N602",
                f"a weight is not finite after step {self.position.step}",
                why="nothing was saved over the last good checkpoint",
                try_=f"convworks train ... --lr {self.recipe.optimizer.lr / 10:g}",
            )
        self.log.flush()
        state = {
            "position": asdict(self.position),
            "best": packed(self.best),
            "plateau": packed(self.plateau),
            "metrics_bytes": self.log.length,
            "manifest": self.manifest,
        }
        tensors = {
            "network": self.network.state_dict(),
            "optimizer": state_tensors(self.trainee, self.optimizer),
        }
        if self.average is not None:
            tensors["average"] = self.average.average
        save_checkpoint(self.run.checkpoints, step_name(self.position.step), tensors=tensors, state=state)
        remove_old(
            self.run.checkpoints, keep=self.recipe.keep_checkpoints, best_step=max(self.best.step, 0) or None
        )

    def try_to_save(self) -> Iterator[Event]:
        """Save; where the disk refuses, warn and go on: the checkpoint before is still whole."""
        try:
            self.save()
        except OSError as problem:
            free = shutil.disk_usage(self.run.path).free
            yield Note(
                f"cannot save a checkpoint in {self.run.checkpoints}: {problem.strerror or problem} "
                f"({free / 1e6:,.0f} MB free); the one before is kept, and I try again",
                level="warning",
            )

    # --- one epoch ------------------------------------------------------------------------------------------

    def train_epoch(self, should_stop: StopRequest) -> Generator[Event, None, bool]:
        """The rest of the current epoch. Returns True where it was asked to stop."""
        position, steps = self.position, self.loader.steps
        start, shown, images = time.perf_counter(), 0.0, 0
        every = max(1, steps // _STEP_RECORDS)
        try:
            with closing(self._steps()) as made:
                for step in made:
                    images += step.images
                    if step.step % every == 0:
                        self.log.append({"kind": "step", **step_record(step)})
                    if should_stop():
                        return True
                    if position.step % self.plan.checkpoint_every == 0 and position.batch < steps:
                        yield from self.try_to_save()
                    now = time.perf_counter()
                    if now - shown > _PROGRESS_SECONDS:
                        shown = now
                        yield self._progress(images / (now - start))
        except NotFiniteError as problem:
            self._note_divergence(problem.step)
            raise diverged(problem, self.prepared.dataset, self.recipe.optimizer.lr) from problem
        return should_stop()

    def _note_divergence(self, step: int) -> None:
        append_timing(self.run, event="diverged", epoch=self.position.epoch + 1, step=step)

    def _learning_rate(self, step: int) -> float:
        """The rate of a step, counted from 0, with the plateau as it stands."""
        return self.settings.lr * self.schedule(step) * self._plateau_multiplier

    @property
    def _plateau_multiplier(self) -> float:
        return self.plateau.multiplier if self.recipe.schedule.name == "plateau" else 1.0

    def _steps(self) -> Generator[Step]:
        multiplier = self._plateau_multiplier
        return train_epoch(
            self.trainee,
            self.loader,
            self.optimizer,
            position=self.position,
            schedule=lambda step: self.schedule(step) * multiplier,
            settings=self.settings,
            numerics=self.plan.numerics,
            average=self.average,
            before_epoch=self.before_epoch,
        )

    def _progress(self, rate: float) -> Progress:
        position, recipe = self.position, self.recipe
        left = (recipe.epochs * self.loader.steps - position.step) * recipe.batch / max(rate, 1e-9)
        seen = max(position.seen, 1)
        return Progress(
            epoch=position.epoch + 1,
            epochs=recipe.epochs,
            step=position.batch,
            steps=self.loader.steps,
            loss=position.loss_sum / seen,
            accuracy=position.correct / seen,
            images_per_second=rate,
            seconds_left=left,
        )

    # --- evaluation -----------------------------------------------------------------------------------------

    def evaluated_network(self) -> nn.Module:
        """A copy with the weights that count: the average where the recipe keeps one.

        With stochastic depth the survival probabilities are in its weights: it is an ordinary network.
        """
        if self._judge is None:
            self._judge = as_torch(copy.deepcopy(self.network))
        weights: dict[str, Any] = self.network.state_dict()
        if self.average is not None:
            prefix = f"{self._part}." if self._part else ""
            weights |= {prefix + name: value for name, value in self.average.average.items()}
        load_into(self._judge.state_dict(), weights, where=self.run.path)
        fold_survival_(self._judge, survivals(self.network))
        return self._judge.eval()

    def validate(self, network: nn.Module, should_stop: StopRequest) -> Metrics:
        """Metrics of an evaluated network on the validation images, by the features kept where there are."""
        if self.validation is None:
            return self.evaluate(network, "val", should_stop)[0]
        part, dataset = self._part_of(network), self.prepared.dataset
        found = predict_probabilities(part, self.validation, self.plan.numerics, should_stop=should_stop)
        return measure(found, dataset.labels.numpy()[dataset.split_rows("val")], dataset.classes)

    def _part_of(self, network: nn.Module) -> nn.Module:
        """What the trainee is in a copy of the network."""
        if self._part or self.trainee is self.network:
            return network.get_submodule(self._part)
        names = [name for name, _ in self.trainee.named_children()]
        return nn.Sequential(OrderedDict((name, network.get_submodule(name)) for name in names))

    def evaluate(self, network: nn.Module, split: str, should_stop: StopRequest) -> tuple[Metrics, Any, Any]:
        """(metrics, probabilities, rows) on a split. Raises StoppedEarlyError when asked to stop."""
        dataset = self.prepared.dataset
        rows = dataset.split_rows(split)
        loader = evaluation_loader(
            dataset.images,
            dataset.labels,
            rows,
            self.prepared.preprocess,
            batch=self.recipe.batch,
            numerics=self.plan.numerics,
            workers=self.plan.workers,
        )
        probabilities = predict_probabilities(network, loader, self.plan.numerics, should_stop=should_stop)
        labels = dataset.labels.numpy()[rows]
        return measure(probabilities, labels, dataset.classes), probabilities, rows

    def finish_epoch(self, should_stop: StopRequest, start: float) -> Iterator[Event]:
        """Evaluate, record, keep the best weights, move the plateau on, save. Raises StoppedEarlyError."""
        position, recipe = self.position, self.recipe
        network = self.evaluated_network()
        metrics = self.validate(network, should_stop)
        self.best, better = self.best.after(
            metrics, epoch=position.epoch, step=position.step, keep=recipe.keep
        )
        if better:
            yield from self._keep_best(network)
        lr = self._learning_rate(position.step - 1)
        if recipe.schedule.name == "plateau":
            before, self.plateau = self.plateau, self.plateau.after_epoch(metrics.top1)
            yield from plateau_note(before, self.plateau, self.settings.lr)
        seen = max(position.seen, 1)
        record: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "train_loss": position.loss_sum / seen,
            "train_accuracy": position.correct / seen,
            "val_loss": metrics.loss,
            "val_accuracy": metrics.top1,
            "val_balanced_accuracy": metrics.balanced_accuracy,
            "lr": lr,
            "best": better,
        }
        self.log.append({"kind": "epoch", "step": position.step, **record})
        seconds = time.perf_counter() - start
        append_timing(
            self.run, event="epoch", epoch=position.epoch + 1, step=position.step, wall_seconds=seconds
        )
        yield from snapshots.save_at_cycle_end(self, network, metrics)
        position.next_epoch()
        yield from self.try_to_save()
        yield EpochDone(epochs=recipe.epochs, seconds=seconds, **record)

    def _keep_best(self, network: nn.Module) -> Iterator[Event]:
        try:
            save_checkpoint(
                self.run.checkpoints,
                best_name(self.best.step),
                tensors={"network": network.state_dict()},
                state={"best": packed(self.best)},
            )
        except OSError as problem:
            yield Note(f"cannot save the best weights: {problem.strerror or problem}", level="warning")

    # --- the whole ------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        patience = self.recipe.early_stopping
        return self.position.epoch >= self.recipe.epochs or (
            patience is not None and self.best.waited >= patience
        )

    def train(self, should_stop: StopRequest) -> Generator[Event, None, bool]:
        """All epochs that are left. Returns True where it was asked to stop; the state is saved then."""
        self.run.checkpoints.mkdir(exist_ok=True)
        if not self.over:
            yield from technique_notes(self.recipe, self.trainee, self.settings.regularizers)
        while not self.over:
            start = time.perf_counter()
            stopped = yield from self.train_epoch(should_stop)
            if not stopped:
                try:
                    yield from self.finish_epoch(should_stop, start)
                except StoppedEarlyError:
                    stopped = True
            if stopped:
                yield from self._stop()
                return True
        return False

    def _stop(self) -> Iterator[Event]:
        start = time.perf_counter()
        yield from self.try_to_save()
        append_timing(self.run, event="stop", epoch=self.position.epoch + 1, step=self.position.step)
        yield Stopped(
            self.run.path,
            self.position.epoch + 1,
            self.position.batch,
            self.loader.steps,
            time.perf_counter() - start,
        )

    def load_best(self) -> nn.Module:
        """The network with the weights that are kept."""
        network = self.evaluated_network()
        path = self.run.checkpoints / best_name(self.best.step)
        if path.is_dir():
            load_into(network.state_dict(), load_checkpoint(path).tensors["network"], where=path)
        return network
