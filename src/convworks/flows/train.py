"""Train and resume: from a request to events, one after the other, until the run is finished or stopped."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from convworks import models
from convworks.data.manifest import Manifest
from convworks.data.preprocess import Geometry
from convworks.data.store import ScanInterrupted
from convworks.durable import read_json
from convworks.errors import ConvworksError, unknown_name
from convworks.evaluation.inference import StoppedEarlyError
from convworks.flows import pretrained, transfer
from convworks.flows.announce import environment, what_was_found, what_will_be_done
from convworks.flows.events import Event, Note, Stopped
from convworks.flows.feature_store import FeaturesInterruptedError
from convworks.flows.plan import SURE, forget_misled, plan_training, with_kernels
from convworks.flows.prepare import DataRequest, Prepared, prepare_data, request_from_dict
from convworks.flows.quantized import finish
from convworks.flows.session import Session, StopRequest
from convworks.flows.warning_log import logged
from convworks.machine import HostShare
from convworks.ops.autotune import remember_choices
from convworks.recipes.defaults import adapt_to_size, compliance_of
from convworks.recipes.recipe import SAFE_KEYS, Recipe
from convworks.recipes.resolve import Resolved, differences, from_dict, to_dict
from convworks.runs import Run, append_timing, create_run, list_runs, open_run, require_space
from convworks.training.allocator import keep_pages
from convworks.training.checkpoint import Checkpoint, checkpoint_steps, newest_valid
from convworks.training.planner import Plan, choose_device, plan_from_dict

PLAN_KEYS = frozenset(
    {"device", "precision", "memory_format", "winograd", "amx", "threads", "batch", "accumulate", "model"}
)


def never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """A training, as asked for."""

    data: DataRequest
    resolved: Resolved
    out: Path = Path("runs")
    name: str | None = None
    command: tuple[str, ...] = ()
    fresh: bool = False  # never continue an earlier run
    rescue: Path | None = None  # where the model goes if the run's disk is full at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """A stopped run, and what may be different this time."""

    run: Path
    cache: Path
    offline: bool = False
    changes: Resolved | None = None  # its recipe is the run's with some values replaced
    override: bool = False  # accept changes that alter the result
    accept_data_change: bool = False
    rescue: Path | None = None


def train(request: TrainRequest, *, should_stop: StopRequest = never) -> Generator[Event]:
    """Train a network. The same request again continues a run that was stopped, and never a finished one.

    Raises ConvworksError; nothing was computed where it is a usage, name or permission error.
    """
    keep_pages()
    recipe = request.resolved.recipe
    if recipe.model not in models.names():
        raise unknown_name("model", recipe.model, models.names(), try_="convworks train ... --model {near}")
    resolved, notes = transfer.fitted(pretrained.absolute(request.resolved))
    request = replace(request, resolved=resolved)
    yield from notes
    yield from announce_download(request.data)
    yield from pretrained.fetched(request.resolved.recipe, request.data)
    with request.data.open() as source:
        base = f"{source.name}-{recipe.model}"
        images = sum(entry.split in {None, "train"} for entry in source.entries)
    request = replace(request, resolved=adapt_to_size(request.resolved, images))
    choose_device(recipe.device)  # said before a folder is made
    record = _record(request)
    earlier = None if request.fresh else _unfinished(request, record, base)
    if earlier is not None:
        yield Note(f"continuing {earlier.path}, which the same command began (--fresh starts another)")
        yield from _run(earlier, request.data, request.resolved, should_stop, rescue=request.rescue)
        return
    run = create_run(request.out, base, name=request.name)
    with run.locked():  # only its owner may remove the folder again
        try:
            require_space(run.path, 64 * 2**20)
            run.write_json(run.recipe_file, record)
            trained = _locked_run(run, request.data, request.resolved, should_stop, rescue=request.rescue)
            yield from logged(run, trained)
        except ConvworksError as problem:
            if not problem.code.startswith("N"):  # a run that diverged has something to show
                _remove_if_untrained(run)
            raise


def resume(request: ResumeRequest, *, should_stop: StopRequest = never) -> Generator[Event]:
    """Continue a run where it was saved. It ends with the same bits as one that was never stopped.

    Raises A410 (no run there), U131 (settings that alter the result changed, without `override`), D145 (other
    images, without `accept_data_change`), R510 (in use).
    """
    keep_pages()
    run = open_run(request.run)
    record = run.record()
    recipe = from_dict(record["recipe"])
    sources: dict[str, str] = dict(record.get("provenance", {}))
    name = str(record.get("recipe_name", ""))
    if request.changes is not None:
        changed = differences(recipe, request.changes.recipe)
        _check_changes(run, changed, override=request.override)
        recipe = request.changes.recipe
        sources |= {key: request.changes.sources[key] for key, _, _ in changed}
        if changed:
            record["recipe"], record["provenance"] = to_dict(recipe), sources
            record["compliance"] = compliance_of(Resolved(recipe, sources, name=name))
            unsafe = [key for key, _, _ in changed if key not in SAFE_KEYS]
            if PLAN_KEYS.intersection(unsafe):
                run.plan_file.unlink(missing_ok=True)  # it is measured anew, as wanted now
            run.write_json(run.recipe_file, record)
            _stamp(run, unsafe)
    if run.finished:
        yield Note(f"{run.name} is finished: there is nothing to continue")
        return
    data = request_from_dict(record["data"], cache=request.cache, offline=request.offline)
    yield from _run(
        run,
        data,
        Resolved(recipe, sources, name=name),
        should_stop,
        rescue=request.rescue,
        accept_data_change=request.accept_data_change,
    )


def announce_download(data: DataRequest) -> Iterator[Note]:
    """Say what is about to be downloaded, and how large it is, before it is."""
    pending = data.pending_download()
    if pending:
        yield Note(pending)


def _record(request: TrainRequest) -> dict[str, Any]:
    return {
        "format": 1,
        "recipe": to_dict(request.resolved.recipe),
        "recipe_name": request.resolved.name,
        "compliance": compliance_of(request.resolved),
        "provenance": dict(request.resolved.sources),
        "data": request.data.to_dict(),
        "command": list(request.command),
        "environment": environment(),
    }


def _unfinished(request: TrainRequest, record: Mapping[str, Any], base: str) -> Run | None:
    """The newest run that the same request began and that is not finished."""
    if request.name is not None:
        path = request.out / request.name
        if not (path / "recipe.json").is_file():
            return None
        run = Run(path)
        if run.finished:
            return None  # making it again is refused by create_run, with the reason
        changed = differences(from_dict(run.record()["recipe"]), request.resolved.recipe)
        if changed or run.record()["data"] != record["data"]:
            raise _other_run(run, changed)
        return run
    for run in reversed(list_runs(request.out)):
        if run.finished or not run.name.startswith(base):
            continue
        with contextlib.suppress(ConvworksError):  # a damaged record is not the same request
            found = run.record()
            if found["recipe"] == record["recipe"] and found["data"] == record["data"]:
                try:
                    with run.locked():
                        return run
                except ConvworksError:
                    continue  # another process is at it
    return None


def _other_run(run: Run, changed: list[tuple[str, Any, Any]]) -> ConvworksError:
    listed = "; ".join(f"{key} was {old}, is {new}" for key, old, new in changed[:5])
    return ConvworksError(
        "U131",
        f"the run {run.name} was begun with other settings: {listed or 'other data'}",
        where=str(run.path),
        try_=f"convworks resume {run.path}, or another --name",
    )


def _stamp(run: Run, changes: list[str]) -> None:
    """Record for good that something which decides the result was changed in the middle of the run."""
    record = run.record()
    record["overrides"] = sorted({*record.get("overrides", []), *changes})
    run.write_json(run.recipe_file, record)


def _check_changes(run: Run, changed: list[tuple[str, Any, Any]], *, override: bool) -> None:
    unsafe = [each for each in changed if each[0] not in SAFE_KEYS]
    if unsafe and not override:
        listed = "; ".join(f"{key}: {old} -> {new}" for key, old, new in unsafe[:5])
        raise ConvworksError(
            "U131",
            f"these settings would change what {run.name} computes: {listed}",
            why="the result would be neither the old recipe's nor the new one's",
            try_=f"convworks resume {run.path} --override ...  (it is written into the report)",
        )


def _remove_if_untrained(run: Run) -> None:
    """A run that failed before anything was learnt leaves no folder behind."""
    if not checkpoint_steps(run.checkpoints):
        shutil.rmtree(run.path, ignore_errors=True)


def _run(
    run: Run, data: DataRequest, resolved: Resolved, should_stop: StopRequest, **options: Any
) -> Iterator[Event]:
    with run.locked():
        yield from logged(run, _locked_run(run, data, resolved, should_stop, **options))


def _locked_run(
    run: Run,
    data: DataRequest,
    resolved: Resolved,
    should_stop: StopRequest,
    *,
    rescue: Path | None = None,
    accept_data_change: bool = False,
) -> Generator[Event]:
    """Prepare, plan, train and finish, from the newest checkpoint where there is one."""
    started = time.perf_counter()
    recipe = resolved.recipe
    checkpoint, warnings = newest_valid(run.checkpoints)
    for warning in warnings:
        yield Note(warning, level="warning", code="A403")
    expected = Manifest.load(run.manifest_file) if run.manifest_file.is_file() else None
    geometry = _stored_geometry(run)
    try:
        prepared = prepare_data(
            data,
            recipe,
            expected=expected,
            geometry=geometry,
            accept_changes=accept_data_change,
            should_stop=should_stop,
        )
    except ScanInterrupted:
        yield Stopped(run.path, 1, 0, 0, 0.0)
        return
    except ConvworksError as problem:
        raise problem.trying("convworks resume RUN ", f"convworks resume {run.path} ") from problem.__cause__
    manifest = prepared.dataset.manifest
    if expected is not None and expected.sha256 != manifest.sha256:
        _stamp(run, ["data"])
    manifest.save(run.manifest_file)
    run.write_json(run.geometry_file, asdict(prepared.dataset.geometry))
    yield what_was_found(prepared)
    network = yield from pretrained.new_network(run, recipe, prepared, data, begin=checkpoint is None)
    remember_choices(run.path / "convolutions.json")  # of layers with algorithm="auto": resuming keeps them
    plan = _plan(run, prepared, recipe, network, cache=data.cache)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    if plan.device.startswith("cuda"):
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        session = yield from transfer.new_session(
            run, recipe, prepared, network, plan, manifest.sha256, checkpoint, data.cache, should_stop
        )
        _begin(session, checkpoint)
        yield what_will_be_done(session, resolved, resumed=checkpoint is not None)
        stopped = yield from _trained(session, plan, data.cache, should_stop)
        if not stopped:
            try:
                yield from finish(session, should_stop, rescue=rescue, started=started)
            except StoppedEarlyError:
                yield Stopped(run.path, session.position.epoch, 0, session.loader.steps, 0.0)
    except FeaturesInterruptedError:
        yield Stopped(run.path, 1, 0, 0, 0.0)
    finally:
        torch.set_num_threads(threads_before)


def _trained(
    session: Session, plan: Plan, cache: Path | None, should_stop: StopRequest
) -> Generator[Event, None, bool]:
    """All epochs that are left. Returns True where it was asked to stop."""
    recipe, start, host = session.recipe, time.perf_counter(), HostShare()
    stopped = yield from session.train(should_stop)
    seconds = time.perf_counter() - start
    disturbed = host.disturbance("this run trained: it took longer than it needs")
    if disturbed and seconds >= SURE:
        yield Note(disturbed)
    rests = recipe.transfer.freeze != "none" or recipe.transfer.unfreeze or recipe.transfer.freeze_after
    if not rests:  # else steps are faster than those that were planned with
        images = (session.position.step - session.first_step) * recipe.batch
        said = forget_misled(plan, session.prepared, recipe, images=images, seconds=seconds, cache=cache)
        if said:
            yield Note(said)
    return stopped


def _begin(session: Session, checkpoint: Checkpoint | None) -> None:
    """From nothing, or from where the run was saved. Raises R504 where the disk has no room for it."""
    if checkpoint is not None:
        session.restore(checkpoint)
        position = session.position
        append_timing(session.run, event="resume", epoch=position.epoch + 1, step=position.step)
    else:
        session.begin()
        append_timing(session.run, event="start")
    _require_room(session)


def _stored_geometry(run: Run) -> Geometry | None:
    """The geometry that the run chose when it began."""
    if not run.geometry_file.is_file():
        return None
    try:
        return Geometry(**read_json(run.geometry_file))
    except TypeError as problem:
        raise ConvworksError("A401", f"geometry.json is damaged: {problem}", where=str(run.path)) from problem


def _plan(run: Run, prepared: Prepared, recipe: Recipe, network: Any, *, cache: Path | None) -> Plan:
    """The run's plan; measured and stored where it has none yet."""
    if run.plan_file.is_file():
        plan = with_kernels(plan_from_dict(read_json(run.plan_file)), cache=cache)
        workers = recipe.workers if recipe.workers >= 0 else plan.workers
        return replace(
            plan, workers=workers, checkpoint_every=recipe.checkpoint_every or plan.checkpoint_every
        )
    plan = plan_training(prepared, recipe, network, cache=cache)
    run.write_json(run.plan_file, plan.to_dict())
    return plan


def _require_room(session: Session) -> None:
    """Checkpoints to keep, one being written, the best weights and the model must fit on the disk."""
    weights = sum(v.numel() * v.element_size() for v in session.network.state_dict().values())
    copies = 3 if session.average is not None else 2
    require_space(session.run.path, (session.recipe.keep_checkpoints + 1) * copies * weights + 2 * weights)
