"""The lectures' exercises: their answers as the lectures' readers compute them, "
"variants, and typed answers."""

from __future__ import annotations

import itertools

import pytest
import torch

from convworks.errors import ConvworksError
from convworks.exercises import exercise, names, sheet, sheet_markdown
from convworks.exercises.measure import measure_field, measure_stack
from convworks.exercises.problem import Part, Problem, split_answers, verify

# The answer sheet: every number was worked out before the program existed.
ANSWERS = {
    "sparse-edges": "13 25 3",
    "max-pool-matrix": "9 7 9 8",
    "padding": "28x28 2 32x32",
    "vgg-stack": "27 49 81.48",
    "backprop-step": ".017004 .037557 .003756 -.032416 -.003242 .141975 -.138072 .009707",
    "alexnet-shapes": "227x227x3 55x55x96 27x27x96 27x27x96 27x27x256 13x13x256 "
    "13x13x256 13x13x384 13x13x384 "
    "13x13x256 6x6x256 4096 4096 1000",
    "strides": "5, 3, does not fit, 7",
    "same-padding": "1 2 3 no",
    "feature-maps": "28x28x6 456",
    "conv-volume": "32x32x10 760",
    "whatever-fits": "none 15 16",
    "alexnet-first-layers": "55x55x96 34,848 34,944 27x27x96 0",
    "map-sizes": "64@32x32 1,769,472 64@30x30 1,555,200 1,792",
    "conv-cost-5x5": "64@64x64 209,715,200 64@60x60 184,320,000 51,264",
    "conv-cost-3x3": "64@64x64 75,497,472 64@62x62 70,852,608 18,496",
    "conv-cost-twice": "64@60x60 203,563,008 226,492,416 55,424 1.10 1.08",
    "conv-pool-chain": "32x32x16 16x16x16 14x14x32 6x6x32 6x6x64",
    "weights-of-a-cnn": "2,122,186 5 98.8",
    "free-parameters": "2,700 2,800 3,000,000",
    "keras-listing": "(10, 24, 24, 8) 224",
    "field-parity": "16 no",
}


def test_every_exercise_has_an_expected_answer() -> None:
    assert set(ANSWERS) == set(names())


@pytest.mark.parametrize("name", ANSWERS)
def test_the_lectures_own_numbers(name: str) -> None:
    marked = exercise(name).check(ANSWERS[name])
    assert [part for part in marked if not part.right] == []


@pytest.mark.parametrize("name", ANSWERS)
def test_variants_differ_and_running_agrees(name: str) -> None:
    seeds = range(2 if name == "alexnet-shapes" else 5)
    found = [exercise(name, seed=seed) for seed in seeds]
    for each in found:
        key = " ".join(part.shown() for part in each.answers())  # raises where running gives another number
        assert all(part.right for part in each.check(key))
        assert len(each.solution) > 10
        assert exercise(name, seed=each.seed).statement == each.statement
    assert len({each.statement for each in found} | {exercise(name).statement}) > 1


def test_the_weights_of_a_cnn_are_counted_twice() -> None:
    # 32@3x3 on 3, 64@3x3 on 32, 8*8*64 to 512, 512 to 10, by hand
    assert 32 * 28 + 64 * 289 + (8 * 8 * 64 + 1) * 512 + 513 * 10 == 2_122_186


def test_a_key_that_running_contradicts_is_never_given() -> None:
    wrong = Problem("s", (Part("n", 5), Part("v", (3, 3))), "", lambda: [5, (3, 4)])
    with pytest.raises(
        RuntimeError, match=r"exercise x: the formula gives \[5, \(3, 3\)\], running it gives"
    ):
        verify(wrong, name="x")
    with pytest.raises(RuntimeError):
        verify(Problem("s", (Part("n", 5),), "", lambda: [5.0]), name="x")
    with pytest.raises(RuntimeError):
        verify(Problem("s", (Part("n", 5),), "", list), name="x")
    verify(Problem("s", (Part("r", 0.1 + 0.2),), "", lambda: [0.3]), name="x")


def test_backprop_agrees_with_autograd_and_finite_differences() -> None:
    w = torch.tensor([1, 0.2, -1, 0.3, 0.5, -0.4], dtype=torch.float64, requires_grad=True)

    def cost(w: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(torch.stack([w[0] + 0.1 * w[1], w[2] + 0.1 * w[3]]))
        return 0.5 * (w[4] * hidden[0] + w[5] * hidden[1] - 0.5) ** 2

    (gradient,) = torch.autograd.grad(cost(w), w)
    w = w.detach()
    parts = exercise("backprop-step").answers()
    assert [part.value for part in parts[1:7]] == pytest.approx(gradient.tolist(), rel=1e-12)
    assert parts[0].value == pytest.approx(0.017004, abs=5e-7)
    assert parts[7].value == pytest.approx(float(cost(w - 0.2 * gradient)), rel=1e-12)
    assert parts[7].value == pytest.approx(0.009707, abs=5e-7)
    for i in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[i] = 1e-6
        numeric = float(cost(w + step) - cost(w - step)) / 2e-6
        assert parts[1 + i].value == pytest.approx(numeric, rel=1e-6)


def test_measuring_counts_products_one_by_one() -> None:
    row, pool, dense = measure_stack("7x6x2: 3@3x2 s2 p1, max 2x2, dense 5")
    outputs = list(itertools.product(range(4), range(4)))  # (7+2-3)//2+1, (6+2-2)//2+1
    assert row.output == (4, 4, 3)
    assert row.macs == sum(3 * 2 * 3 * 2 for _ in outputs)
    assert (row.parameters, row.weights) == (3 * 12 + 3, 36)
    assert (pool.output, pool.parameters, pool.macs) == ((2, 2, 3), 0, 0)
    assert (dense.output, dense.parameters, dense.macs) == ((5,), 12 * 5 + 5, 60)
    assert measure_field("28x28x1: 1@5x5 same, max 2x2/2, 1@5x5 same, max 2x2/2") == (16, 16)
    with pytest.raises(ValueError, match="no module for 'gap'"):
        measure_stack("7x6x2: gap")


def test_wrong_answers_that_are_often_given_are_explained() -> None:
    def remarks(name: str, answer: str) -> list[str]:
        return [part.remark for part in exercise(name).check(answer) if not part.right]

    assert remarks("conv-volume", "32x32x10 750") == ["that is without the biases"]
    assert remarks("strides", "5 3 2 7")[0].startswith("2 is the floor: the quotient is 2.33")
    trap = "64@60x60 141,705,216 226,492,416 55,424 1.10 1.08"
    assert remarks("conv-cost-twice", trap) == ["the second convolution sees 64 maps, not 32"]
    typo = ANSWERS["alexnet-shapes"].replace("27x27x256", "27x27x26")
    assert remarks("alexnet-shapes", typo) == ["one lecture prints 26 for 256"]
    assert remarks("conv-volume", "5x5x5 1") == ["", ""]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("32x32x10, 760", ["32x32x10", "760"]),
        ("(10, 24, 24, 8); 1,792", ["(10,24,24,8)", "1,792"]),
        ("64 @ 60 x 60  no", ["64@60x60", "no"]),
        ("5, 3, doesn't fit, 7", ["5", "3", "no", "7"]),
        ("", []),
    ],
)
def test_answers_may_be_typed_in_many_ways(text: str, words: list[str]) -> None:
    assert split_answers(text) == words


@pytest.mark.parametrize(
    ("value", "text", "right"),
    [
        ((60, 60, 64), "[60x60x64]", True),
        ((60, 60, 64), "64@60×60", True),
        ((60, 60, 64), "64x60x60", False),
        (1792, "1,792", True),
        (1792, "1_792", True),
        ("no", "None", True),
        ("no", "3", False),
        (3, "no", False),
        (81.481, "81.48%", True),
        (81.481, "81,48", True),
        (1.1044, "1.1x", True),
        (81.481, "80", False),
    ],
)
def test_a_typed_answer_is_read_and_compared(value: object, text: str, right: bool) -> None:
    part = Part("p", value, tolerance=0.006)  # type: ignore[arg-type]
    assert part.right(part.read(text)) is right


@pytest.mark.parametrize(
    ("value", "text"), [((1, 2), "axb"), (3, "3.5"), (3, "three"), (0.5, "nan"), (0.5, "inf")]
)
def test_what_is_no_answer_is_said(value: object, text: str) -> None:
    with pytest.raises(ConvworksError, match=f"'{text}' is not an answer for 'p'") as caught:
        Part("p", value).read(text)  # type: ignore[arg-type]
    assert caught.value.code == "U142"


def test_names_and_counts_that_do_not_fit() -> None:
    with pytest.raises(ConvworksError, match="there is no exercise called 'stride'") as caught:
        exercise("stride")
    assert (caught.value.code, caught.value.where) == ("U141", "did you mean 'strides'?")
    with pytest.raises(ConvworksError, match="2 answers are asked for, and 3 given") as caught:
        exercise("conv-volume").check("1 2 3")
    assert caught.value.where == "output volume, parameters"
    assert "760" not in caught.value.format()


def test_a_sheet_is_its_seed() -> None:
    chosen = sheet(7, count=5)
    assert [each.statement for each in chosen] == [each.statement for each in sheet(7, count=5)]
    assert [each.name for each in chosen] != [each.name for each in sheet(8, count=5)]
    assert len({each.name for each in chosen}) == 5
    assert len(sheet(0, count=100)) == len(names())
    text = sheet_markdown(chosen[:2], title="Sheet", answers=False)
    assert text.startswith("# Sheet\n\n## 1. ")
    assert "# Answers" not in text
    assert all(part.shown() not in text.split() for part in chosen[0].answers() if len(part.shown()) > 4)
    full = sheet_markdown(chosen[:2], title="Sheet", answers=True)
    assert full.startswith(text.rstrip())
    assert f"**{chosen[1].answers()[-1].shown()}**" in full
