"""Reading a data set without searching it for garbage.

Python looks for cycles among its objects again and again while they become more. The hundreds of thousands of
entries and records of a data set hold no cycles, and looking through them takes as long as making them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search_for_cycles() -> Iterator[None]:
    """Objects are still freed when nothing refers to them; only cycles wait until afterwards."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
