"""Fused batch norm, addition, ReLU and pooling against loops and formulas in float64, with planted errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from scipy.special import ndtr
from torch import Tensor

from convworks.errors import ConvworksError
from convworks.ops.fused_batch_norm import (
    Activation,
    Norm,
    fused_batch_norm,
    fused_max_pool,
    fused_norm_relu_pool,
)
from convworks.ops.native import library
from tests.ops.native.kernels import loaded

# float32: sums of m values in float64 from float32 terms. bfloat16: outputs are rounded to 8 bits, 2^-9
# relative; gradients besides depend on a mask that is the same, so the same bound holds for each of them.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-8}
SHAPES = [
    (2, 1, 3, 5),
    (3, 3, 4, 4),
    (2, 5, 7, 3),
    (4, 17, 5, 6),
    (2, 16, 9, 9),
    (1, 64, 6, 5),
    (3, 100, 4, 3),
]
WINDOW = ((3, 3), (2, 2), (1, 1))


@pytest.fixture(autouse=True, params=["kernels", "torch"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test holds with the kernels and without."""
    if request.param == "torch":
        library.close_kernels()
        yield request.param
    else:
        with loaded():
            yield request.param


def sample(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draws)

    c = shape[1]
    x = (normal(*shape) * 2 + 3).to(dtype).to(memory_format=torch.channels_last)
    r = normal(*shape).to(dtype).to(memory_format=torch.channels_last)
    own = {"weight": normal(c) + 0.2, "bias": normal(c), "mean": normal(c), "var": normal(c).abs()}
    return {"x": x, "residual": r, **own}


def norm_of(given: dict[str, Tensor], momentum: float = 0.1) -> Norm:
    return Norm(
        weight=given["weight"],
        bias=given["bias"],
        running_mean=given["mean"],
        running_var=given["var"],
        momentum=momentum,
        epsilon=1e-5,
    )


def activated(z: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """The activation of z, float64, and its derivative; Phi is scipy's."""
    if activation == "gelu":
        below = torch.from_numpy(ndtr(z.detach().numpy()))
        return z * below, below + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return (z.clamp(min=0), (z > 0).double()) if activation == "relu" else (z, torch.ones_like(z))


def formula(
    given: dict[str, Tensor], dy: Tensor | None, *, activation: Activation, residual: bool
) -> dict[str, Tensor]:
    """Forward and backward in float64, written out; (N, C, H, W) as rows of channels."""
    x, r = given["x"].double(), given["residual"].double()
    gamma, beta = (given[k].double()[None, :, None, None] for k in ("weight", "bias"))
    axes, m = (0, 2, 3), x.numel() / x.shape[1]
    mu = x.mean(axes, keepdim=True)
    var = ((x - mu) ** 2).mean(axes, keepdim=True)
    s = (var + 1e-5) ** -0.5
    hat = (x - mu) * s
    z = gamma * hat + beta + (r if residual else 0)
    y, slope = activated(z, activation)
    found = {"y": y}
    found["mean"] = 0.9 * given["mean"].double() + 0.1 * mu.flatten()
    found["var"] = 0.9 * given["var"].double() + 0.1 * var.flatten() * m / (m - 1)
    if dy is not None:
        g = dy.double() * slope
        sum_g, sum_gh = g.sum(axes, keepdim=True), (g * hat).sum(axes, keepdim=True)
        found |= {"weight": sum_gh.flatten(), "bias": sum_g.flatten(), "residual": g}
        found["x"] = gamma * s * (g - sum_g / m - hat * sum_gh / m)
    return found


def close(name: str, got: Tensor, want: Tensor, dtype: torch.dtype, slack: float = 1) -> None:
    """Within the tolerance of the largest value: a sum's error goes with its terms."""
    scale = max(float(want.abs().max()), 1.0)
    worst = float((got.double() - want).abs().max())
    assert worst <= slack * TOLERANCE[dtype] * scale, f"{name}: off by {worst}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("activation", "residual"), [(a, b) for a in ("none", "relu", "gelu") for b in (False, True)]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_backward_and_running_statistics(
    shape: tuple[int, ...], activation: Activation, residual: bool, dtype: torch.dtype, way: str
) -> None:
    given = sample(shape, dtype)
    before = {key: value.clone() for key, value in given.items()}
    leaves = [given[k].requires_grad_() for k in ("x", "weight", "bias", "residual")]
    added = leaves[3] if residual else None
    y = fused_batch_norm(leaves[0], norm_of(given), activation=activation, residual=added)
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    want = formula(before, dy, activation=activation, residual=residual)
    assert y.dtype == dtype
    by_torch = way == "torch" or (activation == "gelu" and residual)
    if dtype == torch.bfloat16 and by_torch:  # rounds after each operator, so the mask differs near 0
        close("y", y.detach(), want["y"], dtype, slack=4)
        return
    close("y", y.detach(), want["y"], dtype)
    used = ["x", "weight", "bias", *(["residual"] if residual else [])]
    gradients = torch.autograd.grad(y, [given[k] for k in used], dy)
    for name, gradient in zip(used, gradients, strict=True):
        close(name, gradient, want[name], dtype)
    for name in ("mean", "var"):
        close(name, given[name], want[name], torch.float32)


def test_a_planted_error_is_seen(way: str) -> None:
    given = sample((2, 5, 7, 3), torch.float32)
    want = formula(given, torch.ones(2, 5, 7, 3), activation="none", residual=False)
    wrong = {**given, "weight": given["weight"] * torch.tensor([1.0, 1.01, 1, 1, 1])}
    got = fused_batch_norm(given["x"], norm_of(wrong))
    with pytest.raises(AssertionError, match="y: off by"):
        close("y", got, want["y"], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("channels", [4096, 4095], ids=["vectors", "one by one"])
def test_gelu_and_its_derivative_over_the_whole_range(channels: int, dtype: torch.dtype, way: str) -> None:
    """x is +1 and -1, so z is +-gamma without rounding; dbeta is the derivative where dy is 1."""
    z = torch.linspace(0, 12, channels).to(dtype).float()
    x = torch.tensor([1.0, -1.0]).to(dtype)[:, None, None, None].expand(2, channels, 1, 1)
    bias = torch.zeros(channels, requires_grad=True)
    norm = Norm(weight=z, bias=bias, running_mean=None, running_var=None, momentum=0.0, epsilon=1e-12)
    y = fused_batch_norm(x, norm, activation="gelu")
    bound, rounding = (2e-6, 0.0) if dtype == torch.float32 else (2e-4, 2**-8)
    for place, sign in enumerate((1, -1)):
        want, slope = activated(sign * z.double(), "gelu")
        off = (y[place].detach().double().flatten() - want).abs() - rounding * want.abs()
        assert float(off.max()) <= bound
        dy = torch.zeros_like(y)
        dy[place] = 1
        (dbias,) = torch.autograd.grad(y, bias, dy, retain_graph=True)
        if way == "torch":  # rounds the derivative to the type of the maps
            slope = slope.to(dtype).double()
        assert float((dbias.double() - slope).abs().max()) <= bound + (rounding if way == "torch" else 0)


def test_gradients_of_gelu_are_the_slopes_of_its_outputs() -> None:
    """Central differences of the forward pass alone, along a random direction of each input."""
    given = sample((3, 17, 5, 4), torch.float32)
    draws = torch.Generator().manual_seed(3)
    dy = torch.randn(3, 17, 5, 4, generator=draws)
    leaves = {name: given[name].clone().requires_grad_() for name in ("x", "weight", "bias")}

    def outputs(values: dict[str, Tensor]) -> Tensor:
        norm = norm_of({**given, **values, "mean": torch.zeros(17), "var": torch.ones(17)})
        return fused_batch_norm(values["x"], norm, activation="gelu")

    gradients = torch.autograd.grad(outputs(leaves), list(leaves.values()), dy)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        along = torch.randn(leaf.shape, generator=draws)
        step = 0.01
        ends = [outputs({**leaves, name: leaf + sign * step * along}).detach().double() for sign in (1, -1)]
        slope = float(((ends[0] - ends[1]) * dy).sum()) / (2 * step)
        assert slope == pytest.approx(float((gradient.double() * along).sum()), rel=2e-3, abs=2e-3), name


def test_parameters_and_running_statistics_may_be_missing() -> None:
    given = sample((2, 5, 7, 3), torch.float32)
    bare = Norm(weight=None, bias=None, running_mean=None, running_var=None, momentum=0.0, epsilon=1e-5)
    x = given["x"].requires_grad_()
    y = fused_batch_norm(x, bare, activation="relu")
    dy = torch.randn(y.shape)
    plain = {**given, "x": x.detach(), "weight": torch.ones(5), "bias": torch.zeros(5)}
    want = formula(plain, dy, activation="relu", residual=False)
    close("y", y.detach(), want["y"], torch.float32)
    close("x", torch.autograd.grad(y, x, dy)[0], want["x"], torch.float32)


def test_any_layout_of_the_input_and_of_the_gradient() -> None:
    given = sample((2, 6, 5, 4), torch.float32)
    want = formula(given, torch.ones(2, 6, 5, 4), activation="relu", residual=True)
    wide = torch.zeros(2, 12, 5, 8)
    wide[:, ::2, :, ::2] = given["x"]
    for x in (given["x"].contiguous(), wide[:, ::2, :, ::2]):
        x = x.detach().requires_grad_()
        y = fused_batch_norm(x, norm_of(given), activation="relu", residual=given["residual"].contiguous())
        close("y", y.detach(), want["y"], torch.float32)
        one = torch.ones(()).expand(y.shape)  # what a mean sends back: no strides at all
        close("x", torch.autograd.grad(y, x, one)[0], want["x"], torch.float32)


def test_a_large_mean_cancels_nothing() -> None:
    given = sample((8, 16, 8, 8), torch.float32)
    given["x"] = given["x"] * 0.01 + 1000
    y = fused_batch_norm(given["x"], norm_of(given))
    want = formula(given, None, activation="none", residual=False)
    assert (
        float((y.double() - want["y"]).abs().max()) < 0.05
    )  # the mean of 1000 is known to 6e-5, the spread is 0.02


def test_one_value_of_a_channel_has_no_variance() -> None:
    given = sample((1, 3, 1, 1), torch.float32)
    with pytest.raises(ConvworksError, match="no variance"):
        fused_batch_norm(given["x"], norm_of(given))
    with pytest.raises(ValueError, match="four dimensions"):
        fused_batch_norm(given["x"][0], norm_of(given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_nan_stays_and_is_not_hidden_by_the_activation(dtype: torch.dtype) -> None:
    given = sample((2, 16, 4, 4), dtype)
    given["x"][0, 3, 1, 1] = float("nan")
    for activation in ("relu", "gelu"):
        y = fused_batch_norm(given["x"], norm_of(given), activation=activation)
        assert bool(y[:, 3].isnan().all())
        assert not bool(y[:, :3].isnan().any())
    assert bool(fused_max_pool(given["x"], WINDOW, relu=True)[0, 3].isnan().any())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_bits_do_not_depend_on_the_number_of_threads(threads: int, way: str) -> None:
    if way == "torch":
        pytest.skip("torch's own operators promise less")
    given = sample((4, 24, 33, 31), torch.bfloat16)
    dy = torch.randn(4, 24, 33, 31).to(torch.bfloat16)
    before = torch.get_num_threads()

    def run() -> list[Tensor]:
        x, w = given["x"].clone().requires_grad_(), given["weight"].clone().requires_grad_()
        norm = norm_of({**given, "weight": w, "mean": given["mean"].clone(), "var": given["var"].clone()})
        pooled = fused_norm_relu_pool(x, norm, WINDOW)
        found = [pooled, *torch.autograd.grad(pooled.sum(), [x, w])]
        for activation in ("relu", "gelu"):
            y = fused_batch_norm(x, norm, activation=activation)
            found += [y, *torch.autograd.grad(y, [x, w], dy)]
        return found

    try:
        torch.set_num_threads(1)
        one = run()
        torch.set_num_threads(threads)
        for first, second in zip(one, run(), strict=True):
            assert torch.equal(first, second)
    finally:
        torch.set_num_threads(before)


# --- pooling --------------------------------------------------------------------------------------------

WINDOWS = [
    ((2, 2), (2, 2), (0, 0)),
    WINDOW,
    ((3, 2), (1, 2), (1, 1)),
    ((3, 3), (2, 2), (0, 0)),
    ((2, 2), (3, 3), (0, 0)),
]


def pool_by_loops(z: Tensor, dy: Tensor, window: object) -> tuple[Tensor, Tensor]:
    """Max pooling of (N, C, H, W) and the gradient, place by place; the first of equal values gets it."""
    (kh, kw), (sh, sw), (ph, pw) = window  # type: ignore[misc]
    n, c, h, w = z.shape
    oh, ow = (h + 2 * ph - kh) // sh + 1, (w + 2 * pw - kw) // sw + 1
    y, dz = torch.zeros(n, c, oh, ow, dtype=z.dtype), torch.zeros_like(z)
    for b, k, i, j in itertools.product(range(n), range(c), range(oh), range(ow)):
        places = [
            (a, d)
            for a in range(max(i * sh - ph, 0), min(i * sh - ph + kh, h))
            for d in range(max(j * sw - pw, 0), min(j * sw - pw + kw, w))
        ]
        best = max(places, key=lambda at: float(z[b, k, at[0], at[1]]))
        y[b, k, i, j] = z[b, k, best[0], best[1]]
        dz[b, k, best[0], best[1]] += dy[b, k, i, j]
    return y, dz


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("channels", [1, 5, 16, 19])
def test_pooling_with_and_without_a_relu(channels: int, window: object, dtype: torch.dtype) -> None:
    x = sample((2, channels, 7, 6), dtype)["x"].sub(3).detach().requires_grad_()
    for relu in (False, True):
        y = fused_max_pool(x, window, relu=relu)  # type: ignore[arg-type]
        dy = torch.randint(-4, 5, y.shape).to(dtype)  # sums of whole numbers are exact
        want, dz = pool_by_loops(x.detach().double(), dy.double(), window)
        if relu:
            _, dz = pool_by_loops(x.detach().double(), dy.double() * (want > 0), window)
            want = want.clamp(min=0)
        assert torch.equal(y.detach().double(), want)
        assert torch.equal(torch.autograd.grad(y, x, dy)[0].double(), dz)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("channels", [3, 16, 21])
def test_norm_relu_and_pooling_together(channels: int, dtype: torch.dtype, way: str) -> None:
    given = sample((2, channels, 9, 8), dtype)
    before = {key: value.clone() for key, value in given.items()}
    leaves = [given[k].requires_grad_() for k in ("x", "weight", "bias")]
    y = fused_norm_relu_pool(given["x"], norm_of(given), WINDOW)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    inner = formula(before, None, activation="relu", residual=False)
    want, dz = pool_by_loops(inner["y"], dy.double(), WINDOW)
    close("y", y.detach(), want, dtype)
    if dtype == torch.bfloat16 and way == "torch":
        return  # torch rounds before it pools, so that ties fall otherwise
    target = formula(before, dz, activation="relu", residual=False)
    gradients = torch.autograd.grad(y, leaves, dy)
    for name, gradient in zip(("x", "weight", "bias"), gradients, strict=True):
        close(name, gradient, target[name], dtype)
    for name in ("mean", "var"):
        close(name, given[name], inner[name], torch.float32)


def test_what_the_kernels_do_not_do_is_left_to_torch() -> None:
    x = torch.randn(2, 3, 20, 20, dtype=torch.float64)
    window = ((17, 17), (1, 1), (8, 8))  # more places than a byte can name
    assert torch.equal(fused_max_pool(x, window), F.max_pool2d(x, *window))
    assert torch.equal(fused_max_pool(x.float(), window), F.max_pool2d(x.float(), *window))
    norm = Norm(weight=None, bias=None, running_mean=None, running_var=None, momentum=0.1, epsilon=1e-5)
    torch.testing.assert_close(fused_batch_norm(x, norm), F.batch_norm(x, None, None, training=True))
