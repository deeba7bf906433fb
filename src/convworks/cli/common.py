"""What several verbs do in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convworks import environment
from convworks.cli.flags import SourceFlags
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.cli.render import Renderer
    from convworks.flows.events import Event
    from convworks.flows.prepare import DataRequest


def data_request(args: SourceFlags, location: str, *, strict: bool = False) -> DataRequest:
    """Where the images are, from the flags and the environment."""
    from convworks.flows.prepare import DataRequest

    return DataRequest(
        location=location,
        cache=environment.cache_folder(args.cache),
        data_root=environment.data_root(args.data),
        labels=args.labels,
        offline=environment.is_offline(args.offline),
        keep_empty=args.keep_empty,
        strict=strict,
    )


def show_all(events: Iterable[Event], renderer: Renderer) -> int:
    """Print every event; 75 where the work was stopped and can be continued."""
    for event in events:
        renderer.show(event)
    return EXIT_OK if renderer.stopped is None else EXIT_INTERRUPTED
