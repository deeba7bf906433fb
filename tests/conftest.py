"""Settings for every test: one compute thread, since tests run side by side, and no network."""

from __future__ import annotations

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores Ctrl-C for what it starts with "&"
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, also in the processes that tests start
os.environ.setdefault("CONVWORKS_OFFLINE", "1")
