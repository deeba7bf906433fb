"""What a virtual machine's host takes is counted as Linux counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from convworks import machine
from convworks.machine import HostShare

_TICKS = machine._ticks

#            user nice system idle iowait irq softirq steal guest guest_nice
BEFORE = "cpu  100 10 50 1000 5 1 4 20 0 0\ncpu0 50 5 25 500 2 1 2 10 0 0\n"


@pytest.fixture(autouse=True)
def real_host(monkeypatch: pytest.MonkeyPatch, quiet_host: None) -> None:
    monkeypatch.setattr(machine, "_ticks", _TICKS)


def system_says(monkeypatch: pytest.MonkeyPatch, folder: Path, line: str | None) -> None:
    file = folder / "stat"
    if line is not None:
        file.write_text(line, encoding="ascii")
    monkeypatch.setattr(machine, "Path", lambda name: file if name == "/proc/stat" else Path(name))


def test_the_share_is_of_the_time_that_there_was_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system_says(monkeypatch, tmp_path, BEFORE)
    host = HostShare()
    assert host.taken() == 0.0
    system_says(monkeypatch, tmp_path, "cpu  130 15 60 9000 99 2 8 70 0 0\n")
    assert host.taken() == pytest.approx(50 / (30 + 5 + 10 + 1 + 4 + 50))  # waiting is no work
    assert host.taken() == 0.0  # since the last call


@pytest.mark.parametrize(("steal", "said"), [(24, ""), (25, "the host gave 5% of the processors' time")])
def test_a_twentieth_is_worth_saying(
    steal: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system_says(monkeypatch, tmp_path, "cpu  0 0 0 0 0 0 0 0 0 0\n")
    host = HostShare()
    system_says(monkeypatch, tmp_path, f"cpu  {500 - steal} 0 0 0 0 0 0 {steal} 0 0\n")
    found = host.disturbance("it trained")
    assert found.startswith(said)
    assert not said or found.endswith("to others while it trained")


@pytest.mark.parametrize("line", [None, "", "cpu  1 2 3\n", "cpu  a b c d e f g h\n"])
def test_a_system_that_does_not_say(
    line: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system_says(monkeypatch, tmp_path, line)
    host = HostShare()
    assert host.taken() == 0.0
    assert host.disturbance("it trained") == ""
