"""Write a run's report again, with the pictures of its mistakes where the images are still there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convworks.bundle import load_bundle
from convworks.data.decode import decode
from convworks.data.preprocess import Geometry
from convworks.data.sources import Source
from convworks.errors import ConvworksError
from convworks.flows.prepare import request_from_dict
from convworks.report import write_report
from convworks.runs import open_run


def rewrite_report(run: Path, *, cache: Path) -> tuple[Path, str]:
    """(the page, why it has no pictures or ''). Raises A410 and the A-codes of damaged records."""
    found = open_run(run)
    with ExitStack() as stack:
        missing, pictures = "", None
        try:
            geometry = load_bundle(found.path).preprocess.geometry
            request = request_from_dict(found.record()["data"], cache=cache, offline=True)
            pictures = _thumbnails(stack.enter_context(request.open()), geometry)
        except ConvworksError as problem:
            missing = problem.what
        return write_report(found.path, thumbnail=pictures), missing


def _thumbnails(source: Source, geometry: Geometry) -> Callable[[str], NDArray[np.uint8] | None]:
    """Pixels by the path in the manifest, read and decoded when they are asked for."""
    places = {entry.path: index for index, entry in enumerate(source.entries)}

    def pixels(path: str) -> NDArray[np.uint8] | None:
        if path not in places:
            return None
        try:
            index = places[path]
            image = decode(source.read(index)).pixels if source.encoded else source.pixels(index)
        except ConvworksError:
            return None
        return geometry.fitted(image)

    return pixels
