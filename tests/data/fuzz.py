"""Mutate valid image files and decode them: pixels or a clear refusal, nothing else.

    python -m tests.data.fuzz --files 10000

It prints a `figure` line for each format and stops with a traceback at anything but the two outcomes.
"""

from __future__ import annotations

import argparse

from tests.data.test_frames import EXTENSION, fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description="Decode mutated image files.")
    parser.add_argument("--files", type=int, default=1000, help="for each format")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for kind in EXTENSION:
        outcome = fuzz(kind, count=args.files, seed=args.seed)
        print(f"{kind}: {outcome.decoded} decoded, {outcome.unreadable} refused")
        print(f"figure fuzz_{kind.lower()}_slowest {outcome.slowest:.2f} s target <2")


if __name__ == "__main__":
    main()
