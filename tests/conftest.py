"""Settings for every test: one compute thread, as tests run side by side, no network, an undisturbed host."""

from __future__ import annotations

import os
import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores Ctrl-C for what it starts with "&"
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, also in the processes that tests start
os.environ.setdefault("CONVWORKS_OFFLINE", "1")


@pytest.fixture(autouse=True)
def quiet_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processor is taken away by the host of a virtual machine, so that steps on a test's clock count."""
    monkeypatch.setattr("convworks.machine._ticks", lambda: (0, 0))
