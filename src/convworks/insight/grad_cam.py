"""Grad-CAM: which places of a layer's maps speak for a class.

With the maps A_k of a layer and the score y_c of class c before the softmax,

    a_k = mean over the places (i, j) of dy_c / dA_k[i, j]        heat = ReLU(sum over k of a_k A_k)

The heat says where the layer holds evidence for the class. It has the resolution of the maps, and says
neither which pixels of a place mattered nor how much evidence there is compared with another image. Where the
head is a global mean and one linear layer, a_k is its weight w_ck / (h w), and the heat is the positive part
of the class activation map.
Source: Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, "Grad-CAM: visual explanations from deep networks
via gradient-based localization", ICCV 2017, equations 1 and 2; Zhou, Khosla, Lapedriza, Oliva, Torralba,
"Learning deep features for discriminative localization", CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError, unknown_name
from convworks.insight.health import unchanged
from convworks.ops.arguments import bad_argument

SEED = 0  # of networks that draw in evaluation too
POOLING = (
    "Pool",
    "Subsampling",
)  # in the class of a layer that passes on the maps before it, with fewer places


def grad_cam(
    network: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | Sequence[Sequence[int]],
    *,
    layer: str | None = None,
) -> Tensor:
    """Heat in [0, 1] for network input (N, C, H, W): (N, h, w) for classes (N,), (N, M, h, w) for (N, M).

    Each heat is divided by its largest value; one without any evidence is 0 everywhere. `layer` is the path
    of a module that gives maps (N, K, h, w), by default that of `last_maps`; of one that is called several
    times the last call counts. The network runs in evaluation mode, and is afterwards as it was: training
    flags, hooks, buffers, gradients and torch's generators. Raises A490 for a network or layer without maps,
    U101 for a layer that is not there, BadArgument for classes that do not fit.
    """
    wanted = torch.as_tensor(classes, device=images.device)
    if images.ndim != 4 or not len(images):
        raise bad_argument(
            "images", tuple(images.shape), why="it is a batch (N, C, H, W) of at least one image"
        )
    if wanted.ndim not in {1, 2} or len(wanted) != len(images) or wanted.is_floating_point():
        raise bad_argument("classes", tuple(wanted.shape), why=f"there are {len(images)} images")
    name = last_maps(network, images[:1]) if layer is None else layer
    modules = dict(network.named_modules())
    if name not in modules:
        raise unknown_name("layer", name, [each for each in modules if each])
    heats = []
    with _cut(network, modules[name], images, name) as (maps, scores):
        count = scores.shape[1]
        if wanted.numel() and not (int(wanted.min()) >= 0 and int(wanted.max()) < count):
            raise bad_argument("classes", wanted.tolist(), why=f"the network has {count} of them, from 0 on")
        columns = wanted.clone().long().reshape(len(images), -1)  # (N, M)
        for column in columns.unbind(1):
            score = scores.gather(1, column[:, None]).sum()  # each row depends on its own image alone
            (gradient,) = torch.autograd.grad(score, maps, retain_graph=True)
            heats.append(heat_of(maps.detach(), gradient))
    found = torch.stack(heats, dim=1)  # (N, M, h, w)
    return found[:, 0] if wanted.ndim == 1 else found


def heat_of(maps: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_k a_k A_k) / its largest value, (N, h, w), from maps and gradient (N, K, h, w)."""
    maps, gradient = (each.float() if each.itemsize < 4 else each for each in (maps, gradient))
    weights = gradient.mean(dim=(2, 3))  # a_k, (N, K)
    heat = torch.einsum("nk,nkhw->nhw", weights, maps).relu()
    largest = heat.amax(dim=(1, 2), keepdim=True)
    return torch.where(largest > 0, heat / largest, torch.zeros_like(heat))


def last_maps(network: nn.Module, image: Tensor, *, places: int = 2) -> str:
    """The path of the last layer that gives maps (N, K, h, w) with h w >= `places` for a batch `image`.

    A pooling layer at the end does not count, as in the paper, whose maps are those of the last convolution
    with its activation; a module around layers counts where it gives maps of its own, such as a sum. Where
    `places` leaves out what comes after a convolution, such as pooling and then its activation, the
    convolution is left out with it. Raises A490 where there is none.
    """
    found = finished = ""  # the last of all, and the last that is no bare convolution
    small = False  # whether too small maps came after `found`
    seen: list[tuple[Tensor, int]] = []  # with how often each had been written to: a layer may work in place

    def see(name: str, module: nn.Module, output: Any) -> None:
        nonlocal found, finished, small
        size = output.shape[2] * output.shape[3] if _are_maps(output) else 0
        if size < max(2, places):
            small |= size > 1
            return
        new = all(output is not each or output._version != version for each, version in seen)
        seen.append((output, output._version))
        if new and not any(word in type(module).__name__ for word in POOLING):
            found, small = name, False
            weight = getattr(module, "weight", None)
            finished = found if weight is None or weight.ndim < 4 else finished

    handles = [
        module.register_forward_hook(lambda m, _, output, name=name: see(name, m, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with unchanged(network, training=False), torch.inference_mode(False), torch.no_grad():
            torch.manual_seed(SEED)
            network(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise _no_maps(type(network).__name__, "no layer gives maps of more than one place")
    return finished if small and finished else found


@contextmanager
def _cut(network: nn.Module, module: nn.Module, images: Tensor, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(maps, scores): only what comes after the maps is recorded for the gradient."""
    kept: list[Any] = []

    def cut(_: nn.Module, __: Any, output: Any) -> Tensor | None:
        kept[:] = [output]
        if not _are_maps(output):
            return None
        torch.set_grad_enabled(True)  # until the end of the pass below, which goes back
        kept[:] = [output.detach().requires_grad_()]
        # a layer that works in place gets a copy
        copy: Tensor = kept[0].clone()
        return copy

    with unchanged(network, training=False), torch.inference_mode(False):
        handle = module.register_forward_hook(cut)
        try:
            with torch.no_grad():
                torch.manual_seed(SEED)
                scores = network(images.clone())
        finally:
            handle.remove()
        while isinstance(scores, tuple | list) and scores:
            scores = scores[0]
        if not kept or not _are_maps(kept[0]):
            raise _no_maps(name, "it gives no maps (N, K, h, w)" if kept else "the pass does not call it")
        if not isinstance(scores, Tensor) or scores.ndim != 2 or not scores.requires_grad:
            raise _no_maps(name, "no score (N, classes) depends on it")
        yield kept[0], scores  # in here, because putting the buffers back would undo what was recorded


def _are_maps(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point()


def _no_maps(where: str, why: str) -> ConvworksError:
    return ConvworksError(
        "A490",
        "there are no maps that Grad-CAM could weigh",
        where=where,
        why=why,
        try_="convworks show lenet5",
    )
