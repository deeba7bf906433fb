"""MobileNet on ImageNet: Howard et al. 2017, section 3.2.

The paper prints the method, "RMSprop with asynchronous gradient descent similar to Inception V3", and that
there is less regularisation than for larger networks, but neither rate nor batch nor length.
"""

from __future__ import annotations

from convworks.recipes.published import Citation, Expected, PublishedRecipe
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec

CITATION = Citation(
    key="howard2017mobilenets",
    kind="misc",
    authors=(
        "Andrew G. Howard",
        "Menglong Zhu",
        "Bo Chen",
        "Dmitry Kalenichenko",
        "Weijun Wang",
        "Tobias Weyand",
        "Marco Andreetto",
        "Hartwig Adam",
    ),
    title="MobileNets: Efficient convolutional neural networks for mobile vision applications",
    venue="arXiv 1704.04861",
    year=2017,
    url="https://arxiv.org/abs/1704.04861",
)
DEPTHWISE = {f"conv{number}_dw": 0.0 for number in range(2, 15)}
MOBILENET2017 = PublishedRecipe(
    name="mobilenet2017",
    claim="4.2 million parameters and 569 million multiply-adds give 70.6 % top-1 accuracy",
    data="ImageNet 2012",
    expected=(
        Expected(value=70.6, unit="%", what="top-1 accuracy", data="ImageNet 2012 val", where="Table 6"),
        Expected(
            value=68.4,
            unit="%",
            what="top-1 accuracy at width 0.75",
            data="ImageNet 2012 val",
            where="Table 6",
        ),
    ),
    citation=CITATION,
    recipe=Recipe(
        model="mobilenet_v1_100_224",
        size=224,
        stored=256,
        fit="crop",
        epochs=100,
        batch=128,
        optimizer=OptimizerSpec(
            name="rmsprop", lr=1e-3, momentum=0.9, beta2=0.9, weight_decay=4e-5, group_decay=DEPTHWISE
        ),
        schedule=ScheduleSpec(name="exponential", factor=0.94, every=2.0, staircase=True),
        augment=AugmentSpec(flip=True, area=(0.5, 1.0)),
        keep="last",
    ),
    values={
        "model": ("mobilenet_v1_100_224", "Table 1"),
        "size": (224, "Table 1"),
        "optimizer.name": ("rmsprop", "section 3.2"),
        "optimizer.group_decay": (
            DEPTHWISE,
            "section 3.2: very little or no weight decay on the depthwise filters",
        ),
        "label_smoothing": (0.0, "section 3.2: not used"),
        "optimizer.beta2": (0.9, "Szegedy et al. 2016, Inception-v3, section 8"),
        "schedule.name": ("exponential", "Szegedy et al. 2016, section 8"),
        "schedule.factor": (0.94, "Szegedy et al. 2016, section 8"),
        "schedule.every": (2.0, "Szegedy et al. 2016, section 8: every two epochs"),
        "schedule.staircase": (True, "Szegedy et al. 2016, section 8: every two epochs"),
        "epochs": (100, "Szegedy et al. 2016, section 8"),
    },
    chosen={
        "batch": "not printed; we take 128",
        "optimizer.lr": "not printed; Inception-v3's 0.045 goes with an epsilon of 1 in the divisor, here it "
        "is the usual small one, and the rate is 0.001",
        "optimizer.momentum": "not printed; 0.9",
        "optimizer.weight_decay": "not printed; 0.00004",
        "optimizer.decay_norm_and_bias": "not printed; every other parameter decays",
        "augment.flip": "less augmentation than for large networks, without numbers; images are mirrored",
        "augment.area": "section 3.2 limits the size of small crops without a number; from half of the area",
        "stored": "not printed; 256",
        "fit": "not printed; the middle square",
        "normalize": "not printed; each channel is standardised",
        "protocol": "not printed; one centre crop",
        "keep": "not printed; the weights at the end",
    },
    departures=(
        "one process in place of asynchronous updates from many",
        "no running average of the weights is printed, and none is kept; Inception-v3 keeps one",
    ),
    notes=("the other widths and sizes with the same values: --model mobilenet_v1_050_160 --size 160",),
)
RECIPES = (MOBILENET2017,)
