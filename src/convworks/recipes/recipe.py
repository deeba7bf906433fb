"""A recipe is a frozen value: everything that decides what is trained and how. No torch in here.

The same fields make the command line's help, the TOML files, `--set key.sub=value`, the record in the run
folder and the table in the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, Predicate

from convworks.errors import ConvworksError
from convworks.evaluation.protocols import is_protocol

Scalar = int | float | str | bool | None


def option(default: Any, help_: str) -> Any:
    """A field with its one line of help."""
    if isinstance(default, (dict, list)) or is_dataclass(default):
        return field(default_factory=lambda: default, metadata={"help": help_})
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """How a gradient becomes a step. `training/optimizer.py` writes the update rules out."""

    name: Literal["sgd", "sgd_alexnet", "nesterov", "rmsprop", "adam", "adamw"] = option(
        "sgd",
        "sgd: PyTorch's form (v = m*v + g; w -= lr*v); sgd_alexnet: the paper's (v = m*v - lr*g; w += v).",
    )
    lr: Annotated[float, Gt(0)] = option(0.05, "Learning rate at the top of the schedule.")
    reference_batch: Annotated[int, Ge(1)] | None = option(
        None, "Batch that lr is meant for: another batch scales lr in proportion (Goyal et al. 2017)."
    )
    momentum: Annotated[float, Ge(0), Lt(1)] = option(0.9, "Momentum; beta1 of Adam.")
    beta2: Annotated[float, Ge(0), Lt(1)] = option(
        0.999, "Second moment's decay, for Adam, AdamW and RMSprop."
    )
    weight_decay: Annotated[float, Ge(0)] = option(
        5e-4, "L2 term added to the gradient (AdamW: decoupled from it)."
    )
    decay_norm_and_bias: bool = option(True, "Whether biases and normalisation weights decay too.")
    group_decay: Mapping[str, Annotated[float, Ge(0)]] = option(
        {}, "Weight decay of single parts of the network by name, for example fc6 = 0.001."
    )
    group_rate: Mapping[str, Annotated[float, Ge(0)]] = option(
        {}, "Share of the learning rate of parameters whose names begin so, for example fc8 = 10."
    )
    layer_decay: Annotated[float, Gt(0), Le(1)] = option(
        1.0, "Discriminative rates: every stage before the last learns at this share of the one after it."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """The learning rate as a function of the step, relative to `optimizer.lr`."""

    name: Literal[
        "constant", "step", "plateau", "exponential", "cosine", "warm-restarts", "one-cycle", "triangle"
    ] = option("cosine", "Shape of the learning rate over the run.")
    warmup: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, "Share of the run spent rising linearly from zero (one-cycle: from a 25th; triangle: a fifth)."
    )
    milestones: tuple[float, ...] = option((0.5, 0.75), "step: shares of the run where the rate drops.")
    factor: Annotated[float, Gt(0), Lt(1)] = option(
        0.1, "step, plateau, exponential: what a drop multiplies by."
    )
    patience: Annotated[int, Ge(0)] = option(3, "plateau: epochs without improvement before a drop.")
    max_drops: Annotated[int, Ge(0)] = option(3, "plateau: drops at the most (AlexNet's recipe has three).")
    every: Annotated[float, Gt(0)] = option(1.0, "exponential: epochs in which `factor` is reached once.")
    staircase: bool = option(False, "exponential: in jumps after every `every` epochs, not smoothly.")
    cycle: Annotated[int, Ge(1)] = option(10, "warm-restarts: epochs of the first cycle.")
    cycle_growth: Annotated[float, Ge(1)] = option(
        1.0, "warm-restarts: what a cycle's length is multiplied by for the next one."
    )
    final: Annotated[float, Ge(0), Le(1)] = option(
        0.0, "cosine, warm-restarts, one-cycle, triangle: where the multiplier ends, as a share of the top."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSpec:
    """Random changes that keep the label. Every draw is a function of (seed, epoch, image)."""

    shift: Annotated[int, Ge(0), Le(1024)] = option(
        0, "Random shift up to this many pixels in each direction."
    )
    border: Literal["fill", "mirror"] = option(
        "fill", "shift: what comes into view, grey level or the image mirrored at its edge."
    )
    flip: bool = option(False, "Mirror left and right with probability one half.")
    flip_alternates: bool = option(
        False, "flip: every image in every second epoch, not at random (Jordan 2024)."
    )
    rotate: Annotated[float, Ge(0), Le(180)] = option(0.0, "Random rotation up to this many degrees.")
    scale: Annotated[float, Ge(0), Le(0.9)] = option(0.0, "Random zoom by up to this fraction.")
    shear: Annotated[float, Ge(0), Le(60)] = option(0.0, "Random shear up to this many degrees.")
    scale_jitter: tuple[int, int] | None = option(
        None, "Shorter side drawn from this range of pixels before the crop, such as [256,512] (VGG)."
    )
    area: tuple[float, float] | None = option(
        None, "Crop of a share of the area, such as [0.08,1], resized to the input (GoogLeNet)."
    )
    aspect: Annotated[float, Ge(1), Le(4)] = option(
        4 / 3, "area: aspect ratios lie between its inverse and this."
    )
    lighting: Annotated[float, Ge(0), Le(10)] = option(
        0.0, "Standard deviation of the PCA colour shift (AlexNet: 0.1)."
    )
    brightness: Annotated[float, Ge(0), Le(1)] = option(0.0, "Random brightness by up to this fraction.")
    contrast: Annotated[float, Ge(0), Le(1)] = option(0.0, "Random contrast by up to this fraction.")
    saturation: Annotated[float, Ge(0), Le(1)] = option(0.0, "Random saturation by up to this fraction.")
    hue: Annotated[float, Ge(0), Le(0.5)] = option(0.0, "Random hue by up to this share of the circle.")
    elastic: Annotated[float, Ge(0), Le(100)] = option(
        0.0, "Elastic distortion: alpha of Simard 2003, 34 for digits of 28 pixels."
    )
    elastic_sigma: Annotated[float, Gt(0), Le(100)] = option(
        4.0, "elastic: width of the smoothing Gaussian in pixels."
    )
    randaugment: Annotated[int, Ge(0), Le(10)] = option(
        0, "Operations of RandAugment for each image; 0: none."
    )
    magnitude: Annotated[float, Ge(0), Le(10)] = option(9.0, "randaugment: strength from 0 to 10.")
    cutout: Annotated[int, Ge(0), Le(4096)] = option(0, "Side of a square that is hidden (DeVries 2017).")
    mixup: Annotated[float, Ge(0), Le(10)] = option(
        0.0, "alpha of mixup: lambda ~ Beta(alpha, alpha); 0: off (Zhang 2018)."
    )
    cutmix: Annotated[float, Ge(0), Le(10)] = option(
        0.0, "alpha of CutMix: a rectangle of another image; 0: off (Yun 2019)."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizeSpec:
    """What keeps weights and activations in bounds, besides `optimizer.weight_decay`."""

    l1: Annotated[float, Ge(0)] = option(
        0.0, "L1 term: strength x the sum of absolute weights; biases are left out."
    )
    proximal: bool = option(False, "l1: by soft thresholding after the step, which gives exact zeros.")
    l2_plain: Annotated[float, Ge(0)] = option(
        0.0, "L2 term lambda sum w^2 in the loss: gradient 2 lambda w (weight_decay's is lambda w)."
    )
    max_norm: Annotated[float, Gt(0)] | None = option(
        None, "Largest norm of a unit's incoming weights, kept after every step (2 to 4 with dropout)."
    )
    sparsity: Annotated[float, Ge(0)] = option(0.0, "Strength of the sparsity term on `sparsity_layers`.")
    sparsity_target: Annotated[float, Gt(0), Lt(1)] = option(0.05, "Mean activation that it asks for.")
    sparsity_layers: tuple[str, ...] = option((), "Layers with outputs in (0, 1), such as sigmoids.")
    noise: Annotated[float, Ge(0)] = option(
        0.0, "Standard deviation of the noise added to activations in training."
    )
    dropout: Annotated[float, Ge(0), Lt(1)] | None = option(
        None, "Drop probability of all dropout layers; not set: as the network has them."
    )
    stochastic_depth: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, "Probability that the last residual branch is skipped, rising linearly from the first."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSpec:
    """Which weights learn, and when."""

    freeze: Literal["none", "backbone"] = option(
        "none", "backbone: only the last stage learns, on features that are computed once."
    )
    unfreeze: Annotated[int, Ge(0)] = option(
        0, "Staged unfreezing: one stage more, from the end, after every so many epochs; 0: off."
    )
    freeze_after: Mapping[str, Annotated[int, Ge(1)]] = option(
        {}, "Epochs after which parts of the network stop learning, by name, for example conv1 = 3."
    )
    quantize: Literal["none", "int8"] = option(
        "none", "int8: weights and activations rounded to 8 bits in training (fake quantisation)."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LookaheadSpec:
    """Slow weights beside those that the optimizer moves; the slow ones are evaluated and kept."""

    every: Annotated[int, Ge(0)] = option(
        0, "Steps between moves of the slow weights, to which the others then return (Zhang 2019: 5); 0: off."
    )
    rate: Annotated[float, Gt(0), Le(1)] = option(
        0.5, "Share of the way to the fast weights that the slow ones go."
    )
    growth: Annotated[float, Ge(0)] = option(
        0.0, "The share falls from 1 to `rate` with this power of the run's progress; 0: always `rate`."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Model, data preparation, training and selection, as one value."""

    model: str = option("fastnet", "Architecture, one of `convworks list models`.")
    model_options: Mapping[str, Scalar] = option(
        {}, "Options of the architecture, for example output = 'rbf'."
    )
    pretrained: str | None = option(
        None,
        "Weights to begin with: a .safetensors file, a run's or model's folder, or a published name such as "
        "imagenet1k_v1. The last layer is new where the classes are others.",
    )
    init: str | None = option(
        None,
        "Staged initialisation: a run, model or .safetensors of another network, whose layers of the same "
        "name and shape are copied (of VGG's A: four convolutions and three dense layers).",
    )
    initialize: Literal[
        "network", "zeros", "gaussian", "alexnet", "vgg", "xavier", "he", "orthogonal", "lsuv", "whitened"
    ] = option("network", "Rule of the initial weights; network: the one in the network's definition.")
    size: Annotated[int, Ge(1), Le(4096)] | None = option(
        None, "Side of the network's square input in pixels; not set: from the model and the images."
    )
    stored: Annotated[int, Ge(1), Le(8192)] | None = option(
        None, "Side at which images are kept; larger than size: random crops in training, the centre after."
    )
    fit: Literal["auto", "crop", "squash", "pad"] = option(
        "auto", "How a rectangle becomes a square: cut the sides, squash, or pad."
    )
    normalize: Literal["per-channel", "mean-image", "per-feature", "none"] = option(
        "per-channel", "What is subtracted and divided by, measured on the training images."
    )
    epochs: Annotated[int, Ge(1), Le(100_000)] = option(10, "Passes over the training images.")
    batch: Annotated[int, Ge(1), Le(1_048_576)] = option(128, "Images in one optimizer step.")
    accumulate: Annotated[int, Ge(1)] = option(
        1, "Parts into which a batch is cut for forward and backward; one update for all of them."
    )
    optimizer: OptimizerSpec = option(OptimizerSpec(), "The update rule.")
    schedule: ScheduleSpec = option(ScheduleSpec(), "The learning rate over the run.")
    augment: AugmentSpec = option(AugmentSpec(), "Random changes of the training images.")
    regularize: RegularizeSpec = option(RegularizeSpec(), "Penalties, projections and noise.")
    transfer: TransferSpec = option(TransferSpec(), "Which weights learn, and when.")
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, "Share of the target spread over all classes."
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: a class counts in inverse proportion to its number of training images."
    )
    clip_norm: Annotated[float, Gt(0)] | None = option(None, "Largest norm of the whole gradient.")
    lookahead: LookaheadSpec = option(LookaheadSpec(), "Slow weights that the fast ones return to.")
    ema: Annotated[float, Gt(0), Lt(1)] | None = option(
        None, "Decay of the averaged weights, which are then the ones evaluated and kept."
    )
    early_stopping: Annotated[int, Ge(1)] | None = option(
        None, "Stop after this many epochs without a better validation accuracy."
    )
    keep: Literal["best", "last"] = option("best", "Which epoch's weights become the model.")
    protocol: Annotated[str, Predicate(is_protocol)] = option(
        "centre", "Views of an image that the finished network is evaluated on too: convworks list protocols."
    )
    val_fraction: Annotated[float, Gt(0), Lt(1)] = option(
        0.2, "Share held out for validation where the data has no split; half of it beside a test split."
    )
    seed: Annotated[int, Ge(0), Lt(2**63)] = option(0, "Seed of every random draw.")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "auto: what is faster here, measured.")
    memory_format: Literal["auto", "contiguous", "channels_last"] = option(
        "auto", "Layout of the tensors in memory; auto: what is faster here."
    )
    winograd: Literal["auto", "no"] = option(
        "auto", "Winograd's algorithm for 3x3 convolutions in bf16; auto: where it is faster here; no: never."
    )
    amx: Literal["auto", "no"] = option(
        "auto", "Matrix units (AMX) for layers in bf16; auto: where it is faster here; no: never."
    )
    threads: Annotated[int, Ge(0)] = option(0, "Compute threads; 0: what is faster here.")
    workers: Annotated[int, Ge(-1)] = option(
        -1, "Threads that prepare batches; -1: what is faster here. The result does not depend on it."
    )
    device: str = option("auto", "cpu, cuda, cuda:1; auto: an accelerator where there is one.")
    checkpoint_every: Annotated[int, Ge(0)] = option(
        0, "Steps between checkpoints; 0: about every thirty seconds. Every epoch ends with one."
    )
    keep_checkpoints: Annotated[int, Ge(1)] = option(2, "Checkpoints kept beside the best one.")

    def __post_init__(self) -> None:
        """Raises U290 where both kinds of averaged weights are asked for."""
        if self.ema is not None and self.lookahead.every:
            raise ConvworksError(
                "U290",
                "ema and lookahead cannot be used together",
                why="each of them decides which weights are evaluated and kept",
                try_="--set ema=none",
            )

    @property
    def averages(self) -> bool:
        """Whether weights beside those that the optimizer moves are evaluated and kept."""
        return self.ema is not None or self.lookahead.every > 0


# Keys that may change between the parts of a stopped run without changing what is computed.
SAFE_KEYS = frozenset({"workers", "checkpoint_every", "keep_checkpoints"})


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting of a recipe or a part of one, in the order of the fields."""
    for each in fields(value):
        inner = getattr(value, each.name)
        if is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{each.name}.")
        else:
            yield prefix + each.name, inner


def help_lines(cls: type = Recipe, prefix: str = "") -> dict[str, tuple[str, Any]]:
    """Dotted key -> (help, default) for every setting, read from the dataclass fields."""
    found: dict[str, tuple[str, Any]] = {}
    for each in fields(cls):
        default = each.default if each.default is not MISSING else _made(each.default_factory)
        if is_dataclass(default) and not isinstance(default, type):
            found |= help_lines(type(default), f"{prefix}{each.name}.")
        else:
            found[prefix + each.name] = (each.metadata["help"], default)
    return found


def _made(factory: Any) -> Any:
    return None if factory is MISSING else factory()
