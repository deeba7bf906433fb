"""The learning rate before training: found by a range test, and drawn over the whole run.

Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3: raise the rate from step to
step and watch the loss. It falls fastest at a good rate and turns at one that is too high.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from convworks import models
from convworks.data.manifest import Manifest
from convworks.errors import ConvworksError, unknown_name
from convworks.evaluation.inference import StoppedEarlyError
from convworks.flows import pretrained, transfer
from convworks.flows.events import Event, Note
from convworks.flows.prepare import DataRequest, prepare_data, schedule_for, top_rate
from convworks.flows.session import Session, StopRequest
from convworks.recipes.defaults import adapt_to_size, resolve_named
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import Resolved, from_dict, resolve
from convworks.report.rate_chart import Curve, Values, as_values
from convworks.report.text import count
from convworks.runs import Run, open_run, read_records
from convworks.training.loop import NotFiniteError, Position, train_epoch
from convworks.training.planner import Plan, choose_device, usable_cpus
from convworks.training.schedule import RISING, Plateau, cycle_ends

BETA = 0.9  # of the smoothed loss: about ten steps
ROSE = 4.0  # times the lowest smoothed loss ends the test
FIRST = 10  # steps that are made in any case
FELL = 0.01  # of the first loss: less is no fall
SHOWN = 1.5  # times the highest loss before the lowest: what a drawing shows
DEFAULT_IMAGES = 50_000
MOST_POINTS = 20_000  # of a curve of learning rates

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRequest:
    """Which training is tested, and from which rate to which in how many steps."""

    data: DataRequest
    resolved: Resolved
    low: float = 1e-5
    high: float = 10.0
    steps: int = 100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RateTest:
    """What was measured: rate, loss and smoothed loss of every step, and what follows from it.

    `steepest` is the rate at which the smoothed loss falls fastest, `tenth` a tenth of the one with the
    lowest loss; both are None where the loss never fell. `ended` says why the test ended.
    """

    recipe: Recipe
    rates: Values
    losses: Values
    smoothed: Values
    steepest: float | None
    tenth: float | None
    ended: str

    @property
    def setting(self) -> float | None:
        """`optimizer.lr` for `tenth`, where the recipe scales it with the batch."""
        spec = self.recipe.optimizer
        return None if self.tenth is None else two_digits(self.tenth * spec.lr / top_rate(self.recipe))

    def curve(self) -> Curve:
        """The smoothed loss; where it rises above what it was before its lowest, it is cut off soon."""
        marks = {"steepest": self.steepest, "a tenth of the lowest": self.tenth}
        before = self.smoothed[: int(np.argmin(self.smoothed)) + 1] if len(self.smoothed) else self.smoothed
        return Curve(
            x=self.rates,
            y=np.minimum(self.smoothed, SHOWN * before.max()) if len(before) else self.smoothed,
            x_name="learning rate",
            y_name="smoothed loss",
            log_x=True,
            from_zero=False,
            marks={name: rate for name, rate in marks.items() if rate is not None},
            columns={"learning rate": self.rates, "loss": self.losses, "smoothed loss": self.smoothed},
        )


def find_rate(
    request: RateRequest,
    *,
    should_stop: StopRequest = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, float], None] = lambda _step, _rate: None,
) -> RateTest:
    """Train a private network with a rate that rises exponentially, until the loss has risen to four times
    its lowest, is not finite, or the steps are over. Nothing is written but the cache of images.

    It computes in float32 unless the recipe says bf16, so that the same seed gives the same numbers. Raises
    StoppedEarlyError when asked to stop, U216 for rates that do not rise, and what training raises.
    """
    if not 0 < request.low < request.high:
        raise ConvworksError(
            "U216",
            f"the test goes up from {request.low:g} to {request.high:g}, which is no way up",
            try_="--low 1e-5 --high 10",
        )
    recipe = request.resolved.recipe
    if recipe.model not in models.names():
        raise unknown_name("model", recipe.model, models.names(), try_="convworks lr-find ... --model {near}")
    with request.data.open() as source:
        images = sum(entry.split in {None, "train"} for entry in source.entries)
    resolved = pretrained.absolute(adapt_to_size(request.resolved, images))
    threads_before = torch.get_num_threads()
    torch.set_num_threads(resolved.recipe.threads or usable_cpus())
    try:
        with torch.random.fork_rng(), tempfile.TemporaryDirectory(prefix="convworks-lr-find-") as folder:
            session = _private_session(Run(Path(folder)), resolved.recipe, request.data, should_stop, say)
            rates, losses, ended = _rise(session, request, should_stop, progress)
    finally:
        torch.set_num_threads(threads_before)
    smoothed = smooth(losses)
    steepest, tenth = suggest(rates, smoothed)
    return RateTest(
        recipe=resolved.recipe,
        rates=as_values(rates),
        losses=as_values(losses),
        smoothed=smoothed,
        steepest=steepest,
        tenth=tenth,
        ended=ended,
    )


def _private_session(
    run: Run, recipe: Recipe, data: DataRequest, should_stop: StopRequest, say: Callable[[str], None]
) -> Session:
    """A session as training would have it, in a folder that is thrown away."""
    for note in pretrained.fetched(recipe, data):
        say(note.text)
    prepared = prepare_data(data, recipe, expected=None, geometry=None, should_stop=should_stop)
    made = pretrained.new_network(run, recipe, prepared, data, begin=True)
    network = _last(made, say)
    device = choose_device(recipe.device)
    plan = Plan(
        precision="bf16" if recipe.precision == "bf16" else "fp32",
        memory_format="channels_last" if recipe.memory_format == "channels_last" else "contiguous",
        device=device,
        threads=torch.get_num_threads(),
        workers=max(recipe.workers, 0),
        batch_path=prepared.dataset.storage,
        allocator="as it is",
        checkpoint_every=1,
        images_per_second=1.0,
        measured={},
        reasons=(),
        torch=torch.__version__,
        cpus=usable_cpus(),
    )
    manifest = prepared.dataset.manifest.sha256
    return _last(
        transfer.new_session(run, recipe, prepared, network, plan, manifest, None, data.cache, should_stop),
        say,
    )


def _last(events: Generator[Event, None, Made], say: Callable[[str], None]) -> Made:
    """What a generator returns; the notes that it gives meanwhile are said."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            made: Made = end.value
            return made
        if isinstance(event, Note):
            say(event.text)


def _rise(
    session: Session, request: RateRequest, should_stop: StopRequest, progress: Callable[[int, float], None]
) -> tuple[list[float], list[float], str]:
    """(rates, losses, why it ended)."""
    growth = (request.high / request.low) ** (1 / max(request.steps - 1, 1))
    position, rates, losses = Position(), [], []
    lowest, average = math.inf, 0.0
    try:
        while True:
            made = train_epoch(
                session.trainee,
                session.loader,
                session.optimizer,
                position=position,
                schedule=lambda step: growth**step,
                settings=replace(session.settings, lr=request.low),
                numerics=session.plan.numerics,
                before_epoch=session.before_epoch,
            )
            with closing(made) as steps:
                for step in steps:
                    if should_stop():
                        raise StoppedEarlyError
                    rates.append(step.lr)
                    losses.append(step.loss)
                    progress(step.step, step.lr)
                    average = BETA * average + (1 - BETA) * step.loss
                    now = average / (1 - BETA**step.step)
                    lowest = min(lowest, now)
                    if step.step >= FIRST and now > ROSE * lowest:
                        return rates, losses, f"the loss had risen to {ROSE:g} times its lowest"
                    if step.step == request.steps:
                        return rates, losses, "all rates were tried"
            position.next_epoch()
    except NotFiniteError as problem:
        return rates, losses, f"{problem.what} was not finite at {problem.lr:.3g}"


def smooth(losses: list[float]) -> Values:
    """The running mean with weights that fall by BETA from step to step, corrected for its start from 0."""
    average, found = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = BETA * average + (1 - BETA) * loss
        found.append(average / (1 - BETA**step))
    return as_values(found)


def suggest(rates: list[float], smoothed: Values) -> tuple[float | None, float | None]:
    """(rate of the steepest fall, a tenth of the rate with the lowest loss); None, None without a fall.

    The slope is that of the smoothed loss over the logarithm of the rate, before the lowest loss; the first
    steps, whose mean is of few losses, do not count where there are others.
    """
    if len(rates) < 3:
        return None, None
    low = int(np.argmin(smoothed))
    if low < 2 or not smoothed[low] < (1 - FELL) * smoothed[0]:
        return None, None
    slopes = np.gradient(smoothed, np.log(as_values(rates)))[: low + 1]
    skipped = FIRST if low > FIRST else 0
    return float(rates[skipped + int(np.argmin(slopes[skipped:]))]), rates[low] / 10


def two_digits(value: float) -> float:
    return float(f"{value:.2g}")


# --- the rate over a run ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RateCurve:
    """The learning rate at the steps of a run, and what there is to know of it in words."""

    name: str
    recipe: Recipe
    images: int
    steps_per_epoch: int
    steps: Values  # some of them, from 0
    rates: Values
    facts: Mapping[str, str]

    def curve(self) -> Curve:
        return Curve(
            x=self.steps / self.steps_per_epoch,
            y=self.rates,
            x_name="epoch",
            y_name="learning rate",
            columns={
                "step": self.steps,
                "epoch": self.steps / self.steps_per_epoch,
                "learning rate": self.rates,
            },
        )


def steps_in_epoch(images: int, batch: int) -> int:
    """Batches of one epoch of training: a last one of a single image joins the one before."""
    steps = -(-images // batch)
    return steps - 1 if steps > 1 and images % batch == 1 else steps


def rate_curve(subject: str, *, assignments: tuple[str, ...] = (), images: int | None = None) -> RateCurve:
    """The curve of a run's folder or of a recipe by name, with some settings replaced.

    A run's images are those of its manifest; a recipe's are `images`, by default 50,000. Raises U101, A410
    and what settings raise.
    """
    run: Run | None = None
    if Path(subject).exists():
        run = open_run(Path(subject))
        base = from_dict(run.record()["recipe"])
        recipe = resolve(base=base, base_name=run.name, assignments=assignments).recipe
        if run.manifest_file.is_file() and images is None:
            images = sum(Manifest.load(run.manifest_file).count("train").values())
    else:
        recipe = resolve_named(subject, assignments=assignments).recipe
    images = images or DEFAULT_IMAGES
    per_epoch = steps_in_epoch(images, recipe.batch)
    total = recipe.epochs * per_epoch
    schedule, top = schedule_for(recipe, per_epoch), top_rate(recipe)
    at = np.unique(np.linspace(0, total - 1, min(total, MOST_POINTS)).round().astype(np.int64))
    rates = as_values([top * schedule(int(step)) for step in at])
    facts = _facts(recipe, total, per_epoch, images)
    if run is not None and recipe.schedule.name == "plateau":
        facts |= _recorded(run)
    return RateCurve(
        name=run.name if run is not None else subject,
        recipe=recipe,
        images=images,
        steps_per_epoch=per_epoch,
        steps=at.astype(np.float64),
        rates=rates,
        facts=facts,
    )


def _facts(recipe: Recipe, total: int, per_epoch: int, images: int) -> dict[str, str]:
    spec, top = recipe.schedule, top_rate(recipe)
    facts = {
        "run": f"{count(recipe.epochs, 'epoch')} of {count(per_epoch, 'step')}, {count(images, 'image')} in "
        f"batches of {recipe.batch}"
    }
    scaled = recipe.optimizer.reference_batch
    shape = spec.name
    facts["schedule"] = f"{shape}, from {top:.6g} at the top"
    if scaled is not None:
        facts["scaled"] = f"{top:.6g} = {recipe.optimizer.lr:g} x {recipe.batch} / {scaled}"
    if spec.warmup and shape not in RISING:
        warm = round(spec.warmup * total)
        facts["warm-up"] = f"{warm:,} steps, {spec.warmup:.0%} of the run, from {top / max(warm, 1):.3g}"
    if shape == "step":
        places = [f"{share * recipe.epochs:.4g}" for share in spec.milestones]
        facts["drops"] = f"by {spec.factor:g} after epochs {', '.join(places)}"
    if shape == "exponential":
        how = "in jumps" if spec.staircase else "smoothly"
        facts["falls"] = f"by {spec.factor:g} every {spec.every:g} epochs, {how}"
    if shape == "warm-restarts":
        ends = cycle_ends(recipe.epochs, cycle=spec.cycle, growth=spec.cycle_growth)
        named = ", ".join(map(str, ends)) or "none"
        cut = recipe.epochs - (ends[-1] if ends else 0)
        facts["cycles"] = f"end after epochs {named}, with a snapshot each" + (
            f"; the last is cut off after {count(cut, 'epoch')}" if cut else ""
        )
    if shape == "plateau":
        plateau = Plateau(spec.patience, spec.max_drops, spec.factor)
        levels = [replace(plateau, drops=n).multiplier * top for n in range(spec.max_drops + 1)]
        facts["levels"] = ", ".join(f"{level:.6g}" for level in levels)
        facts["drops"] = (
            f"when the validation error has not improved for {count(spec.patience + 1, 'epoch')}, which "
            "nobody knows before: the curve shows the rate without a drop"
        )
    return facts


def _recorded(run: Run) -> dict[str, str]:
    """The rates that a run has had, where its log has them."""
    rates = [each["lr"] for each in read_records(run.metrics_file) if each.get("kind") == "epoch"]
    changes = [n for n in range(1, len(rates)) if rates[n] != rates[n - 1]]
    if not rates:
        return {}
    told = ", ".join(f"{rates[n]:.6g} from epoch {n + 1}" for n in [0, *changes])
    return {"so far": told}
