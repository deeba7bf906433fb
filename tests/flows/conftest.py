"""What most tests of the flows leave out: see `tests/pages.py`."""

from __future__ import annotations

from tests import pages

_pages = pages.undrawn_but("test_learning_curve", "test_learning_rate", "test_report")
