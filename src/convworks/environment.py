"""The environment variables, read here alone, for the two doors: the command line and the Python API."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

NO = frozenset({"", "0", "no", "false", "off"})


def data_root(flag: Path | None) -> Path | None:
    """Where named data sets lie: --data, else CONVWORKS_DATA, else unknown."""
    return flag or _path("CONVWORKS_DATA")


def cache_folder(flag: Path | None) -> Path:
    """--cache, else CONVWORKS_CACHE, else XDG_CACHE_HOME/convworks, else ~/.cache/convworks."""
    given = flag or _path("CONVWORKS_CACHE")
    if given:
        return given
    base = _path("XDG_CACHE_HOME")
    if base is not None and base.is_absolute():  # the XDG specification: relative paths are ignored
        return base / "convworks"
    try:
        return Path.home() / ".cache" / "convworks"
    except RuntimeError:  # an account without a home folder
        return Path(tempfile.gettempdir()) / "convworks-cache"


def is_offline(flag: bool) -> bool:
    """--offline, or CONVWORKS_OFFLINE set to anything but 0, no, false or off."""
    return flag or os.environ.get("CONVWORKS_OFFLINE", "").strip().lower() not in NO


def wants_kernels() -> bool:
    """Not where CONVWORKS_NATIVE is 0, no, false or off. It counts when a plan is made, and is kept in it."""
    return os.environ.get("CONVWORKS_NATIVE", "1").strip().lower() not in NO


def wants_colour() -> bool:
    """Not where NO_COLOR is set (no-color.org) or the terminal is a dumb one."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _path(name: str) -> Path | None:
    text = os.environ.get(name, "").strip()
    return Path(os.path.expanduser(text)) if text else None
