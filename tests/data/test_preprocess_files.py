"""preprocess.json and preprocess.safetensors: round trip, and every kind of damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from convworks.data.preprocess import Preprocess
from convworks.errors import ConvworksError

from .pixels import CPU, fit, noise, square


@pytest.fixture
def prepared() -> Preprocess:
    return fit(noise(9, 6, 6, 3), range(9), square(4, stored=6, fit="pad"), "per-feature")


def test_save_and_load(tmp_path: Path, prepared: Preprocess) -> None:
    prepared.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["preprocess.json", "preprocess.safetensors"]
    loaded = Preprocess.load(tmp_path)
    assert (loaded.geometry, loaded.normalize) == (prepared.geometry, prepared.normalize)
    np.testing.assert_array_equal(loaded.mean, prepared.mean)
    np.testing.assert_array_equal(loaded.std, prepared.std)
    images = torch.from_numpy(noise(5, 6, 6, 3))
    torch.testing.assert_close(
        loaded.to_input(images, **CPU), prepared.to_input(images, **CPU), rtol=0, atol=0
    )


def test_loading_needs_no_torch(tmp_path: Path, prepared: Preprocess) -> None:
    prepared.save(tmp_path)
    code = (
        "import sys; from pathlib import Path; from convworks.data.preprocess import Preprocess;"
        "Preprocess.load(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def description(prepared: Preprocess, **changes: Any) -> dict[str, Any]:
    content = prepared.to_dict()
    content["geometry"] = {**content["geometry"], **changes.pop("geometry", {})}
    return {**content, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 is not known"),
        ({"more": 1}, "the keys must be"),
        ({"normalize": "zca"}, "normalize is 'zca'"),
        ({"normalize": ["none"]}, "normalize is"),
        ({"geometry": {"depth": 3}}, "geometry must have the keys"),
        ({"geometry": {"height": -4}}, "height is -4"),
        ({"geometry": {"width": "4"}}, "width is '4'"),
        ({"geometry": {"channels": 3.0}}, "channels is 3.0"),
        ({"geometry": {"fit": "stretch"}}, "no fit called 'stretch'"),
        ({"geometry": {"stored_height": 3}}, "stored_height is 3"),
    ],
)
def test_a_wrong_description(
    tmp_path: Path, prepared: Preprocess, changes: dict[str, Any], message: str
) -> None:
    prepared.save(tmp_path)
    (tmp_path / "preprocess.json").write_text(json.dumps(description(prepared, **changes)))
    with pytest.raises(ConvworksError, match=message) as caught:
        Preprocess.load(tmp_path)
    assert caught.value.code == "A430"
    assert caught.value.where == str(tmp_path / "preprocess.json")


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": 1, "geometry": [], "normalize": "none"}'])
def test_json_of_another_kind(tmp_path: Path, prepared: Preprocess, content: str) -> None:
    prepared.save(tmp_path)
    (tmp_path / "preprocess.json").write_text(content)
    with pytest.raises(ConvworksError, match="A430"):
        Preprocess.load(tmp_path)


ARRAYS: dict[str, NDArray[Any]] = {
    "mean": np.zeros((3, 4, 4), dtype=np.float32),
    "std": np.ones((3, 4, 4), dtype=np.float32),
}


@pytest.mark.parametrize(
    ("arrays", "code", "message"),
    [
        ({"mean": ARRAYS["mean"]}, "A431", "it holds mean, not mean and std"),
        ({**ARRAYS, "more": ARRAYS["std"]}, "A431", "it holds mean, more, std"),
        (
            {**ARRAYS, "std": ARRAYS["std"][:, :1, :1]},
            "A432",
            r"float32 \(3, 1, 1\), not float32 \(3, 4, 4\)",
        ),
        ({**ARRAYS, "mean": ARRAYS["mean"].astype(np.float64)}, "A432", "mean .* is float64"),
        ({**ARRAYS, "mean": ARRAYS["mean"] + np.nan}, "A432", "mean .* not between"),
        ({**ARRAYS, "mean": ARRAYS["mean"] + np.inf}, "A432", "mean .* not between"),
        ({**ARRAYS, "std": ARRAYS["std"] * 0}, "A432", "std .* not between"),
        ({**ARRAYS, "std": -ARRAYS["std"]}, "A432", "std .* not between"),
        ({"mean": np.zeros((3, 400, 400), dtype=np.float32)}, "A431", "more than the limit"),
    ],
)
def test_wrong_arrays(
    tmp_path: Path, prepared: Preprocess, arrays: dict[str, NDArray[Any]], code: str, message: str
) -> None:
    prepared.save(tmp_path)
    content = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    (tmp_path / "preprocess.safetensors").write_bytes(save(content))
    with pytest.raises(ConvworksError, match=message) as caught:
        Preprocess.load(tmp_path)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["preprocess.json", "preprocess.safetensors"])
def test_damaged_files_are_refused_or_still_valid(tmp_path: Path, prepared: Preprocess, name: str) -> None:
    """Cut at any place, or one byte changed: an error of ours, never another one."""
    prepared.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(0)
    damaged = [whole[: int(generator.integers(len(whole)))] for _ in range(20)]
    for place, value in zip(generator.integers(0, min(len(whole), 200), 100), range(100), strict=True):
        damaged.append(whole[:place] + bytes([value * 7 % 256]) + whole[place + 1 :])
    codes = []
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        try:
            Preprocess.load(tmp_path)
        except ConvworksError as problem:
            codes.append(problem.code)
    assert set(codes) <= {"A401", "A430", "A431", "A432"}
    assert len(codes) > 60


@pytest.mark.parametrize(("name", "code"), [("preprocess.json", "A401"), ("preprocess.safetensors", "A431")])
def test_a_missing_file(tmp_path: Path, prepared: Preprocess, name: str, code: str) -> None:
    prepared.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConvworksError, match=f"cannot read {name}") as caught:
        Preprocess.load(tmp_path)
    assert caught.value.code == code
