"""Try layers by kernels of ours in whole training steps: the last stage of planning.

Each layer is measured alone first (`convolution_choice`); the layers that win are tried together in a
whole step against the winner so far. Where there are matrix units, bf16 in channels_last is tried beside that
winner, too, on all threads and, where steps are quick, on fewer: by torch's layers it may lose and by ours
win.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from convworks.training.convolution_choice import AMX, WAYS, WINOGRAD, Choice, Way, convolutions_of, gains
from convworks.training.convolution_choice import chosen as worth_it
from convworks.training.step_timing import BF16_MARGIN, OWN_MARGIN, SETTLES, Candidate, Trainee, ratio


@dataclass(frozen=True, slots=True)
class Words:
    """How a way is spoken of."""

    title: str
    kind: str  # the convolutions that it fits
    fits: str  # what it fits
    by: str
    form: str  # why it cannot be: another form won
    nothing: str  # or nothing fits
    unable: str  # or the processor lacks something


_WORDS = {
    WINOGRAD.name: Words(
        "Winograd's algorithm",
        "3x3 convolutions",
        "convolutions",
        "by it",
        "it is for bf16 and channels_last on the CPU",
        "there is no 3x3 convolution of stride 1",
        "this processor has no bf16 arithmetic (AVX512-BF16)",
    ),
    AMX.name: Words(
        "matrix units (AMX)",
        "convolutions",
        "layers",
        "on them",
        "they are for bf16 and channels_last on the CPU",
        "there is no layer that they fit",
        "this processor has none, or the system does not lend them",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What won, and why."""

    chosen: Candidate
    reasons: tuple[str, ...]  # one for each way
    overtook: str = ""  # why another form than that of the winner before, where it is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the stage begins with."""

    winner: Candidate  # so far
    tried: Sequence[Candidate]  # the forms that the user left open
    trainee: Trainee
    ready: Callable[[], str]  # makes the kernels ready: '' or the reason why there are none
    wanted: Mapping[str, str]  # way -> "auto" or "no"
    seconds: float  # how long whole steps may be measured

    def run(self, taken: dict[str, float]) -> Result:
        """The fastest whole step, with or without kernels of ours. `taken` gets the times of the new ones."""
        network, _ = self.trainee.of_layers(self.winner)
        fitting = {way.name: way.suitable(network) for way in WAYS}
        slow = taken[self.winner.name] > SETTLES
        forms = [each for each in (self.winner, *self._others(slow)) if _fits(each)]
        missing = {AMX.name: self._missing(AMX, fitting, forms)}
        if missing[AMX.name]:
            forms = [each for each in forms if each is self.winner]
        missing[WINOGRAD.name] = self._missing(WINOGRAD, fitting, forms)
        twins = self._twins(forms, [way for way in WAYS if not missing[way.name]])
        if not twins:
            return Result(chosen=self.winner, reasons=tuple(_none(way, missing) for way in WAYS))
        gain_of = {twin: self._gain(twin, self.seconds / len(twins)) for twin in twins}
        taken.update({twin.name: taken[self.winner.name] / gain for twin, gain in gain_of.items()})
        best = max(gain_of, key=lambda twin: gain_of[twin])
        won = gain_of[best] >= self._margin(best)
        reasons = tuple(
            _some(
                way,
                _share(way, network, fitting[way.name], getattr(best, way.name)) if won else "",
                f"{gain_of[best]:.2f}x as fast as {self._than(best)}",
            )
            if getattr(best, way.name)
            else _none(way, missing)
            for way in WAYS
        )
        if not won:
            return Result(chosen=self.winner, reasons=reasons)
        return Result(chosen=best, reasons=reasons, overtook=self._overtook(best, gain_of[best]))

    def _others(self, slow: bool) -> list[Candidate]:
        """The forms that are tried beside the winner where there are matrix units, fused where that can be.

        One for each number of threads; where a step is slow, that on all threads alone.
        """
        open_ = sorted((each for each in self.tried if _fits(each)), key=lambda each: -each.threads)
        most = open_[:1] if slow else open_
        return [replace(each, fused=self.trainee.fusible) for each in most if not self._same_form(each)]

    def _same_form(self, other: Candidate) -> bool:
        return (other.numerics, other.threads) == (self.winner.numerics, self.winner.threads)

    def _missing(self, way: Way, fitting: Mapping[str, list[str]], forms: list[Candidate]) -> str:
        """Why a way cannot be tried, or '' where it can."""
        if self.wanted[way.name] == "no":
            return "as asked"
        if not forms:
            return _WORDS[way.name].form
        if not fitting[way.name]:
            return _WORDS[way.name].nothing
        return self.ready() or ("" if way.available() else _WORDS[way.name].unable)

    def _twins(self, forms: list[Candidate], ways: list[Way]) -> list[Candidate]:
        """Each form with the layers that gain in it, where there are some."""
        found = []
        for form in forms if ways else ():
            network, x = self.trainee.of_layers(form)
            layers = worth_it(gains(network, x, form.numerics, ways))
            if layers != Choice():
                found.append(replace(form, winograd=layers.winograd, amx=layers.amx))
        return found

    def _gain(self, twin: Candidate, seconds: float) -> float:
        first, second = self.trainee.timer(self.winner), self.trainee.timer(twin)
        return ratio(first, second, seconds=seconds, margin=self._margin(twin))

    def _margin(self, twin: Candidate) -> float:
        same = twin.numerics.precision == self.winner.numerics.precision
        return OWN_MARGIN if same else BF16_MARGIN

    def _than(self, twin: Candidate) -> str:
        if not self._same_form(twin):
            return self.winner.name
        return "without both" if twin.winograd and twin.amx else "without"

    def _overtook(self, best: Candidate, gain: float) -> str:
        if self._same_form(best):
            return ""
        return (
            f"{best.numerics.precision} with layers of our own trains {gain:.2f}x as fast as "
            f"{self.winner.name} here, which is the fastest with torch's"
        )


def _fits(candidate: Candidate) -> bool:
    """Whether the form is one that our layers are for."""
    numerics = candidate.numerics
    form = (numerics.precision, numerics.memory_format, numerics.device)
    return form == ("bf16", "channels_last", "cpu")


def _none(way: Way, missing: Mapping[str, str]) -> str:
    words = _WORDS[way.name]
    reason = missing[way.name] or f"none of the {words.fits} gains enough {words.by} here"
    return f"{words.title}: no, {reason}"


def _some(way: Way, share: str, gain: str) -> str:
    """`share`: in which of the layers that it fits, '' where the step without them won."""
    return f"{_WORDS[way.name].title}: " + (f"yes, in {share}, {gain}" if share else f"no, {gain}")


def _share(way: Way, network: nn.Module, fitting: Collection[str], layers: Collection[str]) -> str:
    """'5 of 7 convolutions and 3 of 3 dense layers'; a kind that there is none of is left out."""
    convolutions = set(convolutions_of(network, fitting))
    kinds = {_WORDS[way.name].kind: convolutions, "dense layers": set(fitting) - convolutions}
    return " and ".join(
        f"{len(fit & set(layers))} of {len(fit)} {kind}" for kind, fit in kinds.items() if fit
    )
