"""The events of training and evaluation as lines: what was found, what will be done, epochs, the verdict.

In a file a run is at most its epochs plus thirty lines; on a terminal one more line lives below them.
"""

from __future__ import annotations

import shlex

from convworks.cli.console import Console, clean
from convworks.cli.text import LABEL, block, clock, count, duration, folder, fraction, magnitude
from convworks.flows.events import EpochDone, Event, Finished, Found, Note, Progress, Stopped, Will

MOST_WARNINGS = 3
MOST_SENTENCES = 5
MOST_NOTES = 2
MOST_SETTINGS = 6
FILE_WIDTH = 100
BAR = 20  # characters of the live bar
HEADER = "epoch    train loss    acc  |  val loss    acc  bal.acc        lr     time"

KINDS = {
    Found: "found",
    Will: "will",
    EpochDone: "epoch",
    Note: "note",
    Stopped: "stopped",
    Finished: "finished",
}


class Renderer:
    """Prints each event as it comes; remembers only what the next line needs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stopped: Stopped | None = None
        self.finished: Finished | None = None
        self._header_due = True
        self._warnings = 0

    def show(self, event: Event) -> None:
        kind = KINDS.get(type(event))
        if kind is not None:
            self.console.record(kind, event)
        match event:
            case Found():
                self._found(event)
            case Will():
                self._will(event)
            case Progress():
                self.console.live(progress_line(event))
            case EpochDone():
                self._epoch(event)
            case Note():
                self._note(event)
            case Stopped():
                self._stopped(event)
            case Finished():
                self._finished(event)

    def _block(self, label: str, text: str) -> None:
        width = max(80, self.console.width) if self.console.live_output else FILE_WIDTH
        for line in block(label, text, width=width):
            self.console.say(line)

    def _found(self, event: Found) -> None:
        out = f", {len(event.left_out)} left out" if event.left_out else ""
        facts = f"{count(event.images, 'image')}, {count(len(event.classes), 'class')}"
        self._block("I found", f"{facts} (manifest {event.manifest[:6]}{out}) in {clean(event.location)}")
        splits = ", ".join(f"{name} {number:,}" for name, number in event.splits.items())
        self._block("", f"{splits}; {event.split_rule}")
        for path, reason in event.left_out if self.console.verbose else event.left_out[:1]:
            self._block("", f"left out  {clean(path)}: {reason}")
        for text in event.warnings:
            self._warn(text)

    def _will(self, event: Will) -> None:
        if event.resumed_at is not None and event.resumed_at[0] > event.epochs:
            self._block("I continue", f"after the last epoch: {event.exact}")
        elif event.resumed_at is not None:
            epoch, step = event.resumed_at
            place = f"step {step} of {event.steps_per_epoch}"
            place = place if step <= event.steps_per_epoch else "after its last step"
            self._block("I continue", f"at epoch {epoch}, {place}: {event.exact}")
        channels, height, width = event.input
        size = f"{height} px" if height == width else f"{height}x{width} px"
        parameters = magnitude(event.parameters)
        self._block(
            "I will",
            f"train {event.model} ({parameters} parameters) for {count(event.epochs, 'epoch')}, "
            f"{size} {'grey' if channels == 1 else 'colour'}, batch {event.batch}, on {event.device}",
        )
        for line in event.plan if self.console.verbose else event.plan[:2]:
            self._block("", line)
        for number, text in enumerate(settings_texts(event, everything=self.console.verbose)):
            self._block("settings" if number == 0 else "", text)
        self._block("recipe", clean(event.compliance.removeprefix("recipe ")))
        whole = event.seconds_per_epoch * event.epochs
        self._block(
            "",
            f"about {duration(event.seconds_per_epoch)} an epoch, {duration(whole)} in all; "
            "stop any time with Ctrl-C and continue later",
        )
        self._block("run", folder(event.run))
        self.console.say()

    def _epoch(self, event: EpochDone) -> None:
        if self._header_due:
            self.console.say(HEADER, style="bold")
            self._header_due = False
        self.console.say(epoch_line(event))

    def _note(self, event: Note) -> None:
        if event.level == "warning":
            self._warn(event.text)
        else:
            self.console.say(event.text)

    def _warn(self, text: str) -> None:
        """The first few; how many more there were is said at the end."""
        self._warnings += 1
        if self._warnings <= MOST_WARNINGS or self.console.verbose:
            self.console.warn(text)

    def _stopped(self, event: Stopped) -> None:
        self.stopped = event
        if event.steps:
            place = f"step {event.step} of {event.steps} of epoch {event.epoch}"
            self.console.say(f"Saved {place} ({duration(event.seconds)}).")
        self.console.answer(f"continue with:  convworks resume {shlex.quote(folder(event.run))}")

    def _finished(self, event: Finished) -> None:
        self.finished = event
        self.console.say()
        hidden = 0 if self.console.verbose else self._warnings - MOST_WARNINGS
        if hidden > 0:
            self.console.warn(f"{count(hidden, 'more warning')}, which --verbose shows")
        for line in final_lines(event):
            self.console.answer(line)


def settings_texts(event: Will, *, everything: bool) -> list[str]:
    """'flag: epochs 3, lr 0.1' for each place where settings came from, the user's own first."""
    groups: dict[str, list[str]] = {}
    for key, (value, source) in event.settings.items():
        groups.setdefault(source, []).append(f"{key} {value}")
    texts = []
    for source in sorted(groups, key=lambda name: name.startswith("recipe")):
        shown = groups[source] if everything else groups[source][:MOST_SETTINGS]
        hidden = len(groups[source]) - len(shown)
        texts.append(f"{source}: {', '.join(shown)}" + (f", ... {hidden} more" if hidden else ""))
    return texts


def epoch_line(event: EpochDone) -> str:
    """One row of the table; a dash stands for what was not measured."""
    place = f"{event.epoch:>{len(str(event.epochs))}}/{event.epochs}"
    best = "  * best" if event.best else ""
    return (
        f"{place:<9}{event.train_loss:10.4f}  {event.train_accuracy:5.3f}  |"
        f"{_number(event.val_loss):>10}  {fraction(event.val_accuracy):>5}  "
        f"{fraction(event.val_balanced_accuracy):>7}  {event.lr:8.2g}  {_spent(event.seconds):>7}{best}"
    )


def _spent(seconds: float) -> str:
    return duration(seconds) if seconds < 9.95 else clock(seconds)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def progress_line(event: Progress) -> str:
    """' 3/30  [=========>          ]  51 %  loss 1.071  acc 0.570  900 images/s  21 min left'"""
    share = min(1.0, event.step / max(1, event.steps))
    full = int(BAR * share)
    bar = ("=" * full + ">" * (full < BAR)).ljust(BAR)
    if event.phase == "scan":
        return f"reading  [{bar}] {share:4.0%}  {event.images_per_second:,.0f} images/s"
    place = f"{event.epoch:>{len(str(event.epochs))}}/{event.epochs}"
    if event.phase != "train":
        return f"{place}  [{bar}] {share:4.0%}  validation"
    return (
        f"{place}  [{bar}] {share:4.0%}  loss {event.loss:.3f}  acc {event.accuracy:.3f}"
        f"  {event.images_per_second:,.0f} images/s  {duration(event.seconds_left)} left"
    )


def final_lines(event: Finished) -> list[str]:
    """The verdict, where the results lie, and what to do next."""
    run = shlex.quote(folder(event.run))
    lines = []
    for number, sentence in enumerate(event.sentences[:MOST_SENTENCES]):
        lines += block(event.split if number == 0 else "", sentence)
    lines += block("weights", f"of epoch {event.epoch}")
    for note in event.notes[:MOST_NOTES]:
        lines += block("note", note)
    lines.append(
        f"{'speed':<{LABEL}}{event.images_per_second:,.0f} images/s, {duration(event.seconds)} in all"
    )
    if event.report is not None:
        lines.append(f"{'report':<{LABEL}}{folder(event.report)}")
    lines.append(f"{'model':<{LABEL}}{folder(event.model)}")
    lines.append(f"{'next':<{LABEL}}convworks predict {run} PATH")
    return lines
