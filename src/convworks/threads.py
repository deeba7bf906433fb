"""How long compute threads wait for each other before they sleep.

GNU OpenMP, which torch's CPU builds use, lets a thread that waits spin for about a millisecond by default.
On a machine whose processors are shared, with a browser or with other virtual machines, the spinning thread
keeps the one it waits for from running, and small networks train ten times slower on two threads than on one.
A short spin costs nothing elsewhere. The library reads its setting when it is loaded, so before torch.
"""

from __future__ import annotations

import os
import sys

SPINS = "1000"  # GNU's own choice where there are more threads than processors


def spin_briefly() -> None:
    """Set GOMP_SPINCOUNT for this process, unless the user chose otherwise or torch is loaded already."""
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
