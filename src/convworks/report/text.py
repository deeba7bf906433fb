"""What the numbers say, in words: the same sentences for the terminal and for the report.

Plain characters only, so that every terminal can show them. Nothing here imports matplotlib or jinja2.
"""

from __future__ import annotations

import numpy as np

from convworks.data.sources import shown
from convworks.evaluation.metrics import ClassScore, Interval, Metrics

OFTEN = 1 / 3  # share of a class's mistakes from which one wrong answer is worth naming


def printable(text: str, *, limit: int = 0) -> str:
    """A name as it can be shown anywhere: control characters and undecodable bytes become escapes.

    With a limit, a longer text loses its middle.
    """
    escaped = shown(text)
    if limit and len(escaped) > limit:
        half = (limit - 3) // 2
        return f"{escaped[:half]}...{escaped[-half:]}"
    return escaped


def share(value: float, *, digits: int = 3) -> str:
    """0.8284 as '0.828'; more digits where the rounded number would claim 0 or 1 without being it."""
    text = f"{value:.{digits}f}"
    while float(text) in {0.0, 1.0} and float(text) != value and digits < 9:
        digits += 1
        text = f"{value:.{digits}f}"
    return text


def interval(ci: Interval) -> str:
    return f"{share(ci[0])}-{share(ci[1])}"


def count(n: int, noun: str, plural: str = "") -> str:
    """'1 image', '1,204 images'."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def listing(names: list[str], *, most: int = 3) -> str:
    """'a, b, c and 4 more'."""
    first = ", ".join(printable(each, limit=60) for each in names[:most])
    return first + (f" and {len(names) - most} more" if len(names) > most else "")


def weakest(metrics: Metrics) -> ClassScore | None:
    """The class with the lowest recall, the larger one of equals; None where no class has a mistake."""
    missed = [each for each in metrics.classes if each.recall is not None and each.recall < 1]
    return min(missed, key=lambda each: (each.recall, -each.n), default=None)


def taken_for(metrics: Metrics, name: str) -> tuple[str, int] | None:
    """The wrong answer most often given for a class and how often, or None where it was never wrong."""
    index = metrics.names.index(name)
    row = metrics.confusion[index].copy()
    row[index] = 0
    worst = int(np.argmax(row))
    return (metrics.names[worst], int(row[worst])) if row[worst] else None


def verdict(metrics: Metrics) -> list[str]:
    """The result in a few sentences: accuracy with its interval, the other scores, the weakest class."""
    first = f"accuracy {share(metrics.top1)} (95 % {interval(metrics.top1_ci)}, n = {metrics.n:,})"
    second = f"balanced accuracy {share(metrics.balanced_accuracy)}, loss {metrics.loss:.3f}"
    if metrics.top5 is not None:
        second += f", top-5 accuracy {share(metrics.top5)}"
    worst = weakest_words(metrics)
    third = "weakest {} {}".format(*worst) if worst else f"no mistake in {count(metrics.n, 'image')}"
    return [first, second, third]


def weakest_words(metrics: Metrics) -> tuple[str, str] | None:
    """('tulip', '0.58 recall (12 images), often taken for rose'); None where there is no mistake."""
    worst = weakest(metrics)
    if worst is None or worst.recall is None:
        return None
    wrong = taken_for(metrics, worst.name)
    assert wrong is not None, "a recall below one has a mistake"
    mistakes = worst.n - round(worst.recall * worst.n)
    if mistakes == 1:
        how = f"once taken for {printable(wrong[0], limit=60)}"
    elif wrong[1] > 1 and wrong[1] >= OFTEN * mistakes:
        how = f"often taken for {printable(wrong[0], limit=60)}"
    else:
        how = "taken for several other classes"
    recall = share(worst.recall, digits=2)
    return printable(worst.name, limit=60), f"{recall} recall ({count(worst.n, 'image')}), {how}"
