"""The file that an unexpected exception leaves behind, so that the screen needs no traceback."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def write_crash_file(problem: BaseException, argv: Sequence[str]) -> Path | None:
    """Write the traceback in the current folder, else in the temporary folder; None where both refuse."""
    name = f"convworks-crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = "\n".join([*_facts(argv), "", *traceback.format_exception(problem)])
    for folder in (Path(), Path(tempfile.gettempdir())):
        path = folder / name
        try:
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return path
    return None


def version() -> str:
    """The installed version."""
    try:
        return metadata.version("convworks")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _facts(argv: Sequence[str]) -> list[str]:
    torch = sys.modules.get("torch")
    return [
        f"convworks {version()}, Python {platform.python_version()}, {platform.platform()}",
        f"torch {getattr(torch, '__version__', 'not imported')}",
        f"arguments {list(argv)!r}",
    ]
