"""The gradient that comes past a residual unit's branch, added by the branch's first convolution."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convworks.ops.amx_convolution import amx_convolution
from convworks.ops.fast_winograd import winograd_convolution
from convworks.ops.fused_batch_norm import Norm, fused_batch_norm
from convworks.ops.shortcut_gradient import ShortcutGradient
from tests.ops.native.kernels import loaded, with_amx, with_winograd


@dataclass(frozen=True, slots=True)
class Case:
    images: int
    channels: int
    outputs: int
    size: tuple[int, int]
    window: int = 3
    padding: int = 1
    groups: int = 1


CASES = [
    Case(2, 16, 16, (9, 7)),  # two outputs in a line
    Case(2, 16, 8, (5, 8), window=5, padding=2),
    Case(3, 3, 16, (6, 6)),
    Case(2, 24, 16, (7, 5)),  # more than 16, no 32
    Case(2, 32, 16, (8, 8)),
    Case(1, 40, 48, (6, 9), padding=0),
    Case(2, 64, 8, (4, 4), window=1, padding=0),
    Case(2, 32, 32, (6, 6), groups=2),
    Case(25, 64, 16, (90, 90)),  # so large that results pass the caches
]


def whole(shape: tuple[int, ...], most: int, *, share: float = 1.0) -> Tensor:
    """Whole numbers up to `most`, a share of them not 0."""
    values = torch.randint(-most, most + 1, shape) * (torch.rand(shape) < share)
    return values.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


def test_the_sum_on_matrix_units_exactly() -> None:
    """Whole numbers below 256 are bfloat16, so each sum must be what the definition gives."""
    with with_amx():
        for case in CASES:
            torch.manual_seed(0)
            x = whole((case.images, case.channels, *case.size), 2).requires_grad_()
            w = whole(
                (case.outputs, case.channels // case.groups, case.window, case.window), 1, share=0.3
            ).float()
            past, g = ShortcutGradient(), whole(tuple(x.shape), 20)
            past.hand_over(g)
            y = amx_convolution(x, w, None, stride=1, padding=case.padding, groups=case.groups, past=past)
            dy = whole(tuple(y.shape), 1)
            y.backward(dy)
            through = torch.nn.grad.conv2d_input(
                tuple(x.shape), w, dy.float(), padding=case.padding, groups=case.groups
            )
            assert through.abs().max() < 236, "else the test asks for more digits than there are"
            assert x.grad is not None
            assert torch.equal(x.grad.float(), through + g.float()), case
            assert past.take(x) is None, "it is handed over once"


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (90, 90)])
@pytest.mark.parametrize("channels", [16, 40, 64])
def test_the_sum_by_winograds_algorithm(channels: int, size: tuple[int, int]) -> None:
    with with_winograd():
        torch.manual_seed(1)
        images = 25 if size[0] == 90 else 2
        data = torch.randn(images, channels, *size).to(torch.bfloat16)
        data = data.contiguous(memory_format=torch.channels_last)
        w, g = torch.randn(24, channels, 3, 3), torch.randn_like(data)
        found = []
        for handed in (False, True):
            x, past = data.clone().requires_grad_(), ShortcutGradient()
            if handed:
                past.hand_over(g)
            y = winograd_convolution(x, w, None, padding=1, past=past)
            torch.manual_seed(2)
            y.backward(torch.randn_like(y))
            assert x.grad is not None
            found.append(x.grad.float())
        plain, with_g = found
        error = (with_g - (plain + g.float())).abs()
        assert (error <= 2**-7 * (plain.abs() + g.float().abs())).all(), "but for rounding once less"


def test_more_maps_than_the_convolution_has_by_winograds_algorithm() -> None:
    with with_winograd():
        torch.manual_seed(5)
        data = torch.randn(2, 16, 8, 8).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        w, g, found = torch.randn(24, 16, 3, 3), whole((2, 24, 8, 8), 20), []
        for handed in (False, True):
            x, past = data.clone().requires_grad_(), ShortcutGradient()
            if handed:
                past.hand_over(g)
            y = winograd_convolution(x, w, None, padding=1, past=past)
            y.backward(torch.ones_like(y))
            assert x.grad is not None
            found.append(x.grad)
        assert torch.equal(found[1], found[0] + g[:, :16])


@pytest.mark.parametrize(("stride", "outputs"), [(1, 32), (2, 32), (2, 16), (3, 40)])
def test_every_sth_place_and_zeros_for_other_maps(stride: int, outputs: int) -> None:
    """Option A: what comes past has `outputs` maps, and as many places as the shortcut took."""
    with with_amx():
        torch.manual_seed(3)
        x = whole((2, 16, 9, 8), 2).requires_grad_()
        w, past = whole((outputs, 16, 3, 3), 1, share=0.3).float(), ShortcutGradient(stride)
        y = amx_convolution(x, w, None, stride=stride, padding=1, past=past)
        g, dy = whole(tuple(y.shape), 20), whole(tuple(y.shape), 1)
        past.hand_over(g)
        y.backward(dy)
        through = torch.nn.grad.conv2d_input(tuple(x.shape), w, dy.float(), stride=stride, padding=1)
        shortcut = torch.zeros(tuple(x.shape), requires_grad=True)
        kept = F.pad(shortcut[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, outputs - 16))
        kept.backward(g.float())
        assert x.grad is not None
        assert shortcut.grad is not None
        assert torch.equal(x.grad.float(), through + shortcut.grad)


@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("kernels", [False, True])
def test_the_batch_norm_hands_over_what_it_would_have_given(activation: str, kernels: bool) -> None:
    """By the kernels; torch's operators give it to autograd, and hand nothing over."""
    torch.manual_seed(4)
    x, r, dy = (torch.randn(3, 8, 5, 5).to(memory_format=torch.channels_last) for _ in range(3))
    norm = Norm(weight=None, bias=None, running_mean=None, running_var=None, momentum=0.1, epsilon=1e-5)

    def gradient(past: ShortcutGradient | None) -> Tensor | None:
        residual = r.clone().requires_grad_()
        y = fused_batch_norm(
            x.clone().requires_grad_(),
            norm,
            activation=activation,
            residual=residual,
            past=past,  # type: ignore[arg-type]
        )
        y.backward(dy)
        return residual.grad

    def both() -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        past = ShortcutGradient()
        return gradient(None), gradient(past), past.take(r)

    if not kernels:
        given, also, handed = both()
        assert handed is None
        assert given is not None
        assert also is not None
        assert torch.equal(given, also)
        return
    with loaded():
        given, nothing, handed = both()
    assert nothing is None
    assert given is not None
    assert handed is not None
    assert torch.equal(given, handed)
