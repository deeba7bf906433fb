"""Losses and penalties, each with its gradient written out.

A loss `name(...)` goes through autograd with `name_backward(...)` as its backward pass, which can be called
alone. Classes stand in dimension 1: logits are (N, K) or (N, K, ...). Types narrower than float32 are
computed in it and give a loss of that type; a gradient has the type of its tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convworks.ops.arguments import bad_argument, one_of

REDUCTIONS = ("mean", "sum", "none")
L2_CONVENTIONS = ("half", "plain")


def soft_targets(
    labels: Tensor, classes: int, *, smoothing: float = 0.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(N, ...) labels as (N, K, ...) probabilities: (1 - eps) [k = y] + eps / K.

    eps = 0 gives one-hot rows, eps = 0.1 the label smoothing of Inception-v3 with its uniform prior. Raises
    BadArgument for a label outside 0..K-1. Source: Szegedy et al., "Rethinking the Inception architecture for
    computer vision", 2016, section 7; lectures, Inception-v3.
    """
    _check_labels(labels, classes)
    one_hot = torch.zeros(len(labels), classes, *labels.shape[1:], dtype=dtype, device=labels.device)
    return smooth(one_hot.scatter_(1, labels.long().unsqueeze(1), 1.0), smoothing=smoothing)


def smooth(targets: Tensor, *, smoothing: float) -> Tensor:
    """(1 - eps) t + eps / K for soft labels (N, K, ...), whose sum over the classes stays 1."""
    if not 0 <= smoothing <= 1:
        raise bad_argument("smoothing", smoothing, why="it is a share, 0 to 1", fits="smoothing=0.1")
    return targets if smoothing == 0 else (1 - smoothing) * targets + smoothing / targets.shape[1]


def log_softmax(logits: Tensor) -> Tensor:
    """log p_k = x_k - log sum_j exp(x_j) over dimension 1, with the largest x taken off before exp."""
    x = _wide(logits)
    shifted = x - x.amax(dim=1, keepdim=True)
    return shifted - shifted.exp().sum(dim=1, keepdim=True).log()


def cross_entropy(
    logits: Tensor, target: Tensor, *, smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """-sum_k t_k log p_k for logits (N, K, ...); -log p_y for a hard label y.

    `target` is (N, ...) of whole numbers, or of the logits' shape: one-hot rows or mixtures of them, as mixup
    makes (t = lambda t_i + (1 - lambda) t_j, lambda drawn from Beta(alpha, alpha); the lectures' "lambda =
    0.2-0.4" are values of alpha). `smoothing` is the eps of `soft_targets`, applied to either. `reduction` is
    "mean" over examples (and places), "sum" or "none". The target is a constant: no gradient flows to it. A
    logit of -inf at a class of probability 0 counts nothing. Raises BadArgument.
    Source: lectures, "maximize the average log-probability of the correct label"; Zhang et al. 2018, mixup.
    """
    targets = _targets(logits, target, smoothing)
    one_of("reduction", reduction, REDUCTIONS)

    def value(x: Tensor) -> Tensor:
        terms = torch.where(targets == 0, 0.0, targets * log_softmax(x))
        return _reduced(-terms.sum(dim=1), reduction)

    return _written(logits, value, lambda x, g: _cross_entropy_gradient(x, targets, reduction, g))


def cross_entropy_backward(
    logits: Tensor,
    target: Tensor,
    gradient: Tensor | None = None,
    *,
    smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """dC/dx_k = g (p_k sum_j t_j - t_k), which is g (p - t) for targets of sum 1; divided by N for the mean.

    `gradient` is dC/d(loss), 1 where it is not given. Source: lectures, softmax and cross-entropy.
    """
    one_of("reduction", reduction, REDUCTIONS)
    g = logits.new_ones(()) if gradient is None else gradient
    return _cross_entropy_gradient(logits, _targets(logits, target, smoothing), reduction, g)


def _cross_entropy_gradient(logits: Tensor, targets: Tensor, reduction: str, gradient: Tensor) -> Tensor:
    p = log_softmax(logits).exp()
    per_example = p * targets.sum(dim=1, keepdim=True) - targets
    if reduction == "mean":
        per_example = per_example / (logits.numel() // logits.shape[1])
    scale = gradient.unsqueeze(1) if gradient.ndim else gradient  # one for each example, or one for all
    return (per_example * scale).to(logits.dtype)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """E = 1/(2n) sum_p sum_k (t_pk - s_pk)^2 for n examples: the Euclidean cost, without a penalty.

    Both are (N, ...). Raises BadArgument where the shapes differ. Source: lectures, regularization.
    """
    _same_shape(outputs, targets)
    return _written(
        outputs,
        lambda s: (_wide(targets) - _wide(s)).square().sum() / (2 * len(s)),
        lambda s, g: g * squared_error_backward(s, targets),
    )


def squared_error_backward(outputs: Tensor, targets: Tensor) -> Tensor:
    """dE/ds = (s - t) / n."""
    _same_shape(outputs, targets)
    return ((_wide(outputs) - _wide(targets)) / len(outputs)).to(outputs.dtype)


def penalised_squared_error(
    outputs: Tensor, targets: Tensor, weights: Sequence[Tensor], *, strength: float, r: int
) -> Tensor:
    """E_A = 1/(2n) sum_p sum_k (t_pk - s_pk)^2 + lambda sum_j |w_j|^r for r = 1 or 2: lambda ||W||_r^r.

    r = 2 is the "plain" L2 penalty, whose gradient is 2 lambda w. Source: lectures, regularization.
    """
    return squared_error(outputs, targets) + sum(norm_penalty(w, strength=strength, r=r) for w in weights)


def norm_penalty(weight: Tensor, *, strength: float, r: int) -> Tensor:
    """lambda ||w||_r^r = lambda sum_j |w_j|^r for r = 1 (`l1_penalty`) or r = 2 (`l2_penalty`, "plain")."""
    if r not in (1, 2):
        raise bad_argument("r", r, why="the penalty is defined for 1 and 2", fits="r=2")
    if r == 1:
        return l1_penalty(weight, strength=strength)
    return l2_penalty(weight, strength=strength, convention="plain")


def l2_penalty(weight: Tensor, *, strength: float, convention: str = "half") -> Tensor:
    """Weight decay as a term of the loss, in one of two conventions that differ by a factor of 2:

    "half":  lambda/2 sum w^2, gradient lambda w; with lambda = 5e-4 the decay of AlexNet and VGG.
    "plain": lambda sum w^2, gradient 2 lambda w. The lectures write this one, with the gradient of the other.

    Source: lectures, regularization and VGGNet.
    """
    one_of("convention", convention, L2_CONVENTIONS)
    factor = _strength(strength) / (2 if convention == "half" else 1)
    return _written(
        weight,
        lambda w: factor * _wide(w).square().sum(),
        lambda w, g: g * l2_penalty_backward(w, strength=strength, convention=convention),
    )


def l2_penalty_backward(weight: Tensor, *, strength: float, convention: str = "half") -> Tensor:
    """lambda w for "half", 2 lambda w for "plain"."""
    one_of("convention", convention, L2_CONVENTIONS)
    return _strength(strength) * (1 if convention == "half" else 2) * weight


def l1_penalty(weight: Tensor, *, strength: float) -> Tensor:
    """lambda sum |w|. Source: lectures, regularization; Tibshirani 1996."""
    _strength(strength)
    return _written(
        weight,
        lambda w: strength * _wide(w).abs().sum(),
        lambda w, g: g * l1_penalty_backward(w, strength=strength),
    )


def l1_penalty_backward(weight: Tensor, *, strength: float) -> Tensor:
    """lambda sign(w), and 0 at 0, where |w| has no derivative and 0 is one of its sub-gradients."""
    return _strength(strength) * weight.sign()


def soft_threshold(weight: Tensor, threshold: float) -> Tensor:
    """sign(w) max(|w| - t, 0): the proximal step of the L1 penalty, with t = learning rate times lambda.

    Weights of at most t become exactly 0, which steps along lambda sign(w) never reach.
    Source: Daubechies, Defrise, De Mol, "An iterative thresholding algorithm for linear inverse problems",
    2004; lectures, regularization (L1).
    """
    if not threshold >= 0:
        raise bad_argument("threshold", threshold, why="it is a distance, 0 or more", fits="threshold=1e-4")
    return weight.sign() * (weight.abs() - threshold).clamp(min=0)


def max_norm(weight: Tensor, c: float, *, dims: Sequence[int] | None = None) -> Tensor:
    """w where ||w||_2 <= c, else c w / ||w||_2: each unit's weights on or inside a ball of radius c.

    `dims` are the dimensions that hold the weights of one unit: by default all but the first, so one row of a
    dense layer (O, I) and one filter of a convolution (O, I, k, k). Weights inside the ball keep their bits.
    Raises BadArgument. The lectures name c = 2 and 3, the dropout paper 3 to 4.
    Source: lectures, MaxNorm regularization; Srivastava et al., "Dropout", JMLR 2014, section 5.1.
    """
    if not c > 0:
        raise bad_argument("c", c, why="it is the radius of a ball", fits="c=3")
    over = tuple(range(1, weight.ndim)) if dims is None else tuple(dims)
    if not over or any(not -weight.ndim <= d < weight.ndim for d in over):
        raise bad_argument(
            "dims", over, why=f"the weight has {weight.ndim} dimensions", fits=f"dims=({weight.ndim - 1},)"
        )
    wide = _wide(weight)
    norm = torch.linalg.vector_norm(wide, dim=over, keepdim=True)
    return torch.where(norm <= c, weight, (wide * (c / norm)).to(weight.dtype))


def mean_activations(activations: Tensor) -> Tensor:
    """q_i, the mean output of unit i: (N, F) over examples, (N, C, ...) over examples and places."""
    return _wide(activations).mean(dim=[d for d in range(activations.ndim) if d != 1])


def sparsity_penalty(activations: Tensor, *, target: float = 0.05) -> Tensor:
    """sum_i -p log q_i - (1 - p) log(1 - q_i), with q_i the mean activation of unit i and p the target.

    Smallest where every q_i = p. `activations` are (N, F, ...) outputs in (0, 1), such as a sigmoid's: raises
    BadArgument for others (a tanh's, a ReLU's) and for a unit that is 0, or 1, for every example.
    Source: lectures, sparsity regularization; Ng, "Sparse autoencoder", CS294A lecture notes, section 3.
    """
    _check_sparsity(activations, target)

    def value(a: Tensor) -> Tensor:
        q = mean_activations(a)
        return -(target * q.log() + (1 - target) * torch.log1p(-q)).sum()

    return _written(activations, value, lambda a, g: g * sparsity_penalty_backward(a, target=target))


def sparsity_penalty_backward(activations: Tensor, *, target: float = 0.05) -> Tensor:
    """(q_i - p) / (q_i (1 - q_i)) / M for each of the M examples (and places) of unit i."""
    _check_sparsity(activations, target)
    q = mean_activations(activations)
    each = (q - target) / (q * (1 - q)) / (activations.numel() // len(q))
    shape = [1, -1, *[1] * (activations.ndim - 2)]
    return each.reshape(shape).expand(activations.shape).to(activations.dtype)


class _Written(torch.autograd.Function):
    """A function of one tensor with its own backward pass: `value(x)` and `backward(x, gradient)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Any, backward: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.written = backward
        result: Tensor = value(x)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return ctx.written(x, gradient).to(x.dtype), None, None


def _written(
    x: Tensor, value: Callable[[Tensor], Tensor], backward: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    result: Tensor = _Written.apply(x, value, backward)  # type: ignore[no-untyped-call]
    return result


def _wide(x: Tensor) -> Tensor:
    """In float32 where the type is narrower."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


def _targets(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Probabilities of the logits' shape, from hard or soft labels. Raises BadArgument."""
    if logits.ndim < 2:
        shape = f"shape {tuple(logits.shape)}"
        raise bad_argument("logits", shape, why="they are (N, K) or (N, K, ...)", fits="logits[None]")
    places = (len(logits), *logits.shape[2:])
    if not target.is_floating_point() and tuple(target.shape) == places:
        return soft_targets(target, logits.shape[1], smoothing=smoothing, dtype=_wide(logits).dtype)
    if target.is_floating_point() and target.shape == logits.shape:
        return smooth(target.detach().to(_wide(logits).dtype), smoothing=smoothing)
    raise bad_argument(
        "target",
        f"{str(target.dtype).removeprefix('torch.')} of shape {tuple(target.shape)}",
        why=f"the logits are {tuple(logits.shape)}",
        fits=f"whole numbers {places}, or probabilities {tuple(logits.shape)}",
    )


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = next(int(y) for y in labels.flatten() if not 0 <= int(y) < classes)
        raise bad_argument("label", wrong, why=f"there are {classes} classes", fits=f"0 to {classes - 1}")


def _same_shape(outputs: Tensor, targets: Tensor) -> None:
    if outputs.shape != targets.shape:
        shape = f"shape {tuple(targets.shape)}"
        raise bad_argument(
            "targets", shape, why=f"the outputs are {tuple(outputs.shape)}", fits=f"{tuple(outputs.shape)}"
        )


def _strength(strength: float) -> float:
    if not strength >= 0:
        raise bad_argument("strength", strength, why="a penalty is 0 or more", fits="strength=5e-4")
    return strength


def _check_sparsity(activations: Tensor, target: float) -> None:
    if not 0 < target < 1:
        raise bad_argument("target", target, why="it is a mean output in (0, 1)", fits="target=0.05")
    if activations.ndim < 2:
        shape = f"shape {tuple(activations.shape)}"
        raise bad_argument("activations", shape, why="they are (N, F) or (N, C, ...)", fits="(8, 128)")
    a = activations.detach()
    low, high, q = float(a.min()), float(a.max()), mean_activations(a)
    if not (low >= 0 and high <= 1 and bool(((q > 0) & (q < 1)).all())):
        raise bad_argument(
            "activations",
            f"numbers from {low:g} to {high:g}",
            why="-p log q - (1 - p) log(1 - q) needs mean outputs inside (0, 1)",
            fits="the outputs of a sigmoid",
        )
