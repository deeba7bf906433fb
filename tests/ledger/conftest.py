"""One audit of everything, shared by the tests that read it."""

from __future__ import annotations

import pytest

from convworks.ledger.findings import Audit, audit


@pytest.fixture(scope="session")
def everything() -> Audit:
    return audit()
