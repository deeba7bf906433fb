"""The first signal sets a flag, the second ends the process with 130, and the handlers are put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from convworks.cli.signals import StopRequest

PROGRAM = """
import os, signal, sys, time
from convworks.cli.signals import StopRequest
with StopRequest() as stop:
    print(stop(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
    print("still here", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 130
    assert done.stdout.split() == ["False", "True"]
    assert "Stopping after this step" in done.stderr
    assert "Stopped at once" in done.stderr


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_install_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((stop(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]
