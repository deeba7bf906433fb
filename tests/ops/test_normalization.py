"""LRN and local contrast normalisation against loops, with their gradients and the borders of both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.autograd import gradcheck

from convworks.ops import normalization
from convworks.ops.arguments import BadArgument
from convworks.ops.normalization import (
    Contrast,
    contrast_patches,
    gaussian_window,
    local_contrast_norm,
    local_contrast_norm_backward,
    local_response_norm,
    local_response_norm_backward,
)

Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def slope(function: Any, x: Array, direction: Array, step: float = 1e-6) -> float:
    """The central difference of a function of an array along a direction."""
    return float((function(x + step * direction) - function(x - step * direction)) / (2 * step))


# Local response normalisation


def response_by_loops(a: Array, n: int, alpha: float, beta: float, k: float) -> Array:
    """The formula of the paper, term by term. (N, C, L)"""
    b = np.empty_like(a)
    maps = a.shape[1]
    for image, i, place in np.ndindex(*a.shape):
        near = range(max(0, i - n // 2), min(maps - 1, i + n // 2) + 1)
        b[image, i, place] = (
            a[image, i, place] / (k + alpha * sum(a[image, j, place] ** 2 for j in near)) ** beta
        )
    return b


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 3)),
    reach=st.integers(0, 4),
    alpha=st.sampled_from([1e-4, 0.3]),
    beta=st.sampled_from([0.5, 0.75, 1.0]),
    k=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_lrn_equals_loops(
    shape: tuple[int, int, int], reach: int, alpha: float, beta: float, k: float
) -> None:
    a, n = draw(*shape), 2 * reach + 1
    b = local_response_norm(torch.from_numpy(a), size=n, alpha=alpha, beta=beta, k=k)
    np.testing.assert_allclose(b.numpy(), response_by_loops(a, n, alpha, beta, k), rtol=1e-12)
    mean = local_response_norm(torch.from_numpy(a), size=n, alpha=alpha, beta=beta, k=k, form="mean")
    np.testing.assert_allclose(mean.numpy(), response_by_loops(a, n, alpha / n, beta, k), rtol=1e-12)


@pytest.mark.parametrize("shape", [(2, 7), (2, 7, 5), (2, 7, 4, 5), (2, 7, 3, 2, 2)])
def test_the_papers_sum_is_torch_with_alpha_times_five(shape: tuple[int, ...]) -> None:
    a = 30 * torch.from_numpy(draw(*shape))
    spatial = a if a.ndim > 2 else a[..., None]
    paper = F.local_response_norm(spatial, 5, alpha=5e-4, beta=0.75, k=2.0).view_as(a)
    caffe = F.local_response_norm(spatial, 5, alpha=1e-4, beta=0.75, k=2.0).view_as(a)
    torch.testing.assert_close(local_response_norm(a), paper, rtol=1e-12, atol=0)
    torch.testing.assert_close(local_response_norm(a, form="mean"), caffe, rtol=1e-12, atol=0)
    assert float((paper - caffe).abs().max()) > 0.1  # the two forms are not the same thing


def test_lrn_by_hand() -> None:
    """n=5, k=2, alpha=1e-4, beta=0.75 on maps of 100: the middle one sees five of them, the first three."""
    b = local_response_norm(torch.full((1, 5, 1), 100.0, dtype=torch.float64)).flatten()
    assert math.isclose(float(b[2]), 100 / (2 + 5) ** 0.75, rel_tol=1e-12)
    assert math.isclose(float(b[0]), 100 / (2 + 3) ** 0.75, rel_tol=1e-12)


def test_lrn_subtracts_no_mean_and_takes_no_variance() -> None:
    """Equal maps would become 0 under batch or contrast norm; here they keep sign and most of their size."""
    b = local_response_norm(torch.ones(1, 8, 2, 2))
    torch.testing.assert_close(b, torch.full_like(b, 2**-0.75), rtol=1e-3, atol=0)


@pytest.mark.parametrize("form", ["sum", "mean"])
@pytest.mark.parametrize("size", [1, 3, 5, 11])
def test_lrn_gradient(form: Any, size: int) -> None:
    a = torch.from_numpy(draw(2, 6, 3)).requires_grad_()
    options: dict[str, Any] = {"size": size, "alpha": 0.4, "beta": 0.75, "k": 1.0, "form": form}
    assert gradcheck(lambda a: local_response_norm(a, **options), (a,))
    db, direction = draw(2, 6, 3, seed=1), draw(2, 6, 3, seed=2)
    da = local_response_norm_backward(torch.from_numpy(db), a.detach(), **options)
    per_term = 0.4 if form == "sum" else 0.4 / size
    numeric = slope(
        lambda v: (db * response_by_loops(v, size, per_term, 0.75, 1.0)).sum(), a.detach().numpy(), direction
    )
    assert math.isclose(float((da.numpy() * direction).sum()), numeric, rel_tol=1e-7)


@pytest.mark.parametrize("name", ["_response_gradient", "_contrast_gradient"])
def test_an_error_planted_in_a_gradient_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    right = getattr(normalization, name)

    def wrong(*args: Any) -> torch.Tensor:
        dx: torch.Tensor = right(*args)
        dx.view(-1)[3] *= 1.01
        return dx

    monkeypatch.setattr(normalization, name, wrong)
    x = torch.from_numpy(draw(1, 3, 4, 4)).requires_grad_()
    function = local_response_norm if name == "_response_gradient" else local_contrast_norm
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(function, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", [local_response_norm, local_contrast_norm])
def test_short_types(function: Any, dtype: torch.dtype) -> None:
    x = torch.from_numpy(draw(2, 6, 8, 8)).to(dtype).requires_grad_()
    y = function(x)
    y.backward(torch.ones_like(y))
    wide = x.detach().double().requires_grad_()
    exact = function(wide)
    exact.backward(torch.ones_like(exact))
    assert x.grad is not None
    assert wide.grad is not None
    assert y.dtype == x.grad.dtype == dtype
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "size = 4 does not fit: the window needs a middle"),
        ({"size": 0}, "size = 0 does not fit"),
        ({"form": "summ"}, "form = 'summ' does not fit: it is one of sum, mean"),
        ({"k": 0.0}, "k = 0.0 does not fit: a map of zeros would be divided by zero"),
        ({"alpha": -1.0}, "alpha = -1.0 does not fit"),
    ],
)
def test_lrn_says_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        local_response_norm(torch.ones(1, 3, 2), **options)


def test_lrn_needs_maps() -> None:
    with pytest.raises(BadArgument, match=r"a = \(3,\) does not fit"):
        local_response_norm(torch.ones(3))


# Local contrast normalisation


def window_by_loops(size: int, sigma: float) -> Array:
    half = size // 2
    w = np.array(
        [
            [math.exp(-(i * i + j * j) / (2 * sigma**2)) for j in range(-half, half + 1)]
            for i in range(-half, half + 1)
        ]
    )
    return w / w.sum()


def weights_at(i: int, j: int, h: int, w: int, window: Array) -> list[tuple[int, int, float]]:
    """The pixels near (i, j) that lie in the image, with weights that sum to 1."""
    half = len(window) // 2
    near = [
        (i + p, j + q, float(window[p + half, q + half]))
        for p in range(-half, half + 1)
        for q in range(-half, half + 1)
        if 0 <= i + p < h and 0 <= j + q < w
    ]
    total = sum(weight for *_, weight in near)
    return [(p, q, weight / total) for p, q, weight in near]


def contrast_by_loops(x: Array, given: Contrast) -> Array:
    """Jarrett et al. 2009, section 2, and the exact form, over the maps of each group one pixel at a time."""
    window = window_by_loops(given.size, given.size / 4 if given.sigma is None else given.sigma)
    n, c, h, w = x.shape
    groups = [list(range(c))] if given.across_maps else [[each] for each in range(c)]
    y = np.empty_like(x)
    for image in range(n):
        for maps in groups:
            part = x[image, maps]
            near = {(i, j): weights_at(i, j, h, w, window) for i in range(h) for j in range(w)}
            mean = {at: sum(wt * part[:, p, q].mean() for p, q, wt in some) for at, some in near.items()}
            v = part - np.array([[mean[i, j] for j in range(w)] for i in range(h)])
            if given.form == "paper":
                sigma = {
                    at: math.sqrt(sum(wt * (v[:, p, q] ** 2).mean() for p, q, wt in some))
                    for at, some in near.items()
                }
                least = max(sum(sigma.values()) / (h * w), given.floor)
            else:
                sigma = {
                    at: math.sqrt(sum(wt * ((part[:, p, q] - mean[at]) ** 2).mean() for p, q, wt in some))
                    for at, some in near.items()
                }
                least = given.floor
            y[image, maps] = v / np.array([[max(least, sigma[i, j]) for j in range(w)] for i in range(h)])
    return y


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    size=st.sampled_from([3, 5, 7]),
    sigma=st.sampled_from([None, 0.8, 3.0]),
    across_maps=st.booleans(),
    form=st.sampled_from(["paper", "exact"]),
    seed=st.integers(0, 5),
)
def test_contrast_equals_loops(
    shape: tuple[int, int, int, int], size: int, sigma: float | None, across_maps: bool, form: Any, seed: int
) -> None:
    x = draw(*shape, seed=seed)
    given = Contrast(size=size, sigma=sigma, across_maps=across_maps, form=form)
    y = local_contrast_norm(torch.from_numpy(x), given)
    np.testing.assert_allclose(y.numpy(), contrast_by_loops(x, given), rtol=1e-9, atol=1e-9)


def test_the_window_is_a_gaussian_of_seven() -> None:
    row = gaussian_window().numpy()
    assert len(row) == 7
    assert math.isclose(row.sum(), 1, rel_tol=1e-15)
    np.testing.assert_allclose(np.outer(row, row), window_by_loops(7, 1.75), rtol=1e-12)


def photograph() -> torch.Tensor:
    """float32, (1, 3, 24, 24) of 0..1: bright, dark, weak and strong contrast, and a flat corner."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(1, 3, 24, 24)) * np.geomspace(1e-2, 0.5, 24)[:, None] + np.linspace(0, 0.5, 24)
    x[..., -8:, -8:] = 0.7
    return torch.from_numpy(x).float()


@pytest.mark.parametrize("across_maps", [True, False])
def test_on_any_patch_that_is_not_flat_the_local_mean_is_0_and_the_deviation_1(across_maps: bool) -> None:
    """To 1e-5 in float32, with the weights of the 7x7 window, at the borders too."""
    x, given = photograph(), Contrast(across_maps=across_maps, form="exact")
    z, w = contrast_patches(x, given)
    maps = (1, 2) if across_maps else (2,)
    share = 3 if across_maps else 1
    mean = (z * w).sum(dim=maps) / share
    deviation = ((z.square() * w).sum(dim=maps) / share).sqrt()
    flat = np.zeros((24, 24), dtype=bool)
    flat[-5:, -5:] = True  # patches that lie in the flat corner altogether
    assert z.dtype == torch.float32
    assert not (z * (w == 0)).any()  # neighbours outside the image are no values
    assert float(mean.abs().max()) < 1e-5
    assert float((deviation[..., ~torch.from_numpy(flat)] - 1).abs().max()) < 1e-5
    torch.testing.assert_close(
        z[:, :, 24], local_contrast_norm(x, given), rtol=0, atol=1e-5
    )  # of 49 the middle


def test_a_flat_patch_becomes_zero() -> None:
    for form in ("paper", "exact"):
        given = Contrast(form=form)  # type: ignore[arg-type]
        assert not local_contrast_norm(torch.full((1, 2, 9, 9), 0.3), given).any()
    y = local_contrast_norm(photograph(), Contrast(form="exact"))
    assert not y[..., -5:, -5:].any()


def test_brightness_and_contrast_of_the_whole_image_do_not_matter() -> None:
    x = torch.from_numpy(draw(1, 2, 12, 12))
    for form in ("paper", "exact"):
        given = Contrast(form=form)  # type: ignore[arg-type]
        torch.testing.assert_close(
            local_contrast_norm(5 * x + 3, given), local_contrast_norm(x, given), rtol=1e-9, atol=1e-9
        )


def test_across_maps_a_strong_map_holds_the_others_down() -> None:
    """Local competition between features: the weak map is divided by what the strong one does."""
    x = torch.from_numpy(draw(1, 2, 12, 12))
    x[:, 1] *= 20
    joint = local_contrast_norm(x)[:, 0].square().mean().sqrt()
    alone = local_contrast_norm(x, Contrast(across_maps=False))[:, 0].square().mean().sqrt()
    assert float(joint) < 0.25
    assert float(alone) > 0.8


@pytest.mark.parametrize("across_maps", [True, False])
@pytest.mark.parametrize("form", ["paper", "exact"])
def test_contrast_gradient(form: Any, across_maps: bool) -> None:
    given = Contrast(size=3, across_maps=across_maps, form=form)
    scale = np.linspace(0.2, 3, 6)[:, None]  # rows below the mean deviation, and rows above it
    x = torch.from_numpy(draw(2, 2, 6, 5) * scale).requires_grad_()
    assert gradcheck(lambda x: local_contrast_norm(x, given), (x,))
    dy, direction = draw(2, 2, 6, 5, seed=1), draw(2, 2, 6, 5, seed=2)
    dx = local_contrast_norm_backward(torch.from_numpy(dy), x.detach(), given)
    numeric = slope(lambda v: (dy * contrast_by_loops(v, given)).sum(), x.detach().numpy(), direction)
    assert math.isclose(float((dx.numpy() * direction).sum()), numeric, rel_tol=1e-6)


def test_contrast_gradient_where_the_floor_divides() -> None:
    given = Contrast(size=3, floor=10.0)
    x = torch.from_numpy(draw(1, 2, 5, 5)).requires_grad_()
    assert gradcheck(lambda x: local_contrast_norm(x, given), (x,))


def test_a_gradient_meets_flat_images() -> None:
    for form in ("paper", "exact"):
        x = torch.zeros(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
        local_contrast_norm(x, Contrast(form=form)).sum().backward()  # type: ignore[arg-type]
        assert x.grad is not None
        assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 6}, "size = 6 does not fit"),
        ({"sigma": 0.0}, "sigma = 0.0 does not fit"),
        ({"form": "exakt"}, "form = 'exakt' does not fit"),
        ({"floor": 0.0}, "floor = 0.0 does not fit"),
    ],
)
def test_contrast_says_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        Contrast(**options)


def test_contrast_needs_images() -> None:
    with pytest.raises(BadArgument, match=r"x = \(2, 3\) does not fit"):
        local_contrast_norm(torch.ones(2, 3))
