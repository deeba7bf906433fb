"""The command line: one file per verb, which parses, calls the Python API and prints."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `convworks ARGV`; the result is the exit status. Nothing heavy is imported before a verb asks."""
    from convworks.cli.entry import main as entry

    return entry(argv)
