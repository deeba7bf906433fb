"""A network on views: against a loop in float64, whatever the batches, the threads and the sizes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from convworks.data.preprocess import Geometry, Normalize, Preprocess
from convworks.errors import ConvworksError
from convworks.evaluation import inference
from convworks.evaluation.dense import fully_convolutional
from convworks.evaluation.inference import StoppedEarlyError, network_input, predict_views
from convworks.evaluation.protocols import resolve
from convworks.evaluation.views import views_of
from convworks.training.loop import Numerics

Pixels = NDArray[np.uint8]
GEOMETRY = Geometry(14, 14, 3, "crop", 14, 14)


def pictures(count: int, *, channels: int = 3, largest: int = 40) -> list[Pixels]:
    draw = np.random.default_rng(0)
    sizes = draw.integers(9, largest, size=(count, 2))
    return [draw.integers(0, 256, (*size, channels), dtype=np.uint8) for size in sizes]


def preprocess(normalize: Normalize = "per-channel", geometry: Geometry = GEOMETRY) -> Preprocess:
    draw = np.random.default_rng(1)
    whole = normalize in ("mean-image", "per-feature")
    shape = (geometry.channels, geometry.height, geometry.width) if whole else (geometry.channels, 1, 1)
    mean = draw.uniform(0.3, 0.6, shape).astype(np.float32)
    std = (
        np.ones_like(mean) if normalize == "mean-image" else draw.uniform(0.2, 0.3, shape).astype(np.float32)
    )
    if normalize == "none":
        mean, std = np.zeros_like(mean), np.ones_like(std)
    return Preprocess(geometry=geometry, normalize=normalize, mean=mean, std=std)


def small_network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 36, 9), nn.Tanh(), nn.Linear(9, 4),
    ).eval()  # fmt: skip


def answer(
    network: nn.Module, view: Pixels, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Softmax of one view, in float64."""
    x = (view.transpose(2, 0, 1) / 255.0 - mean) / std
    with torch.inference_mode():
        return torch.softmax(network.double()(torch.from_numpy(x)[None]), 1)[0].numpy()


@pytest.mark.parametrize(
    "name", ["centre", "10-crop", "144-crop", "multi-crop@256", "tta", "mirror-translate", "tta-turns"]
)
@pytest.mark.parametrize("normalize", ["per-channel", "mean-image", "per-feature", "none"])
def test_crops_against_a_loop(name: str, normalize: Normalize) -> None:
    images, how = pictures(5), preprocess(normalize)
    protocol = resolve(name)
    found = predict_views(small_network(), images.__getitem__, range(5), protocol, how, Numerics(), threads=2)
    network = small_network()
    for row, image in zip(found, images, strict=True):
        views = [view for stack in views_of(image, protocol, GEOMETRY) for view in stack.pixels]
        each = [answer(network, view, how.mean.astype(float), how.std.astype(float)) for view in views]
        counts = [2, 2, 1, 1, 1, 1] if name == "mirror-translate" else None
        np.testing.assert_allclose(row, np.average(each, axis=0, weights=counts), atol=2e-6)
        assert len(views) == protocol.views


def test_dense_is_the_softmax_of_the_mean_score_then_the_mean_over_mirrors() -> None:
    images, how = pictures(4), preprocess()
    protocol = resolve("vgg-dense@256/384")
    dense = fully_convolutional(small_network(), (3, 14, 14))
    found = predict_views(dense, images.__getitem__, range(4), protocol, how, Numerics())
    for row, image in zip(found, images, strict=True):
        posteriors = []
        for stack in views_of(image, protocol, GEOMETRY):
            for view in stack.pixels:
                x = torch.from_numpy(((view / 255 - how.mean[:, 0, 0]) / how.std[:, 0, 0]).transpose(2, 0, 1))
                with torch.inference_mode():
                    scores = dense.score_map(x[None].float())[0]
                posteriors.append(torch.softmax(scores.double().mean((1, 2)), 0).numpy())
        assert len(posteriors) == 4
        np.testing.assert_allclose(row, np.mean(posteriors, axis=0), atol=2e-6)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("most", [1, 200, 10**9])
def test_batches_and_threads_change_nothing_that_counts(
    threads: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, how, protocol = pictures(7), preprocess(), resolve("10-crop+vgg-dense").parts[0]
    run: Callable[[int], NDArray[np.float32]] = lambda t: predict_views(  # noqa: E731
        small_network(), images.__getitem__, range(7), resolve(protocol), how, Numerics(), threads=t
    )
    expected = run(1)
    monkeypatch.setattr(inference, "PASS_PIXELS", most)
    np.testing.assert_allclose(run(threads), expected, atol=1e-6)


def test_a_view_of_the_networks_own_size_takes_the_way_of_training_to_the_bit() -> None:
    for normalize in ("per-channel", "mean-image", "per-feature", "none"):
        how = preprocess(normalize)
        batch = np.stack([image[:9, :9] for image in pictures(3)])
        batch = np.pad(batch, ((0, 0), (0, 5), (0, 5), (0, 0)))
        for numerics in (Numerics(), Numerics(memory_format="channels_last")):
            expected = how.to_input(
                torch.from_numpy(batch),
                dtype=torch.float32,
                memory_format=numerics.torch_memory_format,
                device="cpu",
            )
            found = network_input(batch, how, numerics)
            np.testing.assert_array_equal(found.numpy(), expected.numpy())
            assert found.stride() == expected.stride()


def test_a_mean_image_is_resized_to_views_of_other_sizes() -> None:
    how = preprocess("mean-image")
    flat = Preprocess(
        geometry=GEOMETRY, normalize="mean-image", mean=np.full_like(how.mean, 0.25), std=how.std
    )
    batch = np.full((1, 20, 31, 3), 51, np.uint8)
    np.testing.assert_allclose(network_input(batch, flat, Numerics()).numpy(), 0.2 - 0.25, atol=1e-6)
    x = network_input(batch, how, Numerics()).numpy()
    assert abs(float((0.2 - x).mean() - how.mean.mean())) < 0.02  # the same mean over the picture
    one_more = np.full((1, 14, 15, 3), 51, np.uint8)
    shown = network_input(one_more, how, Numerics()).numpy()[0]
    assert shown.shape == (3, 14, 15)
    np.testing.assert_allclose(shown[:, :, 0], 0.2 - how.mean[:, :, 0], atol=1e-6)  # the edge stays the edge


def test_bfloat16_and_channels_last() -> None:
    images, how = pictures(6), preprocess()
    network = small_network().to(memory_format=torch.channels_last)
    numerics = Numerics("bf16", "channels_last")
    found = predict_views(network, images.__getitem__, range(6), resolve("10-crop"), how, numerics)
    exact = predict_views(small_network(), images.__getitem__, range(6), resolve("10-crop"), how, Numerics())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=0.02)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_grey_images_and_no_image() -> None:
    geometry = Geometry(14, 14, 1, "pad", 14, 14)
    how = preprocess(geometry=geometry)
    images = pictures(3, channels=1)
    for name in ("10-crop", "vgg-dense", "tta-shifts"):
        network = small_network(1)
        if name == "vgg-dense":
            network = fully_convolutional(network, (1, 14, 14))
        found = predict_views(network, images.__getitem__, range(3), resolve(name), how, Numerics())
        assert found.shape == (3, 4)
        empty = predict_views(network, images.__getitem__, range(0), resolve(name), how, Numerics())
        assert empty.shape == (0, 0)


def test_a_stop_is_followed_at_once_and_leaves_no_thread() -> None:
    before = threading.active_count()
    for asked in range(1, 8):
        left = iter([False] * asked + [True] * 1000)
        read: list[int] = []

        def take(index: int, read: list[int] = read) -> Pixels:
            read.append(index)
            return pictures(1)[0]

        with pytest.raises(StoppedEarlyError):
            predict_views(
                small_network(), take, range(500), resolve("144-crop"), preprocess(), Numerics(),
                threads=2, should_stop=lambda left=left: next(left),
            )  # fmt: skip
        assert len(read) < 20
    assert threading.active_count() == before


def test_only_a_few_images_are_ahead() -> None:
    # The memory does not grow with the number of images.
    decoded, used = 0, [0]

    def read(index: int) -> Pixels:
        nonlocal decoded
        decoded += 1
        assert index - used[0] < 128 + 8  # views that wait, and two images for each thread
        return pictures(1)[0]

    class Count(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            used[0] += len(x)
            return torch.zeros(len(x), 3)

    predict_views(Count(), read, range(600), resolve("centre"), preprocess(), Numerics(), threads=2)
    assert decoded == used[0] == 600


def test_a_failure_while_reading_is_the_failure_of_the_whole() -> None:
    def read(index: int) -> Pixels:
        if index == 7:
            raise ConvworksError("D126", "cannot read the image 'a.jpg': no such file")
        return pictures(1)[0]

    for threads in (0, 2):
        with pytest.raises(ConvworksError, match=r"D126.*a\.jpg"):
            predict_views(
                small_network(),
                read,
                range(50),
                resolve("10-crop"),
                preprocess(),
                Numerics(),
                threads=threads,
            )
