"""What the machine says of itself, for what is measured on it and remembered for it."""

from __future__ import annotations

import platform
from pathlib import Path

WORTH_SAYING = 0.05  # of the processors' time, taken by the host


def processor_name() -> str:
    """The processor's model, '' where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


class HostShare:
    """How much of its processors' time a virtual machine did not get, because its host gave it to others.

    Linux calls it steal. A processor that has work and is not let run stands still, for seconds at times, and
    what is measured meanwhile says nothing of what is measured.
    """

    def __init__(self) -> None:
        self._taken, self._wanted = _ticks()

    def taken(self) -> float:
        """The share (0 to 1) of the time that the processors had work for, since the last call or the making.

        0 where the system does not say.
        """
        before, (self._taken, self._wanted) = (self._taken, self._wanted), _ticks()
        return (self._taken - before[0]) / max(self._wanted - before[1], 1)

    def disturbance(self, meanwhile: str) -> str:
        """What to say where a share worth saying was taken while that happened, else ''. It asks `taken`."""
        taken = self.taken()
        if taken < WORTH_SAYING:
            return ""
        return f"the host gave {taken:.0%} of the processors' time to others while {meanwhile}"


def _ticks() -> tuple[int, int]:
    """(taken by the host, that and worked) of all processors since the system began, in its clock's ticks."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, _, _, interrupts, soft, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return 0, 0
    return steal, user + nice + system + interrupts + soft + steal
