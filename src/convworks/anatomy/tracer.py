"""What comes from what: every tensor of a pass with its receptive field and the layer that made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from convworks.anatomy.receptive_field import MERGING, RULES, Field, Fields, union
from convworks.eager import EagerMode

IMAGE = -1  # the node that is the input


@dataclass(frozen=True, slots=True)
class Join:
    """An operator at which several nodes meet: "add", "cat", "mul"; and the shape of what it makes."""

    operator: str
    parts: tuple[int, ...]
    shape: tuple[int, ...]


class FieldTracer(EagerMode):
    """While it is active, every tensor that comes from the input has its `Fields`: `fields_of(tensor)`.

    `unknown` names the operators that no rule is for; behind one of them a unit counts as seeing all.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields: MutableMapping[Tensor, Fields] = WeakTensorKeyDictionary()
        one = Fraction(1)
        self._fields[image] = tuple(
            Field(Fraction(0), Fraction(0), one, axis) for axis in range(2, image.dim())
        )
        self.unknown: set[str] = set()
        self.joins: list[Join] = []
        self._nodes: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self._nodes[image] = IMAGE

    def node_of(self, tensor: Tensor) -> int | None:
        """Where a tensor comes from: a layer by the number given to `passed`, IMAGE, or -2 - j for join j."""
        return self._nodes.get(tensor)

    def origins(self, nodes: Iterable[int]) -> tuple[int, ...]:
        """The layers, and IMAGE, behind these nodes, seen through the joins; sorted."""
        seen: set[int] = set()
        left = list(nodes)
        while left:
            node = left.pop()
            if node not in seen:
                seen.add(node)
                left += self.joins[-2 - node].parts if node < IMAGE else ()
        return tuple(sorted(node for node in seen if node >= IMAGE))

    def passed(self, tensor: Tensor, layer: int) -> None:
        """A layer has made this tensor: what is computed from it comes from that layer."""
        self._nodes[tensor] = layer

    def seen(self, tensor: Tensor, fields: Fields) -> None:
        """A tensor has these fields, whatever its operators said."""
        self._fields[tensor] = fields

    def fields_of(self, tensor: Tensor) -> Fields | None:
        return self._fields.get(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        sources = [t for t in tensors_of([*args, *(kwargs or {}).values()]) if t in self._fields]
        outputs = tensors_of([result])[:1]  # batch norm also gives statistics, pooling its indices
        if sources and outputs:
            self._nodes[outputs[0]] = self._met(func, sources, outputs[0])
            self._fields[outputs[0]] = self._rule(func, args, sources, outputs[0])
        return result

    def _met(self, func: Any, sources: list[Tensor], output: Tensor) -> int:
        """The one node that the sources are, or a new join."""
        parts = tuple(dict.fromkeys(self._nodes[source] for source in sources))
        if len(parts) == 1:
            return parts[0]
        self.joins.append(Join(name_of(func), parts, tuple(output.shape[1:])))
        return -1 - len(self.joins)

    def _rule(self, func: Any, args: tuple[Any, ...], sources: list[Tensor], output: Tensor) -> Fields:
        name = name_of(func)
        before = self._fields[sources[0]]
        rule = RULES.get(name)
        if rule is not None:
            made: Fields = rule(before, args, sources[0], output)
            return made
        if all(source.dim() == output.dim() for source in sources) and _same_places(sources, before, output):
            return union([self._fields[source] for source in sources])  # elementwise, concatenation
        if name not in MERGING:
            self.unknown.add(name)
        return union([_all_merged(self._fields[source], source) for source in sources])


def name_of(func: Any) -> str:
    """Of an operator of torch, without its namespace and the mark of one in place."""
    name: str = func._schema.name
    return name.removeprefix("aten::").rstrip("_")


def tensors_of(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among values, also inside lists and tuples."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_of(value)
    return found


def _same_places(sources: Sequence[Tensor], fields: Fields, output: Tensor) -> bool:
    """Whether the output has the positions of its largest source along every dimension of the input."""
    axes = [f.axis for f in fields if f.axis is not None]
    return all(max(s.shape[a] for s in sources) == output.shape[a] for a in axes)


def _all_merged(fields: Fields, source: Tensor) -> Fields:
    return tuple(f if f.axis is None else f.merged(source.shape[f.axis]) for f in fields)
