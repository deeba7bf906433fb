"""The curves as CSV files inside the page: links with the data in them, which need no script."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from convworks.report.read import RunRecord

MOST_STEPS = 5000  # lines; of more steps every k-th is kept


def downloads(run: RunRecord) -> list[tuple[str, str, str]]:
    """(words, name of the file, data URI) of the epochs and of the steps."""
    found = []
    if run.epochs:
        found.append(("epochs as CSV", "epochs.csv", _uri(list(_epochs(run)))))
    if run.steps:
        every = -(-len(run.steps) // MOST_STEPS)
        words = "steps as CSV" if every == 1 else f"steps as CSV, one of {every}"
        rows: list[list[object]] = [["step", "loss", "learning_rate", "gradient_norm"]]
        rows += [[s.step, s.loss, s.lr, s.gradient_norm] for s in run.steps[::every]]
        found.append((words, "steps.csv", _uri(rows)))
    return found


def _epochs(run: RunRecord) -> Iterator[list[object]]:
    yield [
        "epoch",
        "step",
        "minutes",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_balanced_accuracy",
        "learning_rate",
    ]
    seconds = {step: whole for step, _, whole in run.timing.epochs} if run.timing else {}
    for each in run.epochs:
        time = round(seconds[each.step] / 60, 3) if each.step in seconds else None
        losses = [each.train_loss, each.train_accuracy, each.val_loss, each.val_accuracy]
        yield [each.epoch, each.step, time, *losses, each.val_balanced_accuracy, each.lr]


def _uri(rows: Sequence[Sequence[object]]) -> str:
    """Numbers only: nothing of the data's names is in these files."""
    text = "".join(",".join("" if v is None else str(v) for v in row) + "\r\n" for row in rows)
    return f"data:text/csv;base64,{base64.b64encode(text.encode()).decode('ascii')}"
