"""Ways to die: SIGKILL at a chosen place of the code. Each patches the process that calls it."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

from convworks import durable
from convworks.flows import feature_store, initial, quantized, results, session
from convworks.training import loop
from convworks.training.transfer import StagedUnfreezing

DURABLE = ("write_bytes", "fsync_file", "fsync_folder", "rename", "replace")
FEATURE_CALLS = ("fsync_file", "sha256_file", "write_durably", "fsync_folder", "rename")
MOMENTS = ("before", "half", "after")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _patch(places: list[tuple[Any, str]], number: int, moment: str) -> None:
    """At the call with that number, of all places together, die before it, half-way through a write, or after
    it."""
    count = 0

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and moment == "before":
                die()
            if count == number and moment == "half" and original.__name__ == "write_bytes":
                args[0].write_bytes(args[1][: len(args[1]) // 2])
                die()
            value = original(*args, **kwargs)
            if count == number:
                die()
            return value

        return call

    for owner, name in places:
        setattr(owner, name, wrapped(getattr(owner, name)))


def in_durable_call(number: int, moment: str) -> None:
    """In the `number`-th durable call: of a checkpoint, or of a record."""
    _patch([(durable, name) for name in DURABLE], number, moment)


def count_durable_calls(work: Callable[[], None]) -> int:
    """How many durable calls `work` makes."""
    count = 0

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return original(*args, **kwargs)

        return call

    for each in DURABLE:
        setattr(durable, each, wrapped(getattr(durable, each)))
    work()
    return count


def in_evaluation(number: int) -> None:
    """In the `number`-th validation pass, after one of its batches."""
    count = 0
    original = session.predict_probabilities

    def call(network: Any, loader: Any, numerics: Any, *, should_stop: Any) -> Any:
        nonlocal count
        count += 1
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            if count == number and asked == 2:
                die()
            return bool(should_stop())

        return original(network, loader, numerics, should_stop=stop)

    session.predict_probabilities = call
    assert results.Session is session.Session


def in_features(draw: random.Random) -> None:
    """While the features of a frozen backbone are computed, written, hashed, synced or named."""
    places: list[tuple[Any, str]] = [(feature_store._Writer, "append")]
    places += [(feature_store, name) for name in FEATURE_CALLS]
    _patch(places, draw.randint(1, 18), draw.choice(MOMENTS))


def at_a_thaw(draw: random.Random) -> None:
    """When an epoch lets its stages learn, or some steps later."""
    epoch, steps = draw.randint(0, 3), draw.randint(0, 5)
    begun, rate = StagedUnfreezing.begin_epoch, loop.set_learning_rate
    left: list[int] = []

    def begin_epoch(self: StagedUnfreezing, number: int) -> None:
        begun(self, number)
        if number == epoch:
            left.append(steps)

    def set_learning_rate(*args: Any) -> None:
        if left and left[0] == 0:
            die()
        left[:] = [each - 1 for each in left]
        rate(*args)

    StagedUnfreezing.begin_epoch = begin_epoch  # type: ignore[method-assign]
    loop.set_learning_rate = set_learning_rate


def in_scales(draw: random.Random) -> None:
    """While the scales of 8-bit rounding are measured, and both accuracies."""
    _patch([(quantized, "calibrate"), (quantized, "compared")], draw.randint(1, 2), draw.choice(MOMENTS))


def in_whitening(draw: random.Random) -> None:
    """Before or after the first layer gets its filters."""
    _patch([(initial, "whiten_first_layer")], 1, draw.choice(MOMENTS))


AT: dict[str, Callable[[random.Random], None]] = {
    "features": in_features,
    "thaw": at_a_thaw,
    "scales": in_scales,
    "whiten": in_whitening,
}
