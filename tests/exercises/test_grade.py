"""Students' files: right ones pass, and every way to be wrong has a line of its own."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convworks.errors import ConvworksError
from convworks.exercises import reference
from convworks.exercises.grade import CASES, PROBLEM_SETS, Grading, grade, template

RIGHT = """
import numpy as np
CONVENTION = "convolution"
def sides(boundary, m): return {"valid": 0, "same": (m - 1) // 2, "full": m - 1}[boundary]
def forward(x, w, boundary):
    return np.convolve(np.pad(x, sides(boundary, len(w))), w, "valid")
def backward_input(dy, w, n, boundary):
    p = sides(boundary, len(w))
    return np.correlate(dy, w, "full")[p:p + n]
def backward_weights(dy, x, m, boundary):
    return np.correlate(np.pad(x, sides(boundary, m)), dy, "valid")[::-1]
"""
POOL = """
import numpy as np
def forward(x, size, stride):
    return [max(x[i:i + size]) for i in range(0, len(x) - size + 1, stride)]
def backward(dy, x, size, stride):
    dx = np.zeros(len(x))
    for t, g in enumerate(dy):
        dx[t * stride + np.argmax(x[t * stride:t * stride + size])] += g
    return dx
"""


def graded(folder: Path, text: str, name: str = "convolution", *, limit: float = 10.0) -> Grading:
    file = folder / "student.py"
    file.write_text(text)
    return grade(name, file, limit=limit)


def lines(result: Grading, function: str) -> dict[str, str]:
    return {case.label: f"{case.status}: {case.detail}" for case in result.cases if case.function == function}


def test_the_reference_is_numpys_and_torchs() -> None:
    draw = Random(0)
    for n, m in ((8, 3), (5, 5), (6, 2), (9, 1)):
        x, w = ([draw.gauss(0, 1) for _ in range(k)] for k in (n, m))
        for boundary in ("valid", "same", "full") if m % 2 else ("valid", "full"):
            for flip in (False, True):
                p = reference.frame(boundary, m)
                tx, tw = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, w))
                kernel = tw.flip(0) if flip else tw
                ty = F.conv1d(tx[None, None], kernel[None, None], padding=p)[0, 0]
                y = reference.convolution_forward(x, w, boundary, flip=flip)
                np.testing.assert_allclose(y, ty.tolist(), atol=1e-12)
                if flip and (boundary != "same" or n >= m):
                    np.testing.assert_allclose(y, np.convolve(x, w, boundary), atol=1e-12)
                dy = [draw.gauss(0, 1) for _ in y]
                dx, dw = torch.autograd.grad(ty, (tx, tw), torch.tensor(dy, dtype=torch.float64))
                found = reference.convolution_backward_input(dy, w, n, boundary, flip=flip)
                np.testing.assert_allclose(found, dx.tolist(), atol=1e-12)
                found = reference.convolution_backward_weights(dy, x, m, boundary, flip=flip)
                np.testing.assert_allclose(found, dw.tolist(), atol=1e-12)


@pytest.mark.parametrize(("n", "size", "stride"), [(8, 2, 2), (7, 2, 2), (9, 3, 2), (6, 3, 1), (9, 2, 3)])
def test_the_reference_pool_is_torchs_ties_included(n: int, size: int, stride: int) -> None:
    draw = Random(n)
    x = [float(draw.randrange(3)) for _ in range(n)]
    tx = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    ty = F.max_pool1d(tx[None, None], size, stride)[0, 0]
    assert reference.max_pool_forward(x, size, stride) == ty.tolist()
    dy = [draw.gauss(0, 1) for _ in ty]
    (dx,) = torch.autograd.grad(ty, tx, torch.tensor(dy, dtype=torch.float64))
    np.testing.assert_allclose(reference.max_pool_backward(dy, x, size, stride), dx.tolist(), atol=1e-12)


def test_right_files_pass(tmp_path: Path) -> None:
    for name, text in (("convolution", RIGHT), ("max-pool", POOL)):
        result = graded(tmp_path, text, name)
        assert [case for case in result.cases if case.status != "ok"] == []
        assert result.right == len(CASES[name]()) == len(result.cases)
        assert result.notes == ()
    library = (  # the operation of every library: no flip forward, a flip in both boxes backward
        RIGHT.replace('"convolution"', '"correlation"')
        .replace("len(w))), w,", "len(w))), w[::-1],")
        .replace("np.correlate(dy, w,", "np.convolve(dy, w,")
        .replace('"valid")[::-1]', '"valid")')
    )
    assert graded(tmp_path, library).right == 51


def test_every_template_is_complete_and_fails_kindly(tmp_path: Path) -> None:
    for name, row in PROBLEM_SETS.items():
        text = template(name)
        assert all(f"def {function}(" in text for function in row.functions)
        result = graded(tmp_path, text, name)
        assert {(case.status, case.detail) for case in result.cases} == {
            ("failed", "it is not filled in yet")
        }


def test_the_first_wrong_entry_is_named(tmp_path: Path) -> None:
    scaled = RIGHT.replace("return np.correlate(dy", "return 1.01 * np.correlate(dy")
    result = graded(tmp_path, scaled)
    assert {case.function for case in result.cases if case.status == "wrong"} == {"backward_input"}
    assert "entry 0 is " in lines(result, "backward_input")["valid, N = 8, M = 3"]
    assert ", expected " in lines(result, "backward_input")["valid, N = 8, M = 3"]


def test_the_other_convention_is_recognised(tmp_path: Path) -> None:
    result = graded(tmp_path, RIGHT.replace('"convolution"', '"correlation"'))
    line = lines(result, "forward")["valid, N = 8, M = 3"]
    assert line.endswith("these are the numbers of a convolution, and CONVENTION is 'correlation'")
    assert lines(result, "forward")["valid, N = 5, M = 1"] == "ok: "
    result = graded(tmp_path, RIGHT.replace('"convolution"', '"konvolution"'))
    assert result.cases[0].detail.startswith("CONVENTION is 'konvolution', and must be one of")


def test_ties_are_graded(tmp_path: Path) -> None:
    shared = POOL.replace(
        "np.argmax(x[t * stride:t * stride + size])",
        "size - 1 - np.argmax(x[t * stride:t * stride + size][::-1])",
    )
    wrong = [case for case in graded(tmp_path, shared, "max-pool").cases if case.status == "wrong"]
    assert len(wrong) == 3
    assert all("tie" in case.label for case in wrong)
    assert all(
        case.detail.endswith("in a tie the first of the largest has the whole gradient") for case in wrong
    )


CONV = 'CONVENTION = "correlation"\n'
REST = (
    "def backward_input(dy, w, n, boundary): return dy\ndef backward_weights(dy, x, m, boundary): return dy\n"
)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (
            "def forward(x, w, boundary):\n    return x[0:1].reshape(1, 1)",
            "wrong: its shape is (1, 1), expected (6,)",
        ),
        ("def forward(x, w, boundary):\n    pass", "failed: it returns nothing"),
        ("def forward(x, w, boundary):\n    return {}", "failed: it returns a dict, not numbers in a row"),
        ("def forward(x, w, boundary):\n    return x[99]", "failed: IndexError: index 99 is out of bounds"),
        ("def forward(x, w, boundary):\n    return x + '", "failed: line 3: unterminated string literal"),
        ("def forward(x):\n    return x", "failed: TypeError: forward() takes 1 positional argument"),
        ("def forwards(x, w, boundary):\n    return x", "failed: there is no function 'forward'"),
        ("forward = 3", "failed: there is no function 'forward'"),
        ("import nonsense", "failed: ModuleNotFoundError: No module named 'nonsense' (line 2)"),
        ("def forward(x, w, boundary):\n    return forward(x, w, boundary)", "failed: RecursionError"),
        (
            "def forward(x, w, boundary):\n    input('?')",
            "failed: EOFError: EOF when reading a line (line 3)",
        ),
        ("import sys\ndef forward(x, w, boundary):\n    sys.exit()", "failed: it ends the program (line 4)"),
        (
            "import os\ndef forward(x, w, boundary):\n    os._exit(3)",
            "failed: the process ended with status 3",
        ),
        (
            "import os\ndef forward(x, w, boundary):\n    os._exit(0)",
            "failed: the process ended with status 0",
        ),
        ("import os\ndef forward(x, w, boundary):\n    os.abort()", "failed: it was ended by signal 6"),
        ("def forward(x, w, boundary):\n    return x * float('nan')", "wrong: its shape is (8,)"),
        ("def forward(x, w, boundary):\n    return [float('nan')] * 6", "wrong: entry 0 is nan, expected "),
        ("def forward(x, w, boundary):\n    return [0] * 10**12", "failed: MemoryError"),
    ],
)
def test_each_mistake_has_a_clear_line(tmp_path: Path, body: str, detail: str) -> None:
    first = graded(tmp_path, CONV + body + "\n" + REST).cases[0]
    assert f"{first.status}: {first.detail}".startswith(detail)
    assert "\n" not in first.detail
    assert "Traceback" not in first.detail


def test_an_endless_loop_ends_and_the_rest_is_graded(tmp_path: Path) -> None:
    loop = "def forward(x, w, boundary):\n    while len(w) == 5: pass\n    return x[:6]\n"
    begun = time.monotonic()
    result = graded(tmp_path, CONV + loop + REST, limit=2)
    assert time.monotonic() - begun < 8
    found = lines(result, "forward")
    assert found["valid, N = 8, M = 3"].startswith("wrong: entry 0")
    assert found["valid, N = 7, M = 5"] == "failed: still running after 2 s"
    assert found["valid, N = 5, M = 1"] == "not run: "
    assert lines(result, "backward_input")["valid, N = 5, M = 1"].startswith(("ok", "wrong"))


def test_what_a_file_prints_is_counted_not_shown(tmp_path: Path) -> None:
    loud = RIGHT.replace("    p = sides", "    print('look here'); print(1)\n    p = sides")
    result = graded(tmp_path, loud)
    assert result.right == 51
    assert result.notes == ("backward_input printed 34 lines, not shown; the first: look here",)


def test_a_file_beside_it_cannot_replace_a_library(tmp_path: Path) -> None:
    for name in ("numpy", "colorsys", "encodings"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "mine.py").write_text("import colorsys\nimport numpy as np\n")
    assert graded(tmp_path, "from mine import np\n" + POOL, "max-pool").right == 22


def test_what_cannot_be_graded(tmp_path: Path) -> None:
    with pytest.raises(ConvworksError, match="there is no problem set called 'maxpool'") as caught:
        grade("maxpool", tmp_path / "x.py")
    assert caught.value.code == "U141"
    with pytest.raises(ConvworksError, match="the file to grade is not there") as caught:
        grade("max-pool", tmp_path / "x.py")
    assert caught.value.code == "U144"
    with pytest.raises(ConvworksError, match="the file to grade is a folder"):
        grade("max-pool", tmp_path)
