"""Predict the class of image files or of images in memory, preprocessed as the model was trained."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from convworks.bundle import Bundle
from convworks.data.decode import TRAIN_LIMITS, decode, read_file
from convworks.data.folder import Folder
from convworks.data.layout import is_image
from convworks.data.sources import natural_key
from convworks.errors import ConvworksError
from convworks.evaluation.calibration import calibrated as at_temperature
from convworks.evaluation.dropout_sampling import sampled_probabilities
from convworks.evaluation.inference import predict_probabilities
from convworks.evaluation.selective import WANTED, abstains
from convworks.flows.certainty import temperature_of, threshold_of
from convworks.flows.ensemble_bundle import Ensemble, EnsembleMember, load_model
from convworks.flows.evaluate import BATCH, numerics_of
from convworks.flows.prepare import evaluation_loader


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row: the most probable class and the next ones, or why the image could not be read."""

    path: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]  # best first
    error: str = ""
    abstained: bool = False  # too unsure: the label is "abstain", and `top` says what it would have been


ABSTAIN = "abstain"


class _Part:
    """One network of a model, with its own arithmetic, input and preprocessing."""

    def __init__(self, bundle: Bundle, samples: int = 0) -> None:
        self.bundle, self.samples = bundle, samples
        self.numerics = numerics_of(bundle)
        self.network = bundle.network.to(memory_format=self.numerics.torch_memory_format)  # type: ignore[call-overload]

    def fitted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self.bundle.preprocess.geometry.fitted(pixels)

    def probabilities(self, stored: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(stored)
        loader = evaluation_loader(
            images,
            torch.zeros(len(images), dtype=torch.int64),
            np.arange(len(images), dtype=np.int64),
            self.bundle.preprocess,
            batch=BATCH,
            numerics=self.numerics,
            workers=0,
        )
        if self.samples:
            return sampled_probabilities(self.network, loader, self.numerics, samples=self.samples)
        return predict_probabilities(self.network, loader, self.numerics)


class Predictor:
    """A model ready to use: `predict` for labels, `predict_proba` for a matrix.

    `bundle` is a single network or an ensemble, each member of which sees the images in its own way. With a
    temperature the probabilities are the calibrated ones; below a threshold `predict` abstains.
    """

    def __init__(
        self,
        bundle: Bundle | Ensemble,
        *,
        temperature: float | None = None,
        threshold: float | None = None,
    ) -> None:
        self.bundle, self.temperature, self.threshold = bundle, temperature, threshold
        single = (EnsembleMember("", bundle, 0),) if isinstance(bundle, Bundle) else bundle.members
        self._parts = [_Part(member.bundle, member.samples) for member in single]

    @property
    def classes_(self) -> tuple[str, ...]:
        """Class names, in the order of the columns of `predict_proba`."""
        return self.bundle.classes

    def predict_proba(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """(N, K) for paths, bytes, PIL images or uint8 arrays (H, W), (H, W, 1) or (H, W, 3).

        Raises UnreadableImage (D12x) for a file that cannot be read, D210 for a value of another kind.
        """
        if not len(images):
            return np.empty((0, len(self.classes_)), dtype=np.float32)
        return self._probabilities([self._fitted(image) for image in images])

    def _fitted(self, image: Any) -> list[NDArray[np.uint8]]:
        """An image in the stored size of each network; the full picture is not kept."""
        pixels = to_pixels(image)
        return [part.fitted(pixels) for part in self._parts]

    def predict(self, images: Sequence[Any], *, top: int = 2) -> list[Prediction]:
        """One Prediction for each image; a file that cannot be read becomes a row with an error."""
        rows: list[Prediction | None] = [None] * len(images)
        fitted: list[list[NDArray[np.uint8]]] = []
        places: list[int] = []
        for place, image in enumerate(images):
            name = str(image) if isinstance(image, str | Path) else f"image {place + 1}"
            try:
                fitted.append(self._fitted(image))
                places.append(place)
            except ConvworksError as problem:
                rows[place] = Prediction(name, None, None, (), problem.what)
        if fitted:
            for place, probabilities in zip(places, self._probabilities(fitted), strict=True):
                image = images[place]
                name = str(image) if isinstance(image, str | Path) else f"image {place + 1}"
                rows[place] = self._row(name, probabilities, top)
        return [row for row in rows if row is not None]

    def _row(self, name: str, probabilities: NDArray[np.float32], top: int) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")[: max(top, 1)]
        best = tuple((self.classes_[int(k)], float(probabilities[k])) for k in order)
        unsure = abstains(best[0][1], self.threshold)
        return Prediction(name, ABSTAIN if unsure else best[0][0], best[0][1], best, abstained=unsure)

    def _probabilities(self, fitted: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.float32]:
        """(N, K) for N images, each as every network stores it."""
        answers = [
            part.probabilities(np.stack([image[number] for image in fitted]))
            for number, part in enumerate(self._parts)
        ]
        found = answers[0]
        if isinstance(self.bundle, Ensemble):
            found = self.bundle.combine(answers).astype(np.float32)
        return found if self.temperature is None else at_temperature(found, self.temperature)


def to_pixels(image: Any) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) uint8 from a path, bytes, a PIL image or an array. Raises UnreadableImage, D210."""
    if isinstance(image, str | Path):
        return decode(read_file(Path(image), limits=TRAIN_LIMITS), name=str(image)).pixels
    if isinstance(image, bytes | bytearray):
        return decode(bytes(image)).pixels
    if hasattr(image, "convert") and hasattr(image, "mode"):
        image = np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim == 3 and image.shape[2] in {1, 3}:
            return np.ascontiguousarray(image)
    found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise ConvworksError(
        "D210",
        f"cannot use {found} as an image",
        why="an image is a path, bytes, a PIL image, or a uint8 array (H, W), (H, W, 1) or (H, W, 3)",
        try_="convert floats in 0..1 with  (x * 255).round().astype('uint8')",
    )


def load(
    path: str | Path,
    *,
    calibrated: bool = False,
    threshold: float | Literal["auto"] | None = None,
    max_error: float = WANTED,
) -> Predictor:
    """The model of a run, bundle or ensemble folder. Safe: safetensors and JSON, no pickle. Raises A41x.

    `calibrated`: probabilities at the temperature that was fitted on validation images. `threshold`: abstain
    below that probability; "auto" takes the one with at most `max_error` among answered validation images.
    Raises U270-U272 where the model cannot say them.
    """
    bundle = load_model(Path(path))
    temperature = temperature_of(bundle.info, where=bundle.path) if calibrated else None
    if threshold == "auto":
        _, point = threshold_of(bundle.info, error=max_error, calibrated=calibrated, where=bundle.path)
        threshold = point.threshold
    return Predictor(bundle, temperature=temperature, threshold=threshold)


def image_paths(folder: Path) -> list[Path]:
    """All images below a folder, in natural order; junk and special files are passed over."""
    names = sorted(Folder(folder).find().files, key=natural_key)
    paths = [folder / os.fsdecode(name.encode("utf-8", "surrogateescape")) for name in names]
    return [path for path in paths if is_image(path)]


def predict_paths(
    predictor: Predictor, paths: Sequence[Path], *, top: int = 2, chunk: int = 256
) -> Iterator[Prediction]:
    """Rows for files, and for the images below folders, in natural order. Raises D211, D212."""
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise ConvworksError("D211", f"there is no image or folder '{path}'", try_=f"ls {path.parent}")
    files = [each for path in paths for each in (image_paths(path) if path.is_dir() else [path])]
    if not files:
        raise ConvworksError("D212", f"there are no images in {', '.join(map(str, paths))}")
    for start in range(0, len(files), chunk):
        yield from predictor.predict(files[start : start + chunk], top=top)
