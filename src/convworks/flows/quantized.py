"""Training with 8-bit rounding: the session, the fixed scales at the end, and both accuracies side by side.

runs/NAME/int8.json   scale of every layer's inputs; accuracy in floating point and in 8 bits, by split
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convworks.bundle import Bundle, load_bundle
from convworks.data.dataset import Dataset, build_dataset
from convworks.data.preprocess import Preprocess
from convworks.durable import read_json
from convworks.errors import ConvworksError
from convworks.evaluation.comparison import disagreement, paired_difference
from convworks.evaluation.inference import StoppedEarlyError, predict_probabilities
from convworks.flows import results
from convworks.flows.events import Event, Note
from convworks.flows.prepare import DataRequest, evaluation_loader
from convworks.flows.session import Session, StopRequest
from convworks.randomness import permutation
from convworks.recipes.recipe import Recipe
from convworks.training.loop import Numerics
from convworks.training.planner import usable_cpus
from convworks.training.quantize import InputScale, Quantizer
from convworks.weights.export import check_target
from convworks.weights.int8 import export_int8, load_int8

RECORD = "int8.json"
CALIBRATION_IMAGES = 512  # at the most; drawn from the training images
BATCH = 64  # images in a forward pass of the calibration
EXACT = Numerics("fp32", "contiguous")  # both accuracies are measured in float32


class QuantizedSession(Session):
    """A session whose network, and every copy of it, rounds weights and inputs."""

    quantizer: Quantizer

    def attach(self) -> QuantizedSession:
        """Begin to round. Raises U235."""
        self.quantizer = Quantizer(self.network)
        return self


def finish(
    session: Session, should_stop: StopRequest, *, rescue: Path | None, started: float
) -> Iterator[Event]:
    """The end of a training; of one with rounding, first its fixed scales and what rounding costs."""
    if not isinstance(session, QuantizedSession):
        yield from results.finish(session, should_stop, rescue=rescue, started=started)
        return
    yield from _measure(session, should_stop)
    with session.quantizer.off():  # the bundle is of floating point, and so is what is said of it
        yield from results.finish(session, should_stop, rescue=rescue, started=started)


def _measure(session: QuantizedSession, should_stop: StopRequest) -> Iterator[Event]:
    prepared, quantizer = session.prepared, session.quantizer
    dataset, network = prepared.dataset, copy.deepcopy(session.load_best()).to("cpu")
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    images = calibrate(
        network, quantizer, dataset, prepared.preprocess, seed=session.recipe.seed, should_stop=should_stop
    )
    found: dict[str, Any] = {}
    for split in ("val", "test"):
        rows = dataset.split_rows(split)
        if not len(rows):
            continue
        labels = dataset.labels.numpy()[rows]

        def right(rows: NDArray[np.int64] = rows, labels: NDArray[np.int64] = labels) -> NDArray[np.bool_]:
            answers = _probabilities(network, dataset, prepared.preprocess, rows, should_stop).argmax(axis=1)
            correct: NDArray[np.bool_] = answers == labels
            return correct

        with quantizer.off():
            plain = right()
        found[split] = compared(plain, right())
        yield Note(_told(split, found[split]))
    scales = {name: [each.scale, each.zero] for name, each in quantizer.scales.items()}
    record = {"inputs": scales, "images": images, "splits": found}
    session.run.write_json(session.run.path / RECORD, record)


def compared(plain: NDArray[np.bool_], rounded: NDArray[np.bool_]) -> dict[str, Any]:
    """Accuracies in floating point and in 8 bits on the same images, and how they differ image by image."""
    counts, difference = disagreement(plain, rounded), paired_difference(rounded, plain)
    return {
        "n": len(plain),
        "float": float(plain.mean()),
        "int8": float(rounded.mean()),
        "difference": difference.difference,
        "difference_ci": [difference.low, difference.high],
        "p": difference.p,
        "only_float_right": counts.only_a,
        "only_int8_right": counts.only_b,
    }


def _told(split: str, found: Mapping[str, Any]) -> str:
    low, high = found["difference_ci"]
    return (
        f"int8 on {split}: accuracy {found['int8']:.4f}, in floating point {found['float']:.4f}; difference "
        f"{100 * found['difference']:+.2f} points (95 % {100 * low:+.2f} to {100 * high:+.2f}); of "
        f"{found['n']:,} images {found['only_float_right']} are right in floating point only, "
        f"{found['only_int8_right']} in int8 only"
    )


def calibrate(
    network: nn.Module,
    quantizer: Quantizer,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Fix the scales of all inputs by the least and largest values on training images; how many were used."""
    rows = dataset.split_rows("train")
    chosen = np.sort(rows[permutation(seed, "calibrate", 0, len(rows))[:CALIBRATION_IMAGES]])
    loader = evaluation_loader(
        dataset.images, dataset.labels, chosen, preprocess, batch=BATCH, numerics=EXACT, workers=0
    )
    network.eval()
    with torch.inference_mode(), quantizer.observing(), closing(loader.epoch(0)) as batches:
        for batch in batches:
            if should_stop():
                raise StoppedEarlyError
            network(batch.x)
    return len(chosen)


def _probabilities(
    network: nn.Module,
    dataset: Dataset,
    preprocess: Preprocess,
    rows: NDArray[np.int64],
    should_stop: StopRequest,
) -> NDArray[np.float32]:
    loader = evaluation_loader(
        dataset.images, dataset.labels, rows, preprocess, batch=BATCH, numerics=EXACT, workers=0
    )
    return predict_probabilities(network, loader, EXACT, should_stop=should_stop)


def stored_scales(bundle: Path) -> dict[str, InputScale] | None:
    """The fixed scales that the run of a bundle measured; None where it has none. Raises A401."""
    file = bundle.parent / RECORD
    if bundle.name != "model" or not file.is_file():
        return None
    try:
        inputs = read_json(file)["inputs"]
        return {str(name): InputScale(float(scale), int(zero)) for name, (scale, zero) in inputs.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ConvworksError("A401", f"{RECORD} is damaged: {problem}", where=str(file)) from problem


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, where its scales come from, and how far its logits are from those of the float
    network."""

    file: Path
    model: str
    layers: int
    size: int  # bytes
    float_size: int  # bytes of the same weights in float32
    scales: str
    difference: float  # largest, of the logits of one batch


def export_quantized(
    model: Path, file: Path, data: DataRequest | None, *, should_stop: StopRequest = lambda: False
) -> Exported:
    """Write a model as 8-bit weights, read the file back, and compare the outputs of both for noise.

    The scales of inputs are those of the run, where it was trained with 8-bit rounding, else measured on the
    training images of `data`. Raises U233 where there are neither, U235, R505 (what was read back computes
    something else), and what `export_int8` and `build_dataset` raise.
    """
    check_target(file)
    bundle = load_bundle(model)
    network, geometry = bundle.network, bundle.preprocess.geometry
    shape = (geometry.channels, geometry.height, geometry.width)
    scales = stored_scales(bundle.path) if data is None else None
    if scales is None and data is None:
        raise ConvworksError(
            "U233",
            f"{model} does not know the range of its layers' inputs",
            why="it was not trained with transfer.quantize = int8, so they are to be measured on images",
            try_=f"convworks export {model} --int8 {file} --calibrate DATA",
        )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, *shape, generator=generator)
    with torch.inference_mode():
        plain = network(x)
    quantizer = Quantizer(network)
    told = "of the run"
    if scales is not None:
        quantizer.fix(scales)
    elif data is not None:
        count = _calibrate_on(data, bundle, quantizer, should_stop)
        told = f"measured on {count:,} training images of {data.location}"
    info = bundle.info
    export_int8(
        network,
        file,
        scales=quantizer.scales,
        model=info["model"],
        options=info["options"],
        input_shape=shape,
        classes=bundle.classes,
    )
    with torch.inference_mode():
        rounded, read = network(x), load_int8(file).network(x)
    if not torch.equal(rounded, read):
        file.unlink()
        raise ConvworksError("R505", "what was read back computes something else", where=str(file))
    return Exported(
        file=file,
        model=info["model"],
        layers=len(quantizer.layers),
        size=file.stat().st_size,
        float_size=sum(v.numel() * v.element_size() for v in network.state_dict().values()),
        scales=told,
        difference=float((rounded - plain).abs().max()),
    )


def _calibrate_on(data: DataRequest, bundle: Bundle, quantizer: Quantizer, should_stop: StopRequest) -> int:
    """Fix the scales on data that are split as a training would split them; how many images were used."""
    defaults = Recipe()
    with data.open() as source:
        dataset = build_dataset(
            source,
            geometry=bundle.preprocess.geometry,
            seed=defaults.seed,
            val_fraction=defaults.val_fraction,
            cache=data.cache,
            threads=usable_cpus(),
            should_stop=should_stop,
        )
    return calibrate(
        bundle.network, quantizer, dataset, bundle.preprocess, seed=defaults.seed, should_stop=should_stop
    )
