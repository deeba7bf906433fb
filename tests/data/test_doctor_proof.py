"""The proof on photographs, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.data.doctor_proof import main

CALTECH = Path(os.environ.get("CONVWORKS_DATA", ""), "caltech10.zip")


@pytest.mark.slow
@pytest.mark.skipif(not CALTECH.is_file(), reason="CONVWORKS_DATA has no caltech10.zip")
def test_the_doctor_is_proved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    assert "proved" in capsys.readouterr().out
