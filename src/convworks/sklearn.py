"""A scikit-learn estimator over the same networks, recipes and training loop; nothing is written to disk.

    >>> from convworks.sklearn import ConvNetClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = ConvNetClassifier("mlp128", epochs=5, batch=32).fit(X[:1000], y[:1000])
    >>> classifier.score(X[1000:], y[1000:]) > 0.85
    True

Pixels stay numbers of any type: they are not rounded to bytes, as images from files are.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional as F

from convworks import models
from convworks.data.augment import DRAWS, Augment, inverse_affine
from convworks.data.loader import Batch
from convworks.errors import ConvworksError
from convworks.evaluation.inference import predict_probabilities
from convworks.flows.array_training import initialise_from_seed, loss_curve
from convworks.randomness import derive_seed, permutation, uniform
from convworks.recipes.defaults import recipe as named_recipe
from convworks.recipes.defaults import recipe_for
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import build
from convworks.training.loop import Numerics

__all__ = ["ArrayPreprocess", "ConvNetClassifier"]

SHORT_OF = 0.75  # images of at least this share of the network's side are padded, smaller ones are enlarged
CHUNK = 2**20  # values measured at a time
NOTHING = Augment()
PREDICTED = 256  # samples in one forward pass without gradients

# torch has one generator for the whole process: two fits in two threads would draw from each other's.
_ONE_FIT = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class ArrayPreprocess:
    """From rows of X to the network's input: lay out, pad with zeros, standardise, resize.

    A sample of `shape` becomes an image (h, w, c): the values of a flat sample are laid out row by row, and
    what is left of the last rows is zero. The image lies in the middle of a `canvas` (H, W) of zeros, which
    is larger only where the network's `size` is slightly larger. x = (value - mean) / std, both (c, 1, 1) or
    (c, H, W), in the units of X. Last, a bilinear antialiased change to `size`.
    """

    shape: tuple[int, ...]
    image: tuple[int, int, int]
    canvas: tuple[int, int]
    size: tuple[int, int]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def to_input(self, X: NDArray[Any]) -> Tensor:
        """(B, *shape) of any number type -> float32 (B, c, *size)."""
        values = (_drawn(X, self.image, self.canvas) - self.mean) / self.std
        x = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        if self.canvas == self.size:
            return x
        return F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)


def _drawn(X: NDArray[Any], image: tuple[int, int, int], canvas: tuple[int, int]) -> NDArray[np.float64]:
    """(B, ...) -> (B, c, H, W) in the units of X."""
    (h, w, c), (H, W) = image, canvas
    flat = np.asarray(X, dtype=np.float64).reshape(len(X), -1)
    flat = np.pad(flat, ((0, 0), (0, h * w * c - flat.shape[1])))
    pixels = flat.reshape(-1, h, w, c).transpose(0, 3, 1, 2)
    top, left = (H - h) // 2, (W - w) // 2
    return np.pad(pixels, ((0, 0), (0, 0), (top, H - h - top), (left, W - w - left)))


def _image_of(shape: tuple[int, ...], image_shape: Sequence[int] | None) -> tuple[int, int, int]:
    """(h, w, c) for samples of `shape`. Raises ValueError for samples that are no images."""
    stated = shape if len(shape) > 1 else image_shape
    if stated is None:
        side = math.isqrt(shape[0] - 1) + 1
        return side, side, 1
    wanted = "(height, width), (height, width, 1) or (height, width, 3)"
    if len(stated) not in (2, 3) or min(stated) < 1 or (len(stated) == 3 and stated[2] not in (1, 3)):
        raise ValueError(f"A sample of shape {tuple(stated)} is not an image; expected {wanted}.")
    h, w, c = (int(side) for side in (*stated, 1)[:3])
    if image_shape is not None and (*image_shape, 1)[:3] != (h, w, c):
        raise ValueError(f"image_shape={tuple(image_shape)}, but X holds images of shape {shape}.")
    if math.prod(shape) != h * w * c:
        raise ValueError(f"image_shape={tuple(stated)} needs {h * w * c} features, but X has {shape[0]}.")
    return h, w, c


def _measured(
    X: NDArray[Any], image: tuple[int, int, int], canvas: tuple[int, int], normalize: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over the training samples X, in float64 and in chunks."""
    c, (H, W) = image[2], canvas
    scaler = StandardScaler()
    step = max(1, CHUNK // (c * H * W))
    for start in range(0, len(X), step):
        scaler.partial_fit(_drawn(X[start : start + step], image, canvas).reshape(-1, c * H * W))
    means, variances = scaler.mean_.reshape(c, H, W), scaler.var_.reshape(c, H, W)
    if normalize == "per-feature":
        return means, scaler.scale_.reshape(c, H, W)
    if normalize == "per-channel":
        mean = means.mean(axis=(1, 2), keepdims=True)
        std = np.sqrt(variances.mean(axis=(1, 2)) + means.var(axis=(1, 2)))[:, None, None]
        return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)
    unit = 255.0 if X.dtype == np.uint8 else max(float(X.max()), -float(X.min())) or 1.0
    zero = np.zeros((c, 1, 1))
    return (means if normalize == "mean-image" else zero), zero + unit


class _Batches:
    """Batches of float samples: shuffled and augmented for a seed, in the order of X without one."""

    def __init__(
        self,
        X: NDArray[Any],
        labels: NDArray[np.int64],
        preprocess: ArrayPreprocess,
        *,
        batch: int,
        seed: int | None = None,
        policy: Augment = NOTHING,
    ) -> None:
        self.X, self.labels, self.preprocess, self.seed, self.policy = X, labels, preprocess, seed, policy
        begins = list(range(0, len(X), batch))
        if seed is not None and len(begins) > 1 and len(X) % batch == 1:
            begins.pop()  # batch normalisation cannot train on one sample
        self.edges = [*begins, len(X)]
        self.blank = preprocess.to_input(np.zeros((1, *preprocess.shape)))  # (1, C, H, W)

    @property
    def steps(self) -> int:
        return len(self.edges) - 1

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        order = np.arange(len(self.X), dtype=np.int64)
        if self.seed is not None:
            order = permutation(self.seed, "order", epoch, len(order))
        for i, j in pairwise(self.edges[start:]):
            rows = order[i:j]
            x = self.preprocess.to_input(self.X[rows])
            if self.seed is not None and self.policy.enabled:
                draws = uniform(self.seed, "augment", epoch, rows, DRAWS)
                x = _augmented(x - self.blank, self.policy, draws) + self.blank
            yield Batch(x=x, y=torch.from_numpy(self.labels[rows]), rows=rows)


def _augmented(x: Tensor, policy: Augment, draws: NDArray[np.float64]) -> Tensor:
    """The changes of convworks.data.augment on float (B, C, H, W); what comes from outside is zero.

    `draws` (B, 6) are in [0, 1): top, left, flip, angle, scale, shear.
    """
    H, W = x.shape[2:]
    policy.require_fits(height=H, width=W)
    down, across = (np.floor(draws[:, :2] * (2 * policy.shift + 1)) - policy.shift).T
    angle, scale, shear = (2 * draws[:, 3:] - 1).T * [[policy.rotate], [policy.scale], [policy.shear]]
    theta = np.empty((len(draws), 2, 3), dtype=np.float32)  # in units of half the image
    theta[:, :, :2] = inverse_affine(angle=angle, scale=scale, shear=shear) * [[1, H / W], [W / H, 1]]
    theta[:, :, 2] = np.stack([2 * across / W, 2 * down / H], axis=1)
    if policy.flip:
        theta[draws[:, 2] < 0.5, :, 0] *= -1
    grid = F.affine_grid(torch.from_numpy(theta), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


@contextmanager
def _isolated() -> Iterator[None]:
    """One fit at a time; torch's generators and gradient mode are afterwards what they were before."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with _ONE_FIT, torch.random.fork_rng(devices), torch.inference_mode(False):  # gradients are on
        yield


class ConvNetClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A convolutional network as a scikit-learn classifier, trained on the CPU.

    Parameters
    ----------
    model : one of `convworks list models`.
    recipe : how it is trained, by name or as a value; the model's own where it is None. Taken from it are
        model options, size, normalisation, epochs, batch, accumulation, optimizer, schedule, augmentation,
        label smoothing, class weights, gradient clipping, average of weights and early stopping.
    epochs, batch, lr, size : in place of the recipe's. `size` is the side of the network's square input;
        without one, images keep their own if the model takes it, else they get the published one.
    image_shape : (height, width) or (height, width, 3), where the rows of a 2-D X are images.
    random_state : seed of initial weights, order, augmentation and dropout. Same data, same seed, same
        threads: same predictions.

    X is one of

    - images (N, H, W), (N, H, W, 1) or (N, H, W, 3) of any number type; or 2-D with `image_shape`. They are
      standardised as the recipe says and augmented as it says. With its "none" and "mean-image", uint8 is
      divided by 255 and everything else by the largest absolute value of the training data;
    - features (N, d). Each is standardised by itself, and nothing is augmented. They are laid out row by row
      on the smallest square that holds them, the rest of it zero, and enlarged to what the model takes.

    Whatever is measured is measured in `fit`. All of X is trained on, and the last epoch's weights are kept:
    where a recipe looks at the validation accuracy (plateau, early stopping), the epoch's training accuracy
    takes its place. Sample weights are not supported; `class_weights` of the recipe are.

    Attributes
    ----------
    classes_ : labels in the order of the network's outputs.
    network_, preprocess_ : the torch module in eval mode, and the `ArrayPreprocess` before it.
    n_iter_, loss_curve_ : epochs made, and the mean training loss of each.
    n_features_in_ : where X is 2-D. feature_names_in_ : where X is a data frame.

    Raises ValueError for bad data, NotFittedError before `fit`, and ConvworksError for an unknown model or
    recipe (U101), a bad setting (U112), an input size that the model does not take (U122), a shift that is
    too large for the images (U171) and a training that diverges (N601).
    """

    def __init__(
        self,
        model: str = "lenet5_modern",
        *,
        recipe: str | Recipe | None = None,
        epochs: int | None = None,
        batch: int | None = None,
        lr: float | None = None,
        size: int | None = None,
        image_shape: Sequence[int] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.epochs = epochs
        self.batch = batch
        self.lr = lr
        self.size = size
        self.image_shape = image_shape
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on X (N, ...) and labels y (N,) of any kind that can be sorted."""
        samples, targets = validate_data(self, X, y, allow_nd=True)
        if samples.ndim != 2:
            del self.n_features_in_  # the height of an image is not a number of features
        check_classification_targets(targets)
        self.classes_, labels = np.unique(targets, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has only one class, '{self.classes_[0]}'; a classifier needs two or more.")
        recipe = self._settings()
        with _isolated():
            self._train(samples, labels.astype(np.int64), recipe)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """(N, K) probabilities; the columns are those of `classes_`."""
        check_is_fitted(self)
        samples = validate_data(self, X, allow_nd=True, reset=False)
        shape, wanted = samples.shape[1:], self.preprocess_.shape
        if shape != wanted:
            name = type(self).__name__
            raise ValueError(f"X has samples of shape {shape}, but {name} was fitted on shape {wanted}.")
        no_labels = np.zeros(len(samples), dtype=np.int64)
        batches = _Batches(samples, no_labels, self.preprocess_, batch=PREDICTED)
        found = predict_probabilities(self.network_, batches, Numerics()).astype(np.float64)
        probabilities: NDArray[np.float64] = found / found.sum(axis=1, keepdims=True)
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(N,) the most probable label of each sample."""
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def _settings(self) -> Recipe:
        """The recipe with this estimator's parameters in it."""
        if isinstance(self.recipe, Recipe):
            base = self.recipe
        else:
            base = named_recipe(self.recipe) if self.recipe is not None else recipe_for(self.model)[1]
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        given = {"epochs": self.epochs, "batch": self.batch, "optimizer.lr": self.lr, "size": self.size}
        values = {key: value for key, value in given.items() if value is not None}
        return build({**values, "model": self.model, "seed": seed}, base)

    def _built(self, recipe: Recipe, image: tuple[int, int, int]) -> tuple[nn.Module, tuple[int, int]]:
        """The network with its initial weights, and its input size."""
        options: dict[str, Any] = dict(recipe.model_options)
        create = partial(
            models.create, recipe.model, num_classes=len(self.classes_), in_channels=image[2], **options
        )
        torch.manual_seed(derive_seed(recipe.seed, "initialize"))
        size = image[:2] if recipe.size is None else (recipe.size, recipe.size)
        try:
            return create(input_size=size), size
        except ConvworksError as problem:
            if problem.code != "U122" or recipe.size is not None:
                raise
        size = models.info(recipe.model).input_size
        return create(input_size=size), size

    def _train(self, X: NDArray[Any], labels: NDArray[np.int64], recipe: Recipe) -> None:
        features = X.ndim == 2 and self.image_shape is None
        image = _image_of(X.shape[1:], self.image_shape)
        network, size = self._built(recipe, image)
        initialise_from_seed(network, recipe)
        near = all(SHORT_OF * there <= here <= there for here, there in zip(image, size, strict=False))
        canvas = size if near else image[:2]
        mean, std = _measured(X, image, canvas, "per-feature" if features else recipe.normalize)
        preprocess = ArrayPreprocess(X.shape[1:], image, canvas, size, mean, std)
        policy = NOTHING if features else Augment(**asdict(recipe.augment))
        policy.require_simple("the scikit-learn estimator")
        batches = _Batches(X, labels, preprocess, batch=recipe.batch, seed=recipe.seed, policy=policy)
        self.loss_curve_ = loss_curve(network, batches, torch.from_numpy(labels), recipe, len(self.classes_))
        self.n_iter_ = len(self.loss_curve_)
        self.network_, self.preprocess_ = network.eval(), preprocess
