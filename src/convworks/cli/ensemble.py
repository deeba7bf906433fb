"""`convworks ensemble RUN RUN ...`: several models as one, compared with its members and saved as a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from convworks import environment
from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, count, folder, magnitude, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.evaluation.fusion import Fusion
    from convworks.evaluation.metrics import Metrics
    from convworks.flows.ensemble import EnsembleResult
    from convworks.flows.prepare import DataRequest


@dataclass(frozen=True, kw_only=True)
class EnsembleFlags(OutputFlags):
    """Which models, how they are combined, and on what they are compared."""

    runs: Annotated[tuple[Path, ...], Shown("RUN", "runs/photos-fastnet-01", positional=True)] = ()
    """runs, models, or the group of `train --seeds 5`"""
    weights: Annotated[Literal["uniform", "fitted", "greedy", "stacking"], Shown("NAME", "fitted")] = (
        "uniform"
    )
    """uniform, fitted, greedy or stacking"""
    on: Annotated[str | None, Shown("DATA", "photos/")] = None
    """labelled images to compare on [those of the first run]"""
    split: Annotated[Literal["train", "val", "test", "all"] | None, Shown("NAME", "test")] = None
    """reported on [test, else what no member has learnt]"""
    fit: Annotated[Literal["train", "val", "test", "all"] | None, Shown("NAME", "val")] = None
    """weights are fitted on [what else no member has learnt]"""
    out: Annotated[Path | None, Shown("DIR", "models/committee")] = None
    """save the ensemble, which then is a model for predict"""
    views: Annotated[str, Shown("NAME", "10-crop")] = "centre"
    """views of each image, see: convworks list protocols"""
    mc_dropout: Annotated[int, Shown("N", "30"), Ge(0), Le(1000)] = 0
    """passes with dropout at work for every member [0: off]"""
    fusion: Annotated[str | None, Shown("NAME", "googlenet-7")] = None
    """a paper's: vgg-7, vgg-2, googlenet-7, alexnet-7"""
    data: Annotated[Path | None, Shown("DIR", "~/data")] = None
    """folder of named data sets (mnist, ...) [$CONVWORKS_DATA]"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """of downloads and prepared images [$CONVWORKS_CACHE]"""
    offline: bool = False
    """never use the network [$CONVWORKS_OFFLINE]"""


def run(args: EnsembleFlags, console: Console) -> int:
    """Print the members, the ensemble and the difference; 0, or 75 where it was stopped."""
    if args.fusion is not None and not args.runs:
        from convworks.evaluation.fusion import fusion

        known = fusion(args.fusion)
        console.document(_plan_document(known))
        for line in plan_lines(known):
            console.answer(line)
        return EXIT_OK
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError
        from convworks.flows.ensemble import EnsembleRequest, make_ensemble

        request = EnsembleRequest(
            members=args.runs,
            cache=environment.cache_folder(args.cache),
            data=_data(args),
            offline=environment.is_offline(args.offline),
            method=args.weights,
            split=args.split,
            fit=args.fit,
            samples=args.mc_dropout,
            protocol=args.views,
            fusion=args.fusion,
            out=args.out,
        )
        try:
            found = make_ensemble(request, should_stop=stop)
        except (ScanInterrupted, StoppedEarlyError):
            console.say("Stopped; nothing was written.")
            return EXIT_INTERRUPTED
    console.document({**found.to_dict(), "path": found.path})
    for line in lines(found):
        console.answer(line)
    return EXIT_OK


def _data(args: EnsembleFlags) -> DataRequest | None:
    if args.on is None:
        return None
    from convworks.flows.prepare import DataRequest

    return DataRequest(
        location=args.on,
        cache=environment.cache_folder(args.cache),
        data_root=environment.data_root(args.data),
        offline=environment.is_offline(args.offline),
    )


def lines(found: EnsembleResult) -> Iterator[str]:
    """The table of members, the ensemble against the best and the mean of them, and what was fitted where."""
    rows = [("member", "model", "weight", "accuracy", "95 %", "loss", "passes", "ms/image", "external data")]
    for row in found.rows:
        weight = "-" if row.weight is None else f"{row.weight:.3f}"
        rows.append(
            (
                row.name,
                row.model,
                weight,
                *_scores(row.metrics),
                str(row.passes),
                f"{1e3 * row.seconds:.2f}",
                row.external or "no",
            )
        )
    external = "yes" if found.external else "no"
    name = f"ENSEMBLE of {len(found.rows)}"
    cost = (str(found.passes), f"{1e3 * found.seconds:.2f}")
    rows.append((name, found.method, "", *_scores(found.metrics), *cost, external))
    yield from table(rows, right=(2, 3, 4, 5, 6, 7))
    yield ""
    roles = found.roles
    yield from block("measured", f"on {roles.reported_on} ({roles.split}, {found.metrics.n:,} images)")
    if found.method != "uniform":
        yield from block("fitted", f"on {roles.fitted_on} ({len(roles.fit):,} images), never on those above")
    yield from comparison_lines(found)
    for note in roles.notes:
        yield from block("note", note)
    parameters = sum(row.parameters for row in found.rows)
    yield from block(
        "cost",
        f"{count(found.passes, 'forward pass')} for one image, {1e3 * found.seconds:.2f} ms here, "
        f"{magnitude(parameters)} parameters",
    )
    if found.path is not None:
        yield from block("model", f"{folder(found.path)}")
        yield from block("next", f"convworks predict {folder(found.path)} PATH")
    else:
        yield from block("next", "the same with --out DIR saves it as a model")


def comparison_lines(found: EnsembleResult) -> Iterator[str]:
    """Against the mean member, the best one, and weight scaling with MC-dropout."""
    if len(found.rows) > 1:
        yield from _gain_lines(found)
    if found.scaling is not None:
        one, pair = found.scaling
        yield from block(
            "dropout",
            f"weight scaling, one pass for each member: {one.top1:.4f}, loss {one.loss:.4f}; drawn masks are "
            f"{pair.difference:+.4f} (95 % {pair.low:+.4f} to {pair.high:+.4f}, p = {pair.p:.3g}), loss "
            f"{found.metrics.loss:.4f}",
        )


def _gain_lines(found: EnsembleResult) -> Iterator[str]:
    difference, low, high = found.over_mean
    if found.answered == 1:
        yield from block(
            "gain", "not measured: every image is answered by one member; --on DATA with images new to all"
        )
        return
    yield from block(
        "gain",
        f"{difference:+.4f} over the mean member ({found.mean_member:.4f}), 95 % {low:+.4f} to {high:+.4f} "
        "by paired bootstrap",
    )
    best = found.over_best
    yield from block(
        "",
        f"{best.difference:+.4f} over the best single one, {found.best} (chosen on {found.best_chosen}), "
        f"95 % {best.low:+.4f} to {best.high:+.4f}, McNemar p = {best.p:.3g}",
    )


def _scores(metrics: Metrics | None) -> tuple[str, str, str]:
    if metrics is None:
        return "-", "-", "-"
    low, high = metrics.top1_ci
    return f"{metrics.top1:.4f}", f"{low:.3f}-{high:.3f}", f"{metrics.loss:.4f}"


def plan_lines(known: Fusion) -> Iterator[str]:
    """A published ensemble: its members, the forward passes and the published errors."""
    rows = [("networks", "model", "trained at", "tested at", "protocol", "other data")]
    for each in known.members:
        trained = ";".join(map(str, each.train_scale)) or "-"
        tested = ", ".join(map(str, each.test_scales)) or "-"
        protocol = known.protocol_of(each)
        rows.append((str(each.count), each.model, trained, tested, protocol, each.external or "no"))
    yield from table(rows, right=(0,))
    yield ""
    errors = ", ".join(f"{where} {value:g} %" for where, value in known.errors)
    yield from block("fusion", f"{known.name}: {count(known.networks, 'network')}, {known.source}")
    yield from block("cost", f"{known.passes:,} forward passes for one image")
    if errors:
        yield from block("published", errors)
    yield from block("next", f"convworks ensemble RUN ... --fusion {known.name}, one run for each network")


def _plan_document(known: Fusion) -> dict[str, object]:
    members = [{"text": each.text(), "protocol": known.protocol_of(each)} for each in known.members]
    return {
        "fusion": known.name,
        "networks": known.networks,
        "passes": known.passes,
        "members": members,
        "errors": dict(known.errors),
        "source": known.source,
    }


VERB = Verb(
    name="ensemble",
    flags=EnsembleFlags,
    main=("weights", "on", "split", "fit", "out", "views", "mc_dropout", "fusion", "json"),
    examples=(
        "convworks ensemble runs/a runs/b --weights fitted --out models/ab",
        "convworks ensemble --fusion googlenet-7",
    ),
    run=run,
)
