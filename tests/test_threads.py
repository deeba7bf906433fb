"""The short spin is set before torch is loaded, and never against the user's word."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, os, sys
{first}
from convworks.threads import spin_briefly
spin_briefly()
print(json.dumps(os.environ.get("GOMP_SPINCOUNT")))
"""


@pytest.mark.parametrize(
    ("given", "first", "expected"),
    [
        ({}, "", "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "", "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "", None),
        ({}, "sys.modules['torch'] = None", None),
    ],
)
def test_the_spin(given: dict[str, str], first: str, expected: str | None) -> None:
    base = {k: v for k, v in os.environ.items() if k not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    answer = subprocess.run(
        [sys.executable, "-c", CODE.format(first=first)],
        env={**base, **given},
        capture_output=True,
        check=True,
    )
    assert json.loads(answer.stdout) == expected
