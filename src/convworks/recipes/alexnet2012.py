"""AlexNet on ImageNet: Krizhevsky, Sutskever, Hinton 2012, sections 2 to 6; lectures, AlexNet."""

from __future__ import annotations

from dataclasses import replace

from convworks.recipes.published import Citation, Expected, PublishedRecipe, derive
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec

CITATION = Citation(
    key="krizhevsky2012imagenet",
    authors=("Alex Krizhevsky", "Ilya Sutskever", "Geoffrey E. Hinton"),
    title="ImageNet classification with deep convolutional neural networks",
    venue="NIPS",
    year=2012,
)
RECIPE = Recipe(
    model="alexnet",
    size=224,
    stored=256,
    fit="crop",
    normalize="mean-image",
    epochs=90,
    batch=128,
    optimizer=OptimizerSpec(name="sgd_alexnet", lr=0.01, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleSpec(name="plateau", factor=0.1, max_drops=3),
    augment=AugmentSpec(flip=True, lighting=0.1),
    keep="last",
    protocol="10-crop",
)
ALEXNET2012 = PublishedRecipe(
    name="alexnet2012",
    recipe=RECIPE,
    claim="one network has 18.2 % top-5 errors on ImageNet 2012",
    data="ImageNet 2012",
    expected=(
        Expected(
            value=40.7, unit="%", what="top-1 error, ten crops", data="ImageNet 2012 val", where="Table 2"
        ),
        Expected(
            value=18.2, unit="%", what="top-5 error, ten crops", data="ImageNet 2012 val", where="Table 2"
        ),
        Expected(
            value=17.0, unit="%", what="top-5 error, ten crops", data="ImageNet 2010 test", where="Table 1"
        ),
    ),
    citation=CITATION,
    values={
        "model": ("alexnet", "section 3.5, Figure 2: two towers"),
        "size": (224, "section 4.1"),
        "stored": (256, "section 2: the shorter side becomes 256, and the middle 256x256 is cut out"),
        "fit": ("crop", "section 2"),
        "normalize": ("mean-image", "section 2: the training set's mean is subtracted from each pixel"),
        "epochs": (90, "section 5: roughly 90 cycles"),
        "batch": (128, "section 5"),
        "optimizer.name": ("sgd_alexnet", "section 5, the equation of the update"),
        "optimizer.lr": (0.01, "section 5"),
        "optimizer.momentum": (0.9, "section 5"),
        "optimizer.weight_decay": (5e-4, "section 5"),
        "optimizer.decay_norm_and_bias": (True, "section 5: the equation knows no exception"),
        "schedule.name": ("plateau", "section 5: when the validation error stopped improving"),
        "schedule.factor": (0.1, "section 5"),
        "schedule.max_drops": (3, "section 5: three times prior to termination"),
        "augment.flip": (True, "section 4.1"),
        "augment.lighting": (0.1, "section 4.1: standard deviation of the PCA colour shift"),
        "initialize": ("network", "section 5: N(0, 0.01^2), biases 1 in conv2, conv4, conv5, fc6, fc7"),
        "regularize.dropout": (None, "section 4.2: 0.5 in fc6 and fc7, which the network has"),
        "protocol": ("10-crop", "section 4.1: four corners and the centre, mirrored"),
    },
    chosen={
        "schedule.patience": "not printed, the rate was lowered by hand; we wait three epochs",
        "keep": "not printed; the weights at the end",
    },
    departures=(
        "pixels lie in [0, 1] before the mean is subtracted; the paper's are raw, presumably in [0, 255]",
        "dropout divides by the probability to keep while training, where the paper halves at test",
    ),
    notes=(
        "the lectures' 15.3 % are seven networks, some trained on more data; one network has 18.2 %",
        "with biases of 1 Caffe's authors saw a flat loss at the start: alexnet2012_caffe has 0.1",
    ),
)
CAFFE = derive(
    ALEXNET2012,
    "alexnet2012_caffe",
    replace(RECIPE, model_options={"bias": 0.1}),
    "as alexnet2012, with Caffe's initial biases of 0.1",
    expected=(),
    values={"model_options": ({"bias": 0.1}, "Caffe's pull request 327, not the paper")},
    departures=(
        *ALEXNET2012.departures,
        "initial biases of 0.1 where the paper has 1, with which the loss of Caffe's copy stayed flat",
    ),
)
RECIPES = (ALEXNET2012, CAFFE)
