"""BN-Inception on ImageNet: Ioffe, Szegedy 2015, sections 4.2.1 and 4.2.2; lectures, batch normalisation.

Two rows of the paper's Figure 3: BN-x5 and BN-x30, thirty times the rate of Inception. Section 4.2.1 lists
what changed from Inception: a higher rate, no dropout, a fifth of the weight decay, a decay of the rate six
times as fast, no local response normalisation, a better shuffle, weaker photometric distortions.
"""

from __future__ import annotations

from dataclasses import replace

from convworks.recipes.published import Citation, Expected, PublishedRecipe, derive
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec

CITATION = Citation(
    key="ioffe2015batch",
    authors=("Sergey Ioffe", "Christian Szegedy"),
    title="Batch normalization: Accelerating deep network training by reducing internal covariate shift",
    venue="ICML",
    year=2015,
    url="https://arxiv.org/abs/1502.03167",
)
EVERY = 8 / 6  # epochs: GoogLeNet's 4 % every 8 epochs, "6 times faster"
RECIPE = Recipe(
    model="bn_inception",
    size=224,
    stored=256,
    fit="crop",
    epochs=150,
    batch=32,
    optimizer=OptimizerSpec(name="sgd", lr=0.045, momentum=0.9, weight_decay=4e-5),
    schedule=ScheduleSpec(name="exponential", factor=0.96, every=EVERY, staircase=True),
    augment=AugmentSpec(
        flip=True, area=(0.08, 1.0), lighting=0.05, brightness=0.25, contrast=0.25, saturation=0.25
    ),
    keep="last",
)
BN_INCEPTION2015 = PublishedRecipe(
    name="bn_inception2015",
    recipe=RECIPE,
    claim="batch norm with thirty times the rate reaches 74.8 %, and Inception's 72.2 % in 9 % of the steps",
    data="ImageNet 2012",
    expected=(
        Expected(
            value=74.8,
            unit="%",
            what="top-1 accuracy, one crop, after 6 million steps",
            data="ImageNet 2012 val",
            where="Figure 3",
        ),
        Expected(
            value=2.7,
            unit="million steps",
            what="to 72.2 % top-1 accuracy",
            data="ImageNet 2012 val",
            where="Figure 3",
        ),
    ),
    citation=CITATION,
    values={
        "model": ("bn_inception", "Figure 5"),
        "size": (224, "Figure 5"),
        "epochs": (150, "section 4.2.2: 6 million steps of 32 images"),
        "batch": (32, "section 4.2"),
        "optimizer.lr": (0.045, "section 4.2.2: BN-x30, thirty times Inception's 0.0015"),
        "schedule.name": ("exponential", "section 4.2.1: the learning rate decays exponentially"),
        "schedule.every": (EVERY, "section 4.2.1: 6 times faster than Inception's, Szegedy et al. section 6"),
        "schedule.factor": (0.96, "Szegedy et al. 2015, section 6"),
        "schedule.staircase": (True, "Szegedy et al. 2015, section 6"),
        "regularize.dropout": (None, "section 4.2.1: removed"),
        "protocol": ("centre", "section 4.2.2: a single crop"),
    },
    chosen={
        "optimizer.name": "a version of SGD with momentum there",
        "optimizer.momentum": "not printed; Inception's 0.9",
        "optimizer.weight_decay": "a fifth of Inception's, which is printed nowhere; we take 0.0002 / 5",
        "optimizer.decay_norm_and_bias": "not printed; every parameter decays",
        "augment.area": "not printed; Inception's",
        "augment.flip": "not printed; as for Inception",
        "augment.lighting": "section 4.2.1 reduces the distortions without numbers; half of Howard's",
        "augment.brightness": "section 4.2.1 reduces the distortions without numbers; half of Howard's",
        "augment.contrast": "section 4.2.1 reduces the distortions without numbers; half of Howard's",
        "augment.saturation": "section 4.2.1 reduces the distortions without numbers; half of Howard's",
        "stored": "not printed; 256",
        "fit": "not printed; the middle square",
        "normalize": "not printed; each channel is standardised",
        "keep": "not printed; the weights at the end",
    },
    departures=(
        "one process; the paper trains with several replicas at once",
        "every epoch has a new order; the paper also keeps examples of one shard apart",
    ),
    notes=("4.82 % top-5 test errors are an ensemble of six (section 4.2.3)",),
)
X5 = derive(
    BN_INCEPTION2015,
    "bn_inception2015_x5",
    replace(RECIPE, optimizer=replace(RECIPE.optimizer, lr=0.0075), epochs=75),
    "batch norm with five times the rate reaches Inception's 72.2 % in 2.1 million steps",
    expected=(
        Expected(
            value=2.1,
            unit="million steps",
            what="to 72.2 % top-1 accuracy",
            data="ImageNet 2012 val",
            where="Figure 3",
        ),
        Expected(
            value=73.0, unit="%", what="top-1 accuracy, one crop", data="ImageNet 2012 val", where="Figure 3"
        ),
    ),
    values={"optimizer.lr": (0.0075, "section 4.2.2: BN-x5, five times Inception's 0.0015")},
    chosen={"epochs": "not printed for this row; 3 million steps of 32 images"},
)
RECIPES = (BN_INCEPTION2015, X5)
