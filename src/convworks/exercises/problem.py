"""A problem with its answer key, and how a typed answer is read and compared.

The key is computed twice: by the closed form when the problem is made, and by running the layers when the
answers are asked for. The two must agree, or no answer is given at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias, TypeVar

from convworks.errors import ConvworksError

Value: TypeAlias = int | float | str | tuple[int, ...]  # a size is a tuple, in the order HxWxC
T = TypeVar("T")
NO = "no"  # "it does not fit", "there is none"
SAYS_NO = re.compile(r"\b(does\s*(not|n['’]?t)\s*fit|not\s+possible|impossible|none|nothing|no)\b|^-$", re.I)


def pick(draw: Random | None, lecture: T, others: Sequence[T]) -> T:
    """The lecture's own number, or one of the others for a variant."""
    return lecture if draw is None else draw.choice(others)


@dataclass(frozen=True, slots=True)
class Part:
    """One answer that is asked for, with its key. `remarks` explain wrong answers that are often given."""

    name: str
    value: Value
    tolerance: float = 0.0  # absolute, for decimals
    digits: int = 2  # decimals shown
    remarks: Mapping[Value, str] = field(default_factory=dict)

    @property
    def example(self) -> str:
        """An answer of this form, which is not the key but by chance."""
        if isinstance(self.value, tuple):
            return "x".join(["32"] * (len(self.value) - 1) + ["10"])
        return f"{0.5:.{self.digits}f}" if isinstance(self.value, float) else "100"

    @property
    def kind(self) -> str:
        """What the answer looks like."""
        if isinstance(self.value, tuple):
            return f"a size such as {self.example}"
        if isinstance(self.value, float):
            return f"a number with {self.digits} decimals"
        return "a whole number, or no"

    def shown(self) -> str:
        """The key as the lectures write it: 32x32x10, 1,792, 81.48, no."""
        if isinstance(self.value, tuple):
            return "x".join(str(n) for n in self.value)
        if isinstance(self.value, float):
            return f"{self.value:.{self.digits}f}"
        return f"{self.value:,}" if isinstance(self.value, int) else self.value

    def read(self, text: str) -> Value:
        """A typed answer as a value. Raises U142 where it is not of this kind."""
        try:
            if SAYS_NO.fullmatch(text.strip()):
                return NO
            if isinstance(self.value, tuple):
                return _size(text)
            return _decimal(text) if isinstance(self.value, float) else int(_plain(text))
        except ValueError:
            what = f"'{text}' is not an answer for '{self.name}'"
            raise ConvworksError("U142", what, try_=self.kind) from None

    def right(self, value: Value) -> bool:
        """Whether a value is the key, within the tolerance for a decimal."""
        if isinstance(self.value, float):
            return isinstance(value, int | float) and abs(value - self.value) <= self.tolerance
        return value == self.value


@dataclass(frozen=True, slots=True)
class Problem:
    """A statement, its parts, the worked solution, and the same answers found by running the thing."""

    statement: str
    parts: tuple[Part, ...]
    solution: str
    measure: Callable[[], Sequence[Value]]


@dataclass(frozen=True, slots=True)
class Marked:
    """One part of a checked answer."""

    name: str
    given: str
    right: bool
    remark: str = ""


def verify(problem: Problem, *, name: str) -> None:
    """Run the thing and compare with the closed form. Raises RuntimeError where they differ."""
    measured = list(problem.measure())
    keys = [part.value for part in problem.parts]
    same = len(measured) == len(keys) and all(map(_agree, keys, measured))
    if not same:
        raise RuntimeError(f"exercise {name}: the formula gives {keys}, running it gives {measured}")


def _agree(key: Value, measured: Value) -> bool:
    if isinstance(key, float):
        return isinstance(measured, int | float) and math.isclose(key, measured, rel_tol=1e-9, abs_tol=1e-12)
    return type(key) is type(measured) and key == measured


def mark(problem: Problem, text: str) -> list[Marked]:
    """Each part of a typed answer, right or not. Raises U142 for another number of answers."""
    words = split_answers(text)
    if len(words) != len(problem.parts):
        asked = ", ".join(part.name for part in problem.parts)
        what = f"{len(problem.parts)} answers are asked for, and {len(words)} given"
        example = " ".join(part.example for part in problem.parts)
        raise ConvworksError("U142", what, where=asked, try_=f'answers in this form: "{example}"')
    marked = []
    for part, word in zip(problem.parts, words, strict=True):
        value = part.read(word)
        right = part.right(value)
        remark = "" if right else part.remarks.get(value, "")
        marked.append(Marked(name=part.name, given=word, right=right, remark=remark))
    return marked


def split_answers(text: str) -> list[str]:
    """The words of an answer: "32x32x10, 760 does not fit" has three."""
    text = re.sub(r"does\s*(?:not|n['’]?t)\s*fit|not possible", NO, text, flags=re.I)
    text = re.sub(r"[\[(][^\])]*[\])]", lambda match: re.sub(r"\s", "", match[0]), text)
    text = re.sub(r"\s*([x×@])\s*(?=[0-9])", r"\1", text)
    return [word for word in re.split(r"[;\s]+|,(?=\s)|,$", text.strip()) if word]


def _plain(text: str) -> str:
    """ "1,792" as "1792"."""
    return re.sub(r"[,_'](?=[0-9]{3}(?![0-9]))", "", text)


def _size(text: str) -> tuple[int, ...]:
    """32x32x10, [32x32x10], (32, 32, 10) or 10@32x32."""
    plain = text.strip().strip("[]()").lower().replace("×", "x").replace(",", "x")
    first, at, rest = plain.partition("@")
    numbers = [int(part) for part in (f"{rest}x{first}" if at else first).split("x")]
    return tuple(numbers)


def _decimal(text: str) -> float:
    plain = _plain(text.strip().rstrip("%").rstrip("x×"))
    value = float(plain.replace(",", "."))
    if not math.isfinite(value):
        raise ValueError(text)
    return value
