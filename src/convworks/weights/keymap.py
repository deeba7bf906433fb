"""Two names for each weight: ours, and the one under which others publish the same network.

A layout is a table of rules, read from top to bottom: the first whose left side is the beginning of our name,
up to a dot, replaces that beginning. A field in braces stands for digits and may be shifted on the right:

    "conv{s}_x.block{b}.branch"  ->  "layer{s-1}.{b-1}"
    conv3_x.block1.branch.conv2.weight  ->  layer2.0.conv2.weight

What follows the beginning is the same in both: weight, bias, running_mean and so on are torch's words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from convworks.layers.auxiliary import AUXILIARY

Rule = tuple[str, str]
OURS = "convworks"
_FIELD = re.compile(r"\{([a-z])(-\d+)?\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one publisher names the weights of one network.

    `folded` is for dense layers that the publisher writes as convolutions: our name -> the window (h, w),
    where ours is (out, c * h * w) and theirs (out, c, h, w), with the numbers in the same order. `needs` are
    options of our network without which the same weights compute something else.
    """

    publisher: str
    rules: tuple[Rule, ...] = ()
    folded: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)

    def rename(self, name: str) -> str | None:
        """Their name for one of ours; None where no rule fits."""
        if not self.rules:
            return name
        for ours, theirs in self.rules:
            found = _pattern(ours).match(name)
            if found is not None:
                return _filled(theirs, found.groupdict()) + name[found.end() :]
        return None

    def table(self, names: Iterable[str]) -> dict[str, str] | None:
        """Our name -> theirs for all names of a network; None where one of them has no rule."""
        found = {name: self.rename(name) for name in names}
        whole = {ours: theirs for ours, theirs in found.items() if theirs is not None}
        return whole if len(whole) == len(found) else None

    def unfold(self, name: str, tensor: Tensor) -> Tensor:
        """Their tensor with our shape; one that has another shape than they publish stays as it is."""
        window = self.folded.get(name)
        fits = window is not None and tensor.ndim == 4 and tuple(tensor.shape[2:]) == window
        return tensor.flatten(1) if fits else tensor

    def fold(self, name: str, tensor: Tensor) -> Tensor | None:
        """Our tensor with their shape; None where ours was made for another input size."""
        window = self.folded.get(name)
        if window is None:
            return tensor
        height, width = window
        maps, rest = divmod(tensor.shape[1], height * width)
        return None if rest else tensor.reshape(len(tensor), maps, height, width)

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Beginnings of their names for auxiliary classifiers."""
        return tuple(
            dict.fromkeys(t.partition(".")[0] + "." for o, t in self.rules if o.startswith(AUXILIARY))
        )


Layouts = Callable[[str, Mapping[str, Any]], tuple[Layout, ...]]  # (model, its options) -> layouts


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """ "conv{s}_x.block{b}" -> conv(?P<s>\\d+)_x\\.block(?P<b>\\d+), before a dot."""
    parts, at = [], 0
    for each in _FIELD.finditer(template):
        parts += [re.escape(template[at : each.start()]), rf"(?P<{each[1]}>\d+)"]
        at = each.end()
    return re.compile("".join(parts) + re.escape(template[at:]) + r"(?=\.)")


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda each: str(int(values[each[1]]) + int(each[2] or 0)), template)


def under(ours: str, theirs: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules of a part of a network, below a child of ours and of theirs."""
    return tuple((f"{ours}.{left}", f"{theirs}.{right}") for left, right in rules)
