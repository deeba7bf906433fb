"""The kernels' results do not depend on what fresh memory holds: all of it is written before it is read.

A library loaded before the C library's own fills every block that is handed out, once with zeros and once
with ones in all bits, which are NaN in bfloat16 and float32. Results must be the same to the bit. So a row
that is not cleared is seen, which otherwise shows only when memory is used a second time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convworks.ops.native.build import find_compiler
from tests.ops.native.kernels import built

FRESH = """
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
static void* filled(void* at, size_t size) {
  const char* value = getenv("FRESH");
  return at && value ? memset(at, atoi(value), size) : at;
}
void* aligned_alloc(size_t alignment, size_t size) { return filled(memalign(alignment, size), size); }
int posix_memalign(void** to, size_t alignment, size_t size) {
  *to = filled(memalign(alignment, size), size);
  return *to ? 0 : 12;
}
"""
ROOT = Path(__file__).parents[3]


def hashes(library: Path, kernels: Path, byte: int) -> dict[str, str]:
    environment = {**os.environ, "LD_PRELOAD": str(library), "FRESH": str(byte)}
    command = [sys.executable, "-m", "tests.ops.native.scratch", str(kernels)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["byte"] == byte  # memory was filled indeed
    return dict(found["hashes"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD is Linux's")
def test_results_do_not_depend_on_what_fresh_memory_holds(tmp_path: Path) -> None:
    kernels, compiler = built(), find_compiler()
    assert compiler is not None
    (tmp_path / "fresh.c").write_text(FRESH)
    library = tmp_path / "fresh.so"
    command = [compiler, "-x", "c", "-O1", "-shared", "-fPIC", str(tmp_path / "fresh.c"), "-o", str(library)]
    subprocess.run(command, check=True)
    zeros, ones = (hashes(library, kernels, byte) for byte in (0, 255))
    if not zeros:
        pytest.skip("this processor has no bf16 arithmetic (AVX512-BF16)")
    assert {case for case in zeros if zeros[case] != ones[case]} == set()
