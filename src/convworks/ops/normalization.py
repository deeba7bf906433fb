"""Normalisation by neighbours and by features: LRN, local contrast, whitening, standardisation.

Four things that are easily mixed up:

    local response norm   a value is divided by the energy of the same place in neighbouring maps; nothing is
                          subtracted and no variance is taken, so "normalizing mean and variance of neuron
                          outputs" (lectures, architectures, on VGG) describes batch norm and not this one
    local contrast norm   the mean around a place is subtracted, the standard deviation around it divides
    standardisation       mean 0 and deviation 1 of every feature over the examples, each by itself
    whitening             the same, and no correlation between features

Batch norm is in `batch_norm`. float16 and bfloat16 are computed in float32 and rounded once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.arguments import bad_argument, one_of

ResponseForm = Literal["sum", "mean"]
ContrastForm = Literal["paper", "exact"]
RESPONSE_FORMS = ("sum", "mean")
CONTRAST_FORMS = ("paper", "exact")
LOW = (torch.bfloat16, torch.float16)


def at_least_float32(x: Tensor) -> Tensor:
    """x in the type that statistics are taken in."""
    return x.float() if x.dtype in LOW else x


def check_odd(name: str, size: int) -> None:
    """Raises BadArgument where a window of this size has no middle."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise bad_argument(
            name, size, why="the window needs a middle", fits=f"{name}={max(1, int(size) // 2 * 2 + 1)}"
        )


# Local response normalisation


def local_response_norm(
    a: Tensor,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    form: ResponseForm = "sum",
) -> Tensor:
    """b_i = a_i / (k + alpha sum_{j=max(0, i-n/2)}^{min(C-1, i+n/2)} a_j^2)^beta, over n = `size` maps.

    (N, C, *spatial) -> the same; at the first and last maps the sum has fewer terms. Two forms are in use and
    differ by a factor of n in alpha: "sum" is the paper's (n=5, k=2, alpha=1e-4, beta=0.75); "mean" is
    Caffe's and torch's, with alpha/n in place of alpha, so that the paper's network needs alpha=5e-4 there.
    The mean divides by n at the borders too. The gradient is `local_response_norm_backward`.
    Source: Krizhevsky, Sutskever, Hinton 2012, section 3.3; lectures, overview of architectures (AlexNet).
    Raises BadArgument for an even size, an unknown form, or k and alpha that allow a division by zero.
    """
    per_term = _alpha_per_term(a, size, alpha, k, form)
    result: Tensor = _LocalResponse.apply(a, size, per_term, beta, k)  # type: ignore[no-untyped-call]
    return result


def local_response_norm_backward(
    db: Tensor,
    a: Tensor,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    form: ResponseForm = "sum",
) -> Tensor:
    """da_i = db_i s_i^-beta - 2 alpha beta a_i sum_{j near i} db_j a_j s_j^(-beta-1), s the sum in brackets.

    "j near i" is the window of the forward formula, which is symmetric: i is near j where j is near i.
    """
    return _response_gradient(db, a, size, _alpha_per_term(a, size, alpha, k, form), beta, k)


def _alpha_per_term(a: Tensor, size: int, alpha: float, k: float, form: str) -> float:
    if a.ndim < 2:
        raise bad_argument("a", tuple(a.shape), why="it is (N, C, ...)")
    check_odd("size", size)
    one_of("form", form, RESPONSE_FORMS)
    if k <= 0:
        raise bad_argument("k", k, why="a map of zeros would be divided by zero", fits="k=1.0")
    if alpha < 0:
        raise bad_argument("alpha", alpha, why="the divisor could become zero", fits="alpha=1e-4")
    return alpha if form == "sum" else alpha / size


def _over_neighbours(x: Tensor, size: int) -> Tensor:
    """Sum over the `size` nearest maps, fewer at the ends. (N, C, ...) -> the same."""
    total, reach = x.clone(), min(size // 2, x.shape[1] - 1)
    for step in range(1, reach + 1):
        total[:, step:] += x[:, :-step]
        total[:, :-step] += x[:, step:]
    return total


def _response_gradient(db: Tensor, a: Tensor, size: int, per_term: float, beta: float, k: float) -> Tensor:
    wide, g = at_least_float32(a), at_least_float32(db)
    s = k + per_term * _over_neighbours(wide * wide, size)
    power = s.pow(-beta)
    shared = _over_neighbours(g * wide * power / s, size)
    return (g * power - 2 * per_term * beta * wide * shared).to(a.dtype)


class _LocalResponse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, size: int, per_term: float, beta: float, k: float) -> Tensor:
        ctx.save_for_backward(a)
        ctx.settings = (size, per_term, beta, k)
        wide = at_least_float32(a)
        s = k + per_term * _over_neighbours(wide * wide, size)
        return (wide * s.pow(-beta)).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, db: Tensor) -> tuple[Tensor | None, ...]:
        (a,) = ctx.saved_tensors
        return _response_gradient(db, a, *ctx.settings), None, None, None, None


# Local contrast normalisation


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What local contrast normalisation is done with; the arguments of `local_contrast_norm`."""

    size: int = 7
    sigma: float | None = None
    across_maps: bool = True
    form: ContrastForm = "paper"
    floor: float = 1e-6

    def __post_init__(self) -> None:
        check_odd("size", self.size)
        one_of("form", self.form, CONTRAST_FORMS)
        if self.sigma is not None and not self.sigma > 0:
            raise bad_argument("sigma", self.sigma, why="it is a width in pixels", fits="sigma=1.75")
        if not self.floor > 0:
            raise bad_argument("floor", self.floor, why="flat patches would be 0/0", fits="floor=1e-6")


def gaussian_window(size: int = 7, *, sigma: float | None = None) -> Tensor:
    """(size,) float64 weights exp(-t^2 / 2 sigma^2) that sum to 1; the window is the product of two of them.

    sigma is in pixels; size/4 where it is not given, as in Torch7's `image.gaussian`, since the paper does
    not say it: 1.75 for 7.
    """
    t = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-t.square() / (2 * (size / 4 if sigma is None else sigma) ** 2))
    return weights / weights.sum()


def local_contrast_norm(x: Tensor, settings: Contrast | None = None) -> Tensor:
    """Subtractive and divisive normalisation by a Gaussian neighbourhood. (N, C, H, W) -> the same.

    With w the window (sum 1) and B the weighted mean around a place, over all maps together with
    `across_maps`, else in each map:

        "paper"   v = x - B(x),   y = v / max(c, B(v^2)^(1/2)),           c the mean of B(v^2)^(1/2)
        "exact"   y = (x - m) / s,   m = B(x),   s^2 = sum_u w_u (x_u - m)^2

    c is taken for each image, or each map of it. In the paper's form, v at a neighbour has the neighbour's
    own mean subtracted, and weak patches are left weak, so mean and deviation around a place are near 0 and 1
    only; `contrast_patches` shows the sense in which the exact form has them. `floor` is the least divisor:
    flat patches become 0. Borders: the weights that fall outside the image are left out and the others scaled
    to sum 1, so that no frame of zeros is seen. The gradient is `local_contrast_norm_backward`.
    Sources: Jarrett, Kavukcuoglu, Ranzato, LeCun 2009, section 2; lectures, convolutional networks by Fergus
    and LeCun, "contrast normalization (across feature maps)": 7x7 Gaussian, local mean 0, local std 1.
    Raises BadArgument for an input that is not (N, C, H, W).
    """
    result: Tensor = _LocalContrast.apply(x, settings or Contrast())  # type: ignore[no-untyped-call]
    return result


def local_contrast_norm_backward(dy: Tensor, x: Tensor, settings: Contrast | None = None) -> Tensor:
    """The gradient to x. B^T is the transpose of B, and s the deviation before it is floored:

    ds = -sum dy v / d^2 where s is the divisor d (to the mean c, and so to every place, where c is);
    dq = ds / 2s for q = s^2;
    "paper"   dv = dy/d + 2 v B^T(dq),   dx = dv - B^T(dv)
    "exact"   dx = dy/d - B^T(sum dy/d) + 2 (x B^T(dq) - B^T(dq m))
    Sums run over the maps that share a mean. Where s = 0, its gradient is taken as 0.
    """
    return _contrast_gradient(dy, x, settings or Contrast())


def contrast_patches(x: Tensor, settings: Contrast | None = None) -> tuple[Tensor, Tensor]:
    """Every patch normalised by the mean and deviation of its own centre, and the weights of its pixels.

    (N, C, H, W) -> z (N, C, K, H, W) and w (K, H, W), K = size^2: z[:, :, u, i, j] = (x_u - m_ij) / s_ij for
    neighbour u of (i, j), and 0 outside the image, where w is 0. For every patch that is not flat the
    weighted mean sum_u w_u z_u is 0 and the weighted deviation (sum_u w_u z_u^2)^(1/2) is 1 (averaged over
    maps with `across_maps`): the lectures' "local mean = 0, local std. = 1". The middle neighbour of z is
    `local_contrast_norm` in its exact form. Memory: K times that of x.
    """
    settings = settings or Contrast()
    _check_image(x)
    wide, weights = at_least_float32(x), _tap_weights(x, settings)
    anchor, step, deviation = _around(wide, settings)
    divisor = deviation.clamp(min=settings.floor)
    moved = _neighbours(wide, settings)
    patches = torch.stack([((each - anchor) - step) / divisor for each, _ in moved], dim=2)
    return (patches * (weights > 0)).to(x.dtype), weights


def _check_image(x: Tensor) -> None:
    if x.ndim != 4:
        raise bad_argument("x", tuple(x.shape), why="local contrast is of images", fits="(N, C, H, W)")


def _blur(x: Tensor, settings: Contrast) -> Tensor:
    """The window summed over every place, zeros outside, each map by itself."""
    row = gaussian_window(settings.size, sigma=settings.sigma).to(x)
    flat, reach = x.flatten(0, 1)[:, None], settings.size // 2
    flat = F.conv2d(flat, row.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(flat, row.view(1, 1, 1, -1), padding=(0, reach)).view_as(x)


def _weight_inside(x: Tensor, settings: Contrast) -> Tensor:
    """(1, 1, H, W): how much of the window's weight lies inside the image."""
    return _blur(torch.ones_like(x[:1, :1]), settings)


def _mean_around(x: Tensor, settings: Contrast) -> Tensor:
    """B(x): (N, C, H, W) -> (N, 1, H, W) across maps, else (N, C, H, W)."""
    joint = x.mean(dim=1, keepdim=True) if settings.across_maps else x
    return _blur(joint, settings) / _weight_inside(x, settings)


def _mean_around_transposed(g: Tensor, x: Tensor, settings: Contrast) -> Tensor:
    """B^T(g), to be added to every map of x: with a joint mean each of C maps has the weight w/C."""
    maps = x.shape[1] if settings.across_maps else 1
    return _blur(g / _weight_inside(x, settings), settings) / maps


def _neighbours(x: Tensor, settings: Contrast) -> list[tuple[Tensor, Tensor]]:
    """x moved so that each of the K neighbours comes to the middle (zeros outside), with its weight."""
    row, reach = gaussian_window(settings.size, sigma=settings.sigma).to(x), settings.size // 2
    padded, (h, w) = F.pad(x, (reach,) * 4), x.shape[-2:]
    taps = [(i, j) for i in range(settings.size) for j in range(settings.size)]
    return [(padded[..., i : i + h, j : j + w], row[i] * row[j]) for i, j in taps]


def _tap_weights(x: Tensor, settings: Contrast) -> Tensor:
    """(K, H, W): the weight of each neighbour of each place, 0 outside; they sum to 1 over K."""
    inside = _neighbours(torch.ones_like(at_least_float32(x[0, 0])), settings)
    weights = torch.stack([each * weight for each, weight in inside])
    return weights / weights.sum(dim=0)


def _around(x: Tensor, settings: Contrast) -> tuple[Tensor, Tensor, Tensor]:
    """The exact form's m, as x in the middle (of the first map) plus a step, and s.

    One neighbour at a time and in differences, so that a flat patch is exactly flat and nothing cancels, as
    it would in E[x^2] - m^2.
    """
    weights, anchor = _tap_weights(x, settings), x[:, :1] if settings.across_maps else x

    def mean(off: Tensor) -> Tensor:
        return off.mean(dim=1, keepdim=True) if settings.across_maps else off

    step, square = torch.zeros_like(anchor), torch.zeros_like(anchor)
    for (moved, _), weight in zip(_neighbours(x, settings), weights, strict=True):
        step += weight * mean(moved - anchor)
    for (moved, _), weight in zip(_neighbours(x, settings), weights, strict=True):
        square += weight * mean((moved - anchor - step).square())
    return anchor, step, square.sqrt()


def _shifted(x: Tensor, settings: Contrast) -> Tensor:
    """x less one of its values, which changes nothing but rounding: a flat image is exactly zero."""
    return at_least_float32(x) - at_least_float32(x[:, : 1 if settings.across_maps else None, :1, :1])


def _contrast_parts(x: Tensor, settings: Contrast) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """m, the numerator, s, and the least value of the divisor, which broadcasts over s."""
    if settings.form == "exact":
        anchor, step, deviation = _around(x, settings)
        return anchor + step, x - anchor - step, deviation, x.new_full((), settings.floor)
    mean = _mean_around(x, settings)
    above = x - mean
    deviation = _mean_around(above.square(), settings).sqrt()
    least = deviation.mean(dim=(2, 3), keepdim=True).clamp(min=settings.floor)
    return mean, above, deviation, least


class _LocalContrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: Contrast) -> Tensor:
        _check_image(x)
        ctx.save_for_backward(x)
        ctx.settings = settings
        _, above, deviation, least = _contrast_parts(_shifted(x, settings), settings)
        return (above / torch.maximum(deviation, least)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _contrast_gradient(dy, x, ctx.settings), None


def _contrast_gradient(dy: Tensor, x: Tensor, settings: Contrast) -> Tensor:
    wide, g = _shifted(x, settings), at_least_float32(dy)
    mean, above, deviation, least = _contrast_parts(wide, settings)
    divisor = torch.maximum(deviation, least)
    d_divisor = -_shared(g * above, settings) / divisor.square()
    d_deviation = torch.where(deviation > least, d_divisor, 0.0)
    if settings.form == "paper":
        floored = torch.where(deviation > least, 0.0, d_divisor).sum(dim=(2, 3), keepdim=True)
        places = wide.shape[2] * wide.shape[3]
        d_deviation = d_deviation + torch.where(least > settings.floor, floored / places, 0.0)
    d_square = torch.where(deviation > 0, d_deviation / (2 * deviation), 0.0)
    spread = _mean_around_transposed(d_square, wide, settings)
    if settings.form == "paper":
        d_above = g / divisor + 2 * above * spread
        dx = d_above - _mean_around_transposed(_shared(d_above, settings), wide, settings)
    else:
        through_mean = _shared(g / divisor, settings) + 2 * d_square * mean
        dx = g / divisor + 2 * wide * spread - _mean_around_transposed(through_mean, wide, settings)
    return dx.to(x.dtype)


def _shared(g: Tensor, settings: Contrast) -> Tensor:
    """Summed over the maps that have one mean and one deviation in common."""
    return g.sum(dim=1, keepdim=True) if settings.across_maps else g
