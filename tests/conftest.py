"""Settings for every test: one compute thread, since tests run side by side, and no network."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, also in the processes that tests start
os.environ.setdefault("CONVWORKS_OFFLINE", "1")
