"""`convworks explain`: the numbers of one thing, in the lectures' terms."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.cli.helpers import run

Capture = pytest.CaptureFixture[str]


def facts(out: str) -> dict[str, str]:
    rows = [line.split("  ", 1) for line in out.splitlines() if "  " in line]
    return {name: text.strip() for name, text in rows}


def test_the_layer_of_the_keras_listing(capsys: Capture) -> None:
    ran = run(capsys, "explain", "layer", "8@3x3 same relu", "--input", "24x24x3")
    found = facts(ran.out)
    assert ran.status == 0
    assert found["output"] == "24x24x8"
    assert found["receptive field"] == "3x3 of 3 channels"
    assert found["stride"] == "1x1"
    assert found["channels"] == "3 in, 8 out"
    assert found["depth"] == "8, the number of output channels"
    assert found["parameters"] == "224 = 216 weights + 8 biases"
    assert found["multiply-adds"] == "124,416"
    assert found["padding"] == "1 before and 1 after, 1 before and 1 after"
    assert found["fit"] == "exact"
    assert found["lowering"] == "62,208 bytes in float32, 9.00 times the input"
    assert found["activation"].startswith("relu")
    unquoted = run(capsys, "explain", "layer", "8@3x3", "same", "relu", "--input", "24x24x3")
    assert unquoted.out == ran.out


def test_other_layers(capsys: Capture) -> None:
    def shown(*words: str) -> dict[str, str]:
        return facts(run(capsys, "explain", "layer", *words).out)

    assert shown("8@3x3 s3", "--input", "7x7x1")["fit"] == "does not fit, 1x1 left over at the end"
    assert shown("dense 10", "--input", "784")["receptive field"] == "all of the input"
    assert shown("8@3x3 g2", "--input", "9x9x4")["receptive field"] == "3x3 of 2 channels"
    pool = shown("max 3x3/2", "--input", "55x55x96")
    assert (pool["output"], pool["parameters"]) == ("27x27x96", "0 = 0 weights + 0 biases")
    assert "fit" not in shown("max 3x3/2 ceil", "--input", "112x112x64")
    assert shown("relu", "--input", "4x4x2")["receptive field"] == "1x1 of 1 channel"


def test_a_layer_as_json(capsys: Capture) -> None:
    found = json.loads(run(capsys, "explain", "layer", "10@5x5 p2", "--json").out)
    assert (found["input"], found["output"], found["parameters"]) == ([3, 32, 32], [10, 32, 32], 760)
    assert (found["padding"], found["unused"]) == ([[2, 2], [2, 2]], [0, 0])
    assert found["lowering"]["blow_up"] == 25


def test_a_stack_and_two(capsys: Capture) -> None:
    ran = run(capsys, "explain", "stack", "32x32x3: 10@5x5 p2, max 2x2/2, dense 10")
    lines = ran.out.splitlines()
    assert lines[1].split()[:6] == ["10@5x5", "p2", "32x32x10", "760", "768,000", "5x5"]
    assert lines[3].endswith("############################# 97.1 %")
    assert lines[4] == "26,370 parameters, 793,600 multiply-adds"
    both = ("32@64x64: 64@5x5", "32@64x64: 2*64@3x3")
    ran = run(capsys, "explain", "stack", *both)
    assert ran.out.splitlines()[-1].endswith("1.1044 times the multiply-adds (+10.44 %)")
    document = json.loads(run(capsys, "explain", "stack", *both, "--json").out)
    assert [each["macs"] for each in document["stacks"]] == [184_320_000, 203_563_008]
    assert document["second_to_first"]["fields"] == [[5, 5], [5, 5]]
    vgg = ("9x9x64: 3*64@3x3 nobias", "9x9x64: 64@7x7 nobias")
    assert "1.8148 times the weights (+81.48 %)" in run(capsys, "explain", "stack", *vgg).out


def test_the_padding_solver(capsys: Capture) -> None:
    ran = run(capsys, "explain", "padding", "5x5 s2")
    assert "no whole P fits exactly" in ran.out
    assert [line.split() for line in ran.out.splitlines()[3:5]] == [["1", "15", "1"], ["2", "16", "1"]]
    ran = run(capsys, "explain", "padding", "5 s2", "--input", "33x33x3", "--json")
    (found,) = json.loads(ran.out)["dimensions"]
    assert found["verdict"].startswith("fits exactly: P = 0 gives 15, P = 1 gives 16, P = 2 gives 17")
    assert len(json.loads(run(capsys, "explain", "padding", "3x5", "--json").out)["dimensions"]) == 2


def test_where_the_weights_of_a_model_are(capsys: Capture) -> None:
    ran = run(capsys, "explain", "weights", "lenet5")
    assert ran.out.splitlines()[-1] == "60,000 parameters; most of them in c5, 80.2 %"
    found = json.loads(run(capsys, "explain", "weights", "mlp128", "--json").out)
    assert found["parameters"] == 101_770
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)


def test_all_activations_with_a_verdict(capsys: Capture) -> None:
    from convworks.ops.activation import ACTIVATIONS
    from convworks.ops.vector_activation import VECTOR_ACTIVATIONS

    every = {**ACTIVATIONS, **VECTOR_ACTIVATIONS}
    ran = run(capsys, "explain", "activations")
    assert ran.status == 0
    assert [line for line in ran.out.splitlines()[:-1] if line[0] != " "] == list(every)
    assert ran.out.count("  gradient    ok, ") == len(every)
    rows = json.loads(run(capsys, "explain", "activations", "--json").out)["activations"]
    assert {row["name"]: row["range"] for row in rows} == {n: row.range for n, row in every.items()}
    assert all(row["gradient_ok"] and row["gradient_error"] < 1e-6 for row in rows)


def test_a_wrong_derivative_is_caught(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from convworks.ops.activation import ACTIVATIONS

    tanh = ACTIVATIONS["tanh"]
    wrong = dataclasses.replace(tanh, derivative=lambda x: 1.01 * tanh.derivative(x))
    monkeypatch.setitem(ACTIVATIONS, "tanh", wrong)
    ran = run(capsys, "explain", "activations")
    assert ran.status == 6
    assert ran.out.count("  gradient    WRONG") == 1
    assert "error[N630]: the gradient of tanh is wrong at [0]" in ran.err


def test_a_wrong_backward_of_a_mixing_activation_is_caught(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convworks.ops.vector_activation import VECTOR_ACTIVATIONS

    softmax = VECTOR_ACTIVATIONS["softmax"]
    wrong = dataclasses.replace(softmax, backward=lambda x, g: 1.01 * softmax.backward(x, g))
    monkeypatch.setitem(VECTOR_ACTIVATIONS, "softmax", wrong)
    assert "error[N630]: the gradient of softmax is wrong" in run(capsys, "explain", "activations").err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), "U004", "explain needs WHAT"),
        (("lyer",), "U003", "did you mean  layer"),
        (("layer",), "U004", "explain layer needs something to explain"),
        (("layer", "8@3x3 saem"), "U140", "did you mean 'same'?"),
        (("layer", "8@3x3", "--input", "24by24"), "U140", "the input '24by24' is no size"),
        (("layer", "8@4x4 same"), "U125", "kernel_size = (4, 4) does not fit: 4 is even"),
        (("layer", "8@9x9", "--input", "4x4x3"), "U125", "9 is larger than the padded input, 4 = 4 + 0 + 0"),
        (("layer", "8@3x3 g2"), "U125", "groups = 2 does not fit: it does not divide channels = 3"),
        (("stack", "1@3", "1@3", "1@3"), "U005", "unexpected argument '1@3'"),
        (("stack", "1@3x3"), "U140", "is no input, a colon and layers"),
        (("padding", "5", "--input", "784"), "U140", "the input 784 is a vector"),
        (("weights", "lenet6"), "U101", "did you mean 'lenet5'?"),
        (("activations", "x"), "U005", "unexpected argument 'x'"),
    ],
)
def test_mistakes_are_answered(words: tuple[str, ...], code: str, text: str, capsys: Capture) -> None:
    ran = run(capsys, "explain", *words)
    assert ran.status == 2
    assert f"error[{code}]" in ran.err
    assert text in ran.err
    assert "  try:   " in ran.err
