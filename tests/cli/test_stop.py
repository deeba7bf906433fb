"""A real process that is asked to stop: it saves itself, says how to go on, and going on ends the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.helpers import fingerprint, write_images

FLAGS = ["--model", "tutorial_cnn", "--size", "28", "--epochs", "40", "--batch", "16"]
FLAGS += ["--precision", "fp32", "--threads", "1", "--workers", "0"]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "convworks", *words]


def start(work: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "CONVWORKS_CACHE": str(work / "cache")}
    return subprocess.Popen(
        command(*words), cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() or not path.stat().st_size:
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("stop")
    write_images(work / "photos", each=60)
    whole = start(work, "train", "photos", *FLAGS, "--name", "whole")
    assert whole.communicate()[1] is not None
    assert whole.returncode == 0
    return work


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(work: Path, number: signal.Signals) -> None:
    name = f"run-{number.name}"
    process = start(work, "train", "photos", *FLAGS, "--name", name)
    wait_for(work / "runs" / name / "metrics.jsonl")
    asked = time.monotonic()
    process.send_signal(number)
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 75, said
    assert time.monotonic() - asked < 20  # 5 s on an idle machine
    assert f"convworks resume runs/{name}" in said
    assert "Traceback" not in said
    again = start(work, "resume", f"runs/{name}")
    out, said = again.communicate()
    assert again.returncode == 0, said
    assert "Traceback" not in out + said
    assert fingerprint(work, name) == fingerprint(work, "whole")


def test_the_run_was_really_stopped_in_the_middle(work: Path) -> None:
    for name in ("run-SIGTERM", "run-SIGINT"):
        log = (work / "runs" / name / "timing.jsonl").read_text()
        assert '"event": "stop"' in log
        assert '"event": "resume"' in log
