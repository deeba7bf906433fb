"""Ctrl-C and SIGTERM only set a flag, which the flows poll; a second signal ends the program at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from convworks.errors import EXIT_HARD_INTERRUPT

FIRST = b"\nStopping after this step... (once more to stop at once)\n"
SECOND = b"\nStopped at once. What was saved before is whole.\n"


class StopRequest:
    """True when called after the first signal. Installed for the length of a `with` block.

    Outside the main thread, and for a signal that was ignored from the start (nohup), nothing is installed.
    """

    def __init__(self) -> None:
        self._requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        return self._requested

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            self._restore()
            _write(SECOND)
            os._exit(EXIT_HARD_INTERRUPT)
        self._requested = True
        _write(FIRST)


def _write(text: bytes) -> None:
    """To stderr without the stream's buffer and lock, which the interrupted code may hold."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), text)
