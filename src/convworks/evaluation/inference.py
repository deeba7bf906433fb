"""Class probabilities of a network: for the images of a loader, and for images seen under a protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from convworks.data.loader import Batch
from convworks.data.preprocess import Preprocess
from convworks.evaluation.averaging import average
from convworks.evaluation.protocols import Protocol
from convworks.evaluation.views import Stack, views_of
from convworks.training.loop import Numerics

Read = Callable[[int], NDArray[np.uint8]]  # number of an image -> its decoded pixels (H, W, 1 or 3)

PASS_PIXELS = 2**20  # pixels of one forward pass: 20 views of 224, one whole photograph of a megapixel
PASS_VIEWS = 128
AHEAD = 1  # images for each thread that wait for the network


class StoppedEarlyError(Exception):
    """The evaluation was asked to stop; what it had is discarded."""


class EvaluationBatches(Interface):
    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]: ...


@torch.inference_mode()
def predict_probabilities(
    network: nn.Module,
    loader: EvaluationBatches,
    numerics: Numerics,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32]:
    """(N, K) softmax outputs in the loader's order; softmax is taken in float32.

    The network is used as it is: the caller puts it in eval mode. Raises StoppedEarlyError when asked to.
    """
    parts: list[NDArray[np.float32]] = []
    for batch in loader.epoch(0):
        if should_stop():
            raise StoppedEarlyError
        with numerics.autocast():
            logits = network(batch.x)
        parts.append(torch.softmax(logits.float(), dim=1).cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)


@torch.inference_mode()
def predict_views(
    network: nn.Module,
    read: Read,
    images: Sequence[int],
    protocol: Protocol,
    preprocess: Preprocess,
    numerics: Numerics,
    *,
    threads: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32]:
    """(N, K) for images read by number: softmax of every view in float32, then their mean in float64.

    Decoding, resizing and cutting happen in `threads` threads a few images ahead, so the memory does not grow
    with the number of images. Views of one size go through the network together, PASS_PIXELS at a time. For a
    dense protocol the network is the dense one. Raises what `read` raises, and StoppedEarlyError.
    """
    done: dict[int, _Image] = {}
    waiting = _Waiting()
    means: list[NDArray[np.float64]] = []

    def run() -> None:
        for (number, name), row in waiting.run(network, preprocess, numerics):
            done[number].answers[name] = row

    with closing(_ahead(read, images, protocol, preprocess, threads)) as prepared:
        for number, stacks in enumerate(prepared):
            done[number] = _Image(views=sum(len(stack.names) for stack in stacks))
            for name, pixels in _each_view(stacks):
                if not waiting.takes(pixels):
                    run()
                    if should_stop():
                        raise StoppedEarlyError
                waiting.add((number, name), pixels)
            for ready in [each for each in done if done[each].complete]:  # in order: first in, first out
                means.append(_mean(done.pop(ready), protocol))
            if should_stop():
                raise StoppedEarlyError
    run()
    means += [_mean(image, protocol) for image in done.values()]
    return np.stack(means).astype(np.float32) if means else np.empty((0, 0), dtype=np.float32)


def _mean(image: _Image, protocol: Protocol) -> NDArray[np.float64]:
    return average(image.answers, protocol.weights(image.answers))


def _each_view(stacks: Sequence[Stack]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for stack in stacks:
        yield from zip(stack.names, stack.pixels, strict=True)


@dataclass(slots=True)
class _Image:
    """The answers for the views of one image, as they come."""

    views: int
    answers: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.answers) == self.views


@dataclass(slots=True)
class _Waiting:
    """Views of one size that wait for a forward pass."""

    keys: list[tuple[int, str]] = field(default_factory=list)
    pixels: list[NDArray[np.uint8]] = field(default_factory=list)

    def takes(self, view: NDArray[np.uint8]) -> bool:
        """Whether a view fits beside those that wait."""
        if not self.pixels:
            return True
        area = view.shape[0] * view.shape[1]
        room = (len(self.pixels) + 1) * area <= PASS_PIXELS and len(self.pixels) < PASS_VIEWS
        return room and view.shape == self.pixels[0].shape

    def add(self, key: tuple[int, str], view: NDArray[np.uint8]) -> None:
        self.keys.append(key)
        self.pixels.append(view)

    def run(
        self, network: nn.Module, preprocess: Preprocess, numerics: Numerics
    ) -> Iterator[tuple[tuple[int, str], NDArray[np.float32]]]:
        """Keys and softmax rows of all that wait; nothing waits afterwards."""
        if not self.keys:
            return
        keys, batch = self.keys, np.stack(self.pixels)
        self.keys, self.pixels = [], []
        with numerics.autocast():
            scores = network(network_input(batch, preprocess, numerics))
        yield from zip(keys, torch.softmax(scores.float(), dim=1).cpu().numpy(), strict=True)


def network_input(batch: NDArray[np.uint8], preprocess: Preprocess, numerics: Numerics) -> Tensor:
    """Views (B, h, w, C) as the network sees them, (B, C, h, w).

    Views of the network's own size go the way of training, bit for bit. For others, a mean (and a standard
    deviation) of every pixel is resized to the view, bilinearly; one of every channel is taken as it is.
    """
    geometry = preprocess.geometry
    layout = numerics.torch_memory_format
    if batch.shape[1:3] == (geometry.height, geometry.width):
        return preprocess.to_input(
            torch.from_numpy(batch), dtype=torch.float32, memory_format=layout, device=numerics.device
        )
    mean, std = (_sized(each, batch.shape[1:3]) for each in (preprocess.mean, preprocess.std))
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).to(torch.float32)
    x = x.sub_(255.0 * mean).mul_(1.0 / (255.0 * std))
    return x.contiguous(memory_format=layout).to(numerics.device)


def _sized(array: NDArray[np.float32], size: Sequence[int]) -> Tensor:
    """(C, 1, 1) as it is; (C, H, W) resized to (C, *size)."""
    values = torch.from_numpy(array)
    if values.shape[1:] == (1, 1):
        return values
    sized = F.interpolate(values[None], tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return sized[0]


def _ahead(
    read: Read, images: Sequence[int], protocol: Protocol, preprocess: Preprocess, threads: int
) -> Generator[list[Stack], None, None]:
    """The views of every image in order, made by threads; a failure is raised where its image would come."""

    def make(image: int) -> list[Stack]:
        return list(views_of(read(image), protocol, preprocess.geometry))

    if threads < 1:
        yield from map(make, images)
        return
    executor = ThreadPoolExecutor(threads, thread_name_prefix="convworks-views")
    waiting: deque[Future[list[Stack]]] = deque()
    try:
        for image in images:
            waiting.append(executor.submit(make, image))
            if len(waiting) > (1 + AHEAD) * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
