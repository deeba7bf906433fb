"""The scikit-learn estimator: scikit-learn's own battery, its tools around it, and what the network sees."""

from __future__ import annotations

import doctest
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import convworks.sklearn as ours
from convworks.data.augment import Augment, augment
from convworks.errors import ConvworksError
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec
from convworks.sklearn import ArrayPreprocess, ConvNetClassifier

DIGITS = load_digits()
QUICK = ConvNetClassifier("mlp128", epochs=2, batch=32)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks of this size only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def some(count: int = 200) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return DIGITS.images[:count], DIGITS.target[:count]


def photos(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


# --- scikit-learn's battery: no check is expected to fail ---------------------------------------------------

ARRAY_API = """
from sklearn.utils.estimator_checks import check_array_api_input as check
from convworks.sklearn import ConvNetClassifier
check("it", {}, array_namespace="numpy", expect_only_array_outputs=False)
"""


@parametrize_with_checks([ConvNetClassifier(), ConvNetClassifier("mlp128", epochs=20, batch=32)])
def test_battery(estimator: Any, check: Any) -> None:
    if check.func.__name__ == "check_array_api_input":
        # It skips itself unless this variable is set before scipy is imported.
        environment = {**os.environ, "SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-W", "error", "-c", ARRAY_API.format(estimator)]
        subprocess.run(program, env=environment, check=True, timeout=120)
    else:
        check(estimator)


# --- scikit-learn's tools -----------------------------------------------------------------------------------


def test_cross_validation_on_digits() -> None:
    scores = cross_val_score(ConvNetClassifier(epochs=5, batch=16), DIGITS.images, DIGITS.target, cv=3)
    assert scores.min() >= 0.9, scores


def test_grid_search_prefers_more_epochs() -> None:
    grid = {"epochs": np.array([1, 6]), "lr": [1e-4, 3e-3]}
    search = GridSearchCV(QUICK, grid, cv=3).fit(*some(300))
    assert search.best_params_ == {"epochs": 6, "lr": 3e-3}
    assert search.best_estimator_.n_iter_ == 6


def test_pipeline_with_a_scaler() -> None:
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), ConvNetClassifier("mlp128", epochs=40, batch=16))
    assert cross_val_score(pipeline, X, y, cv=5).mean() >= 0.85
    assert pipeline.fit(X, y).predict_proba(X).shape == (150, 3)


def test_string_labels_and_the_order_of_the_columns() -> None:
    X, y = some(300)
    words = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])[y]
    fitted = clone(QUICK).set_params(epochs=20).fit(X, words)
    assert fitted.classes_.tolist() == sorted(set(words))
    found = fitted.predict_proba(X)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    assert np.mean(found[np.arange(300), np.searchsorted(fitted.classes_, words)] > 0.5) > 0.9
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[found.argmax(axis=1)])
    assert fitted.score(X, words) == np.mean(fitted.predict(X) == words)


def test_parameters_are_stored_as_given() -> None:
    recipe = Recipe(model="fastnet", epochs=3)
    given = {
        "model": "mlp128", "recipe": recipe, "epochs": 4, "batch": 8, "lr": 0.1,
        "size": 16, "image_shape": (8, 8), "random_state": 5,
    }  # fmt: skip
    estimator = ConvNetClassifier(**given)
    assert estimator.get_params() == given
    assert clone(estimator).get_params() == given
    assert vars(estimator).keys() == given.keys()
    assert get_tags(estimator).input_tags.three_d_array
    assert estimator.set_params(epochs=9).epochs == 9
    assert "sample_weight" not in ConvNetClassifier.fit.__annotations__


@pytest.mark.parametrize("model", ["fastnet", "lenet5", "lenet5_modern", "mlp128", "tutorial_cnn"])
def test_a_fitted_estimator_survives_joblib(model: str) -> None:
    X, y = photos(33, 18, 18, 3), np.arange(33) % 3  # a last batch of one would stop batch normalisation
    fitted = ConvNetClassifier(model, epochs=1, batch=32).fit(X, y)
    file = io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    again = joblib.load(file)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert not fitted.network_.training
    assert all(weight.grad is None for weight in fitted.network_.parameters())


def test_the_example_in_the_documentation() -> None:
    assert doctest.testmod(ours).failed == 0


# --- determinism, and nothing else changed ------------------------------------------------------------------


def dropout_net(**settings: Any) -> ConvNetClassifier:
    return ConvNetClassifier("tutorial_cnn", epochs=1, size=16, **settings)


def test_same_seed_same_bits() -> None:
    X, y = some()
    a = dropout_net(random_state=3).fit(X, y)
    torch.rand(1)  # what others drew does not matter
    b = dropout_net(random_state=3).fit(X, y)
    assert a.loss_curve_ == b.loss_curve_
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    assert dropout_net(random_state=4).fit(X, y).loss_curve_ != a.loss_curve_
    rng = np.random.RandomState(3)
    assert dropout_net(random_state=rng).fit(X, y).loss_curve_ == a.loss_curve_  # its first draw
    assert dropout_net(random_state=rng).fit(X, y).loss_curve_ != a.loss_curve_


def test_global_state_stays_as_it_was() -> None:
    X, y = some()
    torch.manual_seed(11)
    np.random.seed(11)
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist()
    torch.set_num_threads(2)
    dropout_net().fit(X, y).predict(X)
    with pytest.raises(ConvworksError):
        dropout_net(lr=1e30).fit(X, y)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads == 2
    assert torch.is_grad_enabled()
    torch.testing.assert_close(torch.get_rng_state(), generators[0], rtol=0, atol=0)
    assert np.random.get_state()[1].tolist() == generators[1]


def test_it_trains_where_gradients_are_off() -> None:
    X, y = some(64)
    wanted = clone(QUICK).fit(X, y).loss_curve_
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            assert clone(QUICK).fit(X, y).loss_curve_ == wanted


def test_two_fits_in_two_threads_do_not_disturb_each_other() -> None:
    X, y = some()
    nets = [dropout_net(random_state=seed) for seed in range(4)]
    wanted = [clone(net).fit(X, y).loss_curve_ for net in nets]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda net: net.fit(X, y).loss_curve_, nets)) == wanted


# --- what the network sees ----------------------------------------------------------------------------------


def seen(X: NDArray[Any], *, model: str = "mlp128", normalize: str = "per-channel", **settings: Any) -> Any:
    """(fitted preprocess, the network's input for X)."""
    recipe = replace(Recipe(), normalize=normalize)
    estimator = ConvNetClassifier(model, recipe=recipe, epochs=1, lr=1e-9, **settings)
    preprocess: ArrayPreprocess = estimator.fit(X, np.arange(len(X)) % 2).preprocess_
    x = preprocess.to_input(X)
    assert x.dtype == torch.float32
    return preprocess, x.numpy()


def test_features_lie_on_a_square_and_are_standardised_one_by_one() -> None:
    X = np.random.default_rng(0).normal([5, -3, 1e6, 0, 0.1], [1, 1e-3, 10, 1, 0], (40, 5))
    preprocess, x = seen(X)
    deviation = X.std(axis=0)
    deviation[4] = 1.0  # never varies
    wanted = np.zeros((40, 9))
    wanted[:, :5] = (X - X.mean(axis=0)) / deviation
    np.testing.assert_allclose(x, wanted.reshape(40, 1, 3, 3), rtol=1e-5, atol=1e-6)
    assert preprocess.size == (3, 3)
    assert seen(DIGITS.data[:50])[1].shape == (50, 1, 8, 8)  # a square number: that square
    assert seen(DIGITS.data[:50, :1])[1].shape == (50, 1, 1, 1)


@pytest.mark.parametrize("normalize", ["per-channel", "mean-image", "per-feature", "none"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_images_are_normalised_as_the_recipe_says(
    normalize: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "CHUNK", 1000)  # several chunks
    X = np.minimum(photos(20, 6, 5, 3), 200).astype(dtype)
    unit = 255 if dtype is np.uint8 else 200
    planes = X.transpose(0, 3, 1, 2).astype(np.float64)
    mean, std = {
        "per-channel": (planes.mean((0, 2, 3), keepdims=True), planes.std((0, 2, 3), keepdims=True)),
        "mean-image": (planes.mean(0), unit),
        "per-feature": (planes.mean(0), planes.std(0)),
        "none": (0, unit),
    }[normalize]
    np.testing.assert_allclose(seen(X, normalize=normalize)[1], (planes - mean) / std, rtol=1e-5, atol=1e-6)
    empty = seen(np.full((9, 4, 4), 0.1), normalize=normalize)[1]  # no variance
    assert np.abs(empty - (normalize == "none")).max() < 1e-6


def test_numbers_mean_the_same_in_every_type_and_shape() -> None:
    X, y = photos(40, 8, 8), np.arange(40) % 3
    wanted = clone(QUICK).fit(X, y).predict_proba(X)
    for same in (X[..., None], X.astype(np.float64), X.astype(np.int32), X.tolist()):
        np.testing.assert_array_equal(clone(QUICK).fit(same, y).predict_proba(same), wanted)
    flat = X.reshape(40, 64)
    fitted = clone(QUICK).set_params(image_shape=(8, 8)).fit(flat, y)
    np.testing.assert_array_equal(fitted.predict_proba(flat), wanted)
    assert fitted.n_features_in_ == 64
    assert not hasattr(clone(QUICK).fit(X, y), "n_features_in_")


def test_images_that_nearly_fit_are_padded_with_zeros() -> None:
    X = photos(12, 28, 28)
    preprocess, x = seen(X, model="lenet5")
    padded = np.zeros((12, 1, 32, 32))
    padded[:, 0, 2:30, 2:30] = X
    np.testing.assert_allclose(x, (padded - padded.mean()) / padded.std(), rtol=1e-5, atol=1e-6)
    assert (preprocess.canvas, preprocess.size) == ((32, 32), (32, 32))


@pytest.mark.parametrize(("side", "settings", "size"), [(8, {}, 28), (60, {"size": 24}, 24)])
def test_other_sizes_are_resized_as_pillow_does(side: int, settings: Any, size: int) -> None:
    X = photos(4, side, side)
    _, x = seen(X, model="lenet5_modern", **settings)
    for pixels, found in zip((X - X.mean()) / X.std(), x, strict=True):
        picture = Image.fromarray(pixels.astype(np.float32))
        wanted = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found[0], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("turn", [{}, {"rotate": 30, "scale": 0.2, "shear": 20}])
def test_augmentation_is_the_one_of_the_bytes(turn: dict[str, Any]) -> None:
    policy = Augment(shift=2, flip=True, **turn)
    X, y = photos(30, 9, 12, 3), np.arange(30)
    mean = np.array([40.0, 120.0, 200.0])[:, None, None]
    preprocess = ArrayPreprocess((9, 12, 3), (9, 12, 3), (9, 12), (9, 12), mean, np.full((3, 1, 1), 50.0))
    loader = ours._Batches(X, y, preprocess, batch=8, seed=5, policy=policy)
    epoch = list(loader.epoch(2))
    assert loader.steps == len(epoch) == 4
    rows = np.concatenate([batch.rows for batch in epoch])
    assert sorted(rows) == list(range(30))
    assert next(loader.epoch(3)).rows.tolist() != rows[:8].tolist()
    x = torch.cat([batch.x for batch in epoch]).numpy()
    wanted = augment(
        torch.from_numpy(X[rows]), policy, seed=5, epoch=2, indices=rows, height=9, width=12, fill=0
    )
    atol = 0.51 if policy.affine else 1e-3  # bytes are rounded
    np.testing.assert_allclose(x * 50 + mean, wanted.numpy().transpose(0, 3, 1, 2), rtol=0, atol=atol)
    again = next(loader.epoch(2, start=3))
    np.testing.assert_array_equal(again.x.numpy(), epoch[3].x.numpy())
    np.testing.assert_array_equal(again.y.numpy(), y[again.rows])


def test_images_are_augmented_and_features_are_not() -> None:
    X, y = DIGITS.data[:64], DIGITS.target[:64]
    shifted = Recipe(augment=AugmentSpec(shift=2), optimizer=OptimizerSpec(name="adam", lr=1e-3))
    still = replace(shifted, augment=AugmentSpec())

    for image_shape, equal in ((None, True), ((8, 8), False)):
        image = clone(QUICK).set_params(image_shape=image_shape)
        a, b = (clone(image).set_params(recipe=each).fit(X, y) for each in (shifted, still))
        assert (a.loss_curve_ == b.loss_curve_) is equal


# --- settings of the recipe ---------------------------------------------------------------------------------

BASE = Recipe(epochs=4, batch=32, optimizer=OptimizerSpec(name="adam", lr=1e-3))


def losses_with(recipe: Recipe, **settings: Any) -> list[float]:
    fitted = ConvNetClassifier("mlp128", recipe=recipe, **settings).fit(*some(128))
    assert fitted.n_iter_ == len(fitted.loss_curve_)
    return fitted.loss_curve_


def test_loss_curve_and_the_settings_in_place_of_the_recipes() -> None:
    curve = losses_with(BASE)
    assert len(curve) == 4
    assert curve[3] < 0.9 * curve[0]
    assert losses_with(replace(BASE, epochs=9, batch=7), epochs=4, batch=32) == curve
    assert losses_with(replace(BASE, optimizer=OptimizerSpec(name="adam", lr=1)), lr=1e-3) == curve
    assert len(ConvNetClassifier("mlp128", recipe="lenet5_modern").fit(*some(64)).loss_curve_) == 12


def test_training_accuracy_decides_on_stopping_and_on_the_plateau() -> None:
    frozen = replace(BASE, epochs=20, optimizer=OptimizerSpec(name="sgd", lr=1e-12))
    assert len(losses_with(replace(frozen, early_stopping=3))) == 4  # the first epoch is the best
    plateau = ScheduleSpec(name="plateau", patience=0, factor=1e-12, max_drops=1)
    learned = replace(BASE, epochs=80, optimizer=OptimizerSpec(name="adam", lr=1e-2, weight_decay=0.0))
    curve = losses_with(replace(learned, schedule=plateau))
    assert curve[-1] < 0.5 * curve[0]
    np.testing.assert_allclose(curve[-10:], curve[-1], rtol=1e-6)  # nothing moves after the drop
    free = losses_with(replace(learned, schedule=ScheduleSpec(name="constant")))
    assert free[-1] < 0.9 * free[-10]


def test_averaged_weights_become_the_network() -> None:
    X, y = some(128)
    recipes = BASE, replace(BASE, ema=0.999)
    plain, averaged = (ConvNetClassifier("mlp128", recipe=recipe).fit(X, y) for recipe in recipes)
    assert plain.loss_curve_ == averaged.loss_curve_
    assert np.abs(plain.predict_proba(X) - averaged.predict_proba(X)).max() > 1e-3


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "image_shape", "message"),
    [
        ((6, 3, 8, 8), None, "not an image"),
        ((6, 2, 2, 2, 3), None, "not an image"),
        ((6, 64), (8, 9), "needs 72 features, but X has 64"),
        ((6, 64), (64,), "not an image"),
        ((6, 8, 8), (8, 9), "holds images of shape"),
        ((6, 0, 8), None, "not an image"),
    ],
)
def test_arrays_that_are_no_images(shape: Any, image_shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clone(QUICK).set_params(image_shape=image_shape).fit(np.ones(shape), np.arange(6) % 2)


def test_bad_data_is_a_value_error() -> None:
    X, y = some(40)
    fitted = clone(QUICK).fit(X, y)
    for other in (X[:, :7], X[..., None], X.reshape(40, 64)):
        with pytest.raises(ValueError, match="was fitted on shape"):
            fitted.predict(other)
    with pytest.raises(ValueError, match="NaN"):
        fitted.predict(np.where(X == 3, np.nan, X))
    with pytest.raises(ValueError, match="only one class, '7'"):
        clone(QUICK).fit(X, np.full(40, 7))
    with pytest.raises(NotFittedError):
        clone(QUICK).predict(X)


@pytest.mark.parametrize(
    ("code", "settings"),
    [
        ("U101", {"model": "lenet6"}),
        ("U101", {"recipe": "lenet6"}),
        ("U112", {"epochs": 0}),
        ("U112", {"lr": -1.0}),
        ("U122", {"model": "lenet5", "size": 20}),
        ("U171", {"recipe": Recipe(augment=AugmentSpec(shift=8))}),
        ("N601", {"lr": 1e30}),
        ("N601", {"lr": 3e38, "epochs": 1, "batch": 64}),  # a single step spoils the weights
    ],
)
def test_bad_settings_have_a_code(code: str, settings: dict[str, Any]) -> None:
    estimator = clone(QUICK).set_params(**settings)
    with pytest.raises(ConvworksError) as caught:
        estimator.fit(*some(40))
    assert caught.value.code == code
    assert not hasattr(estimator, "network_")
