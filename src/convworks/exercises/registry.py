"""The exercises by name, a variant of one by its seed, and mixed sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from convworks.errors import unknown_name
from convworks.exercises import costs, networks, sizes
from convworks.exercises.problem import Marked, Part, Problem, mark, verify
from convworks.randomness import derive_seed


@dataclass(frozen=True, slots=True)
class Row:
    """One exercise of the lectures."""

    title: str
    source: str
    make: Callable[[Random | None], Problem]


ARCHITECTURES = "lectures, convolutional networks and architectures"
LEARNING = "lectures, introduction to convolutional networks"
VISION = "lectures, convolutional networks for visual recognition"
COURSE = "lectures, convolutional networks: operators and training"
KERAS = "lectures, convolutional layers in Keras"

EXERCISES: dict[str, Row] = {
    "sparse-edges": Row(
        "edges and weights of a sparse layer", f"{ARCHITECTURES}, sparse connectivity", costs.sparse_edges
    ),
    "max-pool-matrix": Row(
        "max pooling of a 4x4 matrix", f"{ARCHITECTURES}, strides", networks.max_pool_matrix
    ),
    "padding": Row(
        "size without padding, and the padding that keeps it", f"{ARCHITECTURES}, padding", sizes.padding
    ),
    "vgg-stack": Row(
        "a stack of 3x3 kernels beside one large kernel", f"{ARCHITECTURES}, VGG", costs.vgg_stack
    ),
    "backprop-step": Row(
        "one iteration of back-propagation",
        f"{LEARNING}, back-propagation; the weights are our own, because the figure is lost",
        networks.backprop_step,
    ),
    "alexnet-shapes": Row(
        "AlexNet line by line", f"{LEARNING}, and {VISION}, AlexNet", networks.alexnet_shapes
    ),
    "strides": Row(
        "output widths at several strides", f"{VISION}, a closer look at spatial dimensions", sizes.strides
    ),
    "same-padding": Row("the padding that preserves the size", f"{VISION}, zero-padding", sizes.same_padding),
    "feature-maps": Row("a stack of feature maps", f"{VISION}, convolution layer", sizes.feature_maps),
    "conv-volume": Row(
        "a volume through a convolution: size and parameters", f"{VISION}, examples time", sizes.volumes
    ),
    "whatever-fits": Row(
        "which padding fits at a larger stride", f"{VISION}, common settings", sizes.whatever_fits
    ),
    "alexnet-first-layers": Row(
        "a first convolution and its pool, as in AlexNet", f"{VISION}, AlexNet", networks.alexnet_first_layers
    ),
    "map-sizes": Row(
        "maps, multiply-adds and parameters of a first layer",
        f"{COURSE}, convolution operator as a layer",
        costs.map_sizes,
    ),
    "conv-cost-5x5": Row(
        "maps, multiply-adds and parameters with a 5x5 kernel",
        f"{COURSE}, convolution operator, exercises",
        costs.conv_cost_5x5,
    ),
    "conv-cost-3x3": Row(
        "maps, multiply-adds and parameters with a 3x3 kernel",
        f"{COURSE}, convolution operator, exercises",
        costs.conv_cost_3x3,
    ),
    "conv-cost-twice": Row(
        "two 3x3 convolutions beside one 5x5",
        f"{COURSE}, convolution operator, exercises",
        costs.conv_cost_twice,
    ),
    "conv-pool-chain": Row(
        "sizes along a chain of layers",
        f"{COURSE}, pooling operator, exercises; the chain is our own, because the figure is lost",
        sizes.chain,
    ),
    "weights-of-a-cnn": Row(
        "how many weights, and where",
        f"{COURSE}, reshape layers, exercise; the network is our own, because the figure is lost",
        costs.weights_of_a_cnn,
    ),
    "free-parameters": Row(
        "free parameters of a convolution and of a dense layer",
        f"{KERAS}, free parameters",
        costs.free_parameters,
    ),
    "keras-listing": Row("a batch through Conv2D", f"{KERAS}, Conv2D", networks.keras_listing),
    "field-parity": Row(
        "what the second pool can see", f"{KERAS}, receptive field expansion", networks.field_parity
    ),
}


@dataclass(frozen=True, slots=True)
class Exercise:
    """An exercise with numbers: those of the lectures where `seed` is None, else a variant."""

    name: str
    seed: int | None
    title: str
    source: str
    problem: Problem

    @property
    def statement(self) -> str:
        return self.problem.statement

    @property
    def asked(self) -> tuple[str, ...]:
        """What is asked for, in order."""
        return tuple(part.name for part in self.problem.parts)

    def answers(self) -> tuple[Part, ...]:
        """The key, after running the thing and finding the same. Raises RuntimeError where it is not."""
        verify(self.problem, name=self.name)
        return self.problem.parts

    @property
    def solution(self) -> str:
        """The worked solution."""
        return self.problem.solution

    def check(self, text: str) -> list[Marked]:
        """Each part of a typed answer such as "32x32x10 760". Raises U142 where it cannot be read."""
        self.answers()
        return mark(self.problem, text)

    @property
    def command(self) -> str:
        """The command that shows this exercise."""
        seed = "" if self.seed is None else f" --seed {self.seed}"
        return f"convworks exercise show {self.name}{seed}"


def names() -> tuple[str, ...]:
    """The exercises, in the order of the lectures."""
    return tuple(EXERCISES)


def exercise(name: str, *, seed: int | None = None) -> Exercise:
    """An exercise by name, with the lectures' numbers, or with others by `seed`. Raises U141."""
    if name not in EXERCISES:
        raise unknown_name("exercise", name, EXERCISES, code="U141", try_="convworks exercise show {near}")
    row = EXERCISES[name]
    draw = None if seed is None else Random(derive_seed(seed, f"exercise {name}"))
    return Exercise(name=name, seed=seed, title=row.title, source=row.source, problem=row.make(draw))


def sheet(seed: int, *, count: int) -> list[Exercise]:
    """`count` different exercises, drawn and varied by the seed, in the order of the lectures."""
    chosen = set(
        Random(derive_seed(seed, "exercise sheet")).sample(list(EXERCISES), min(count, len(EXERCISES)))
    )
    return [exercise(name, seed=seed) for name in EXERCISES if name in chosen]


def sheet_markdown(exercises: Sequence[Exercise], *, title: str, answers: bool) -> str:
    """A sheet as Markdown: the statements, and at the end, where asked for, the key and worked solutions."""
    lines = [f"# {title}", ""]
    for number, each in enumerate(exercises, start=1):
        lines += [f"## {number}. {_headline(each)}", "", *_paragraphs(each.statement), ""]
        lines += [f"{i}. {asked}:" for i, asked in enumerate(each.asked, start=1)]
        lines += ["", f"<small>{each.name}; {each.source}</small>", ""]
    if answers:
        lines += ["# Answers", ""]
        for number, each in enumerate(exercises, start=1):
            lines += [f"## {number}. {_headline(each)}", ""]
            lines += [
                f"{i}. {part.name}: **{part.shown()}**" for i, part in enumerate(each.answers(), start=1)
            ]
            lines += ["", *_paragraphs(each.solution), "", f"`{each.command} --answer`", ""]
    return "\n".join(lines).rstrip() + "\n"


def _headline(each: Exercise) -> str:
    return each.title[:1].upper() + each.title[1:]


def _paragraphs(text: str) -> list[str]:
    """Lines of their own in Markdown; those of a table or matrix, which begin with two spaces, as code."""
    found: list[str] = []
    for line in text.split("\n"):
        code = line.startswith("  ")
        if found and not (code and found[-1].startswith("  ")):
            found.append("")
        found.append("    " + line.strip() if code else line)
    return found
