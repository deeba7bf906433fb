"""VGG on ImageNet: Simonyan, Zisserman 2015, section 3.1; lectures, VGGNet.

Five recipes, in the order in which the paper trains: A at scale 256, from which the deeper ones begin; D at
256; D at 384, begun with D at 256; D with scales from 256 to 512, begun with D at 384.
"""

from __future__ import annotations

from dataclasses import replace

from convworks.recipes.published import Citation, Expected, PublishedRecipe, derive
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec

CITATION = Citation(
    key="simonyan2015very",
    authors=("Karen Simonyan", "Andrew Zisserman"),
    title="Very deep convolutional networks for large-scale image recognition",
    venue="ICLR",
    year=2015,
    url="https://arxiv.org/abs/1409.1556",
)
RECIPE = Recipe(
    model="vgg_d",
    size=224,
    stored=256,
    fit="crop",
    epochs=74,
    batch=256,
    optimizer=OptimizerSpec(name="sgd_alexnet", lr=0.01, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleSpec(name="plateau", factor=0.1, max_drops=3),
    augment=AugmentSpec(flip=True, lighting=0.1),
    keep="last",
    protocol="vgg-dense",
)


def expected(top1: float, top5: float, what: str, where: str) -> tuple[Expected, ...]:
    data = "ImageNet 2012 val"
    return tuple(
        Expected(value=value, unit="%", what=f"top-{k} error, {what}", data=data, where=where)
        for k, value in ((1, top1), (5, top5))
    )


VGG2014 = PublishedRecipe(
    name="vgg2014",
    recipe=RECIPE,
    claim="VGG-16 (D), trained at scale 256, has 8.8 % top-5 errors",
    data="ImageNet 2012",
    expected=expected(27.0, 8.8, "dense at Q = 256", "Table 3"),
    citation=CITATION,
    values={
        "model": ("vgg_d", "Table 1, column D"),
        "size": (224, "section 2.1"),
        "stored": (256, "section 3.1: fixed scale S = 256"),
        "epochs": (74, "section 3.1: 370K iterations, 74 epochs"),
        "batch": (256, "section 3.1"),
        "optimizer.lr": (0.01, "section 3.1"),
        "optimizer.momentum": (0.9, "section 3.1"),
        "optimizer.weight_decay": (5e-4, "section 3.1: L2 penalty multiplier"),
        "schedule.name": ("plateau", "section 3.1: when the validation accuracy stopped improving"),
        "schedule.factor": (0.1, "section 3.1"),
        "schedule.max_drops": (3, "section 3.1: decreased 3 times in total"),
        "augment.flip": (True, "section 3.1"),
        "augment.lighting": (0.1, "section 3.1: random RGB colour shift, as Krizhevsky et al. 2012"),
        "regularize.dropout": (None, "section 3.1: 0.5 in the first two dense layers, which the network has"),
        "protocol": ("vgg-dense", "section 3.2: dense layers as convolutions over the whole image, Q = S"),
    },
    chosen={
        "optimizer.name": "the form of momentum is not printed; that of Caffe, which section 4 names",
        "optimizer.decay_norm_and_bias": "not said of biases; they decay",
        "schedule.patience": "not printed; we wait three epochs",
        "normalize": "printed is the mean colour subtracted alone; here it is divided by the deviation too",
        "fit": "the paper crops anywhere in the rescaled rectangle; here the middle square is kept, and "
        "crops lie in it",
        "keep": "not printed; the weights at the end",
    },
    departures=(
        "the deeper networks begin with layers of a trained A (section 3.1): train vgg2014_a, then add "
        "--set init=RUN; without it all layers begin by the rule of Glorot and Bengio, of which the same "
        "section says that it makes those stages unnecessary",
    ),
    notes=("E, known as VGG-19, with the same values: --model vgg_e (27.3 and 9.0 %)",),
)
A = derive(
    VGG2014,
    "vgg2014_a",
    replace(RECIPE, model="vgg_a"),
    "VGG-11 (A), from which the deeper networks begin",
    expected=expected(29.6, 10.4, "dense at Q = 256", "Table 3"),
    values={"model": ("vgg_a", "Table 1, column A")},
    departures=(
        "initial weights by the rule of Glorot and Bengio; with the printed N(0, 0.1^2) the first step "
        "diverges on standardised images: --set model_options.initial=normal is that rule",
    ),
    notes=(),
)
AT_384 = derive(
    VGG2014,
    "vgg2014_384",
    replace(
        RECIPE,
        stored=384,
        optimizer=replace(RECIPE.optimizer, lr=0.001),
        protocol="vgg-dense@384",
    ),
    "VGG-16 (D), trained at scale 384, has 8.7 % top-5 errors",
    expected=expected(26.8, 8.7, "dense at Q = 384", "Table 3"),
    values={
        "stored": (384, "section 3.1: fixed scale S = 384"),
        "optimizer.lr": (0.001, "section 3.1: smaller, as it begins with the weights of S = 256"),
        "protocol": ("vgg-dense@384", "section 3.2: dense layers as convolutions, Q = S"),
    },
    departures=(
        "begins with the weights of S = 256 (section 3.1): train vgg2014, then add --pretrained RUN",
    ),
    notes=(),
)
JITTER = derive(
    VGG2014,
    "vgg2014_jitter",
    replace(
        RECIPE,
        stored=384,
        optimizer=replace(RECIPE.optimizer, lr=0.001),
        augment=replace(RECIPE.augment, scale_jitter=(256, 512)),
        protocol="vgg-multi-scale-jitter",
    ),
    "VGG-16 (D), trained at scales 256 to 512, has 7.5 % top-5 errors",
    expected=(
        *expected(24.8, 7.5, "dense at Q = 256, 384, 512", "Table 4"),
        *expected(25.6, 8.1, "dense at Q = 384", "Table 3"),
    ),
    values={
        "augment.scale_jitter": ((256, 512), "section 3.1: S drawn from [256, 512]"),
        "protocol": ("vgg-multi-scale-jitter", "section 4.2: Q = 256, 384, 512"),
    },
    chosen={
        "stored": "the middle of the scales, Q of Table 3, where validation looks; larger ones are enlarged "
        "from it",
        "optimizer.lr": "printed is fine-tuning with the same configuration; we take the 0.001 of S = 384",
    },
    departures=(
        "begins with the weights of S = 384 (section 3.1): train vgg2014_384, then add --pretrained RUN",
    ),
    notes=(),
)
RECIPES = (VGG2014, A, AT_384, JITTER)
