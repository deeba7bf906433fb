"""`convworks resume RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from convworks import environment
from convworks.cli.common import show_all
from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.render import Renderer
from convworks.cli.signals import StopRequest

if TYPE_CHECKING:
    from convworks.recipes.resolve import Resolved


@dataclass(frozen=True, kw_only=True)
class ResumeFlags(OutputFlags):
    """Which run, and what may be different this time."""

    run: Annotated[Path, Shown("RUN", "runs/photos-fastnet-01", positional=True)]
    """folder of a run that was stopped"""
    epochs: Annotated[int | None, Shown("N", "30"), Ge(1)] = None
    """another number of epochs; needs --override"""
    lr: Annotated[float | None, Shown("X", "0.05"), Gt(0)] = None
    """another learning rate; needs --override"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "keep_checkpoints=3")] = ()
    """another setting, see: convworks train --help-all"""
    override: bool = False
    """allow changes that alter the result; it is reported"""
    accept_data_change: bool = False
    """go on although the images are not the same any more"""
    rescue_dir: Annotated[Path | None, Shown("DIR", "~/rescue")] = None
    """where the model goes if the run's disk is full"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """of downloads and prepared images [$CONVWORKS_CACHE]"""
    offline: bool = False
    """never use the network [$CONVWORKS_OFFLINE]"""


def run(args: ResumeFlags, console: Console) -> int:
    """Continue training, print the events, and return 0 or 75 (stopped again)."""
    with StopRequest() as stop:
        from convworks.flows.train import ResumeRequest, resume

        request = ResumeRequest(
            run=args.run,
            cache=environment.cache_folder(args.cache),
            offline=environment.is_offline(args.offline),
            changes=_changes(args),
            override=args.override,
            accept_data_change=args.accept_data_change,
            rescue=args.rescue_dir,
        )
        return show_all(resume(request, should_stop=stop), Renderer(console))


def _changes(args: ResumeFlags) -> Resolved | None:
    """The run's recipe with the changes that were asked for; None without any."""
    from convworks.recipes.resolve import from_dict, resolve
    from convworks.runs import open_run

    flags = {"epochs": args.epochs, "optimizer.lr": args.lr}
    given = {setting: value for setting, value in flags.items() if value is not None}
    if not given and not args.set:
        return None
    base = from_dict(open_run(args.run).record()["recipe"])
    return resolve(base=base, base_name=args.run.name, assignments=args.set, flags=given)


VERB = Verb(
    name="resume",
    flags=ResumeFlags,
    main=("epochs", "lr", "set", "override", "accept_data_change", "rescue_dir", "cache"),
    examples=(
        "convworks resume runs/photos-fastnet-01",
        "convworks resume runs/photos-fastnet-01 --epochs 30 --override",
    ),
    run=run,
)
