"""Residual networks: He, Zhang, Ren, Sun 2015, sections 3.4 (ImageNet), 4.2 (CIFAR-10); lectures, ResNet."""

from __future__ import annotations

from dataclasses import replace

from convworks.recipes.published import Citation, Expected, PublishedRecipe, derive
from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec

CITATION = Citation(
    key="he2016deep",
    authors=("Kaiming He", "Xiangyu Zhang", "Shaoqing Ren", "Jian Sun"),
    title="Deep residual learning for image recognition",
    venue="CVPR",
    year=2016,
    url="https://arxiv.org/abs/1512.03385",
)
SGD = OptimizerSpec(name="sgd_alexnet", lr=0.1, momentum=0.9, weight_decay=1e-4)
CAFFE = "the form of momentum is not printed; that of Caffe, in which the models were released"
RAW = "pixels lie in [0, 1] before the mean is subtracted, and batch norm undoes the scale"

RESNET2015 = PublishedRecipe(
    name="resnet2015",
    claim="34 residual layers have 24.52 % top-1 errors, 34 plain ones 28.54 %",
    data="ImageNet 2012",
    expected=tuple(
        Expected(value=value, unit="%", what=what, data="ImageNet 2012 val", where="Table 3")
        for value, what in (
            (24.52, "top-1 error of ResNet-34 B, ten crops"),
            (7.46, "top-5 error of ResNet-34 B, ten crops"),
            (28.54, "top-1 error of the plain 34 layers, ten crops"),
            (22.85, "top-1 error of ResNet-50, ten crops"),
            (21.75, "top-1 error of ResNet-101, ten crops"),
            (21.43, "top-1 error of ResNet-152, ten crops"),
        )
    ),
    citation=CITATION,
    recipe=Recipe(
        model="resnet34",
        size=224,
        stored=368,
        fit="crop",
        normalize="mean-image",
        epochs=120,
        batch=256,
        optimizer=SGD,
        schedule=ScheduleSpec(name="plateau", factor=0.1, max_drops=3),
        augment=AugmentSpec(flip=True, scale_jitter=(256, 480), lighting=0.1),
        keep="last",
        protocol="10-crop",
    ),
    values={
        "model": ("resnet34", "Table 1, shortcuts B"),
        "size": (224, "section 3.4"),
        "normalize": ("mean-image", "section 3.4: the per-pixel mean is subtracted"),
        "epochs": (120, "section 3.4: up to 60 x 10^4 iterations of 256 images"),
        "batch": (256, "section 3.4"),
        "optimizer.lr": (0.1, "section 3.4"),
        "optimizer.momentum": (0.9, "section 3.4"),
        "optimizer.weight_decay": (1e-4, "section 3.4; the lectures print 0.001, which is an erratum"),
        "schedule.name": ("plateau", "section 3.4: when the error plateaus"),
        "schedule.factor": (0.1, "section 3.4"),
        "augment.scale_jitter": ((256, 480), "section 3.4"),
        "augment.flip": (True, "section 3.4"),
        "augment.lighting": (0.1, "section 3.4: the standard colour augmentation of Krizhevsky et al. 2012"),
        "initialize": ("network", "section 3.4: as He et al. 2015, variance 2 / fan-in"),
        "regularize.dropout": (None, "section 3.4: not used"),
        "protocol": ("10-crop", "section 3.4: the standard 10-crop testing, Table 3"),
    },
    chosen={
        "optimizer.name": CAFFE,
        "optimizer.decay_norm_and_bias": "not printed; every parameter decays",
        "schedule.patience": "not printed; we wait three epochs",
        "schedule.max_drops": "not printed; three",
        "stored": "the middle of the scales, at which validation looks; larger ones are enlarged from it",
        "fit": "the paper crops anywhere in the rescaled rectangle; here the middle square is kept, and "
        "crops lie in it",
        "keep": "not printed; the weights at the end",
    },
    departures=(RAW,),
    notes=(
        "the same values for the others: --model resnet18, resnet50, resnet101, resnet152, plain34",
        "4.49 % top-5 errors of one ResNet-152 need dense testing at 224, 256, 384, 480, 640 (section 3.4)",
    ),
)
CIFAR = Recipe(
    model="resnet20_cifar",
    size=32,
    normalize="mean-image",
    epochs=182,
    batch=128,
    optimizer=SGD,
    schedule=ScheduleSpec(name="step", milestones=(0.5, 0.75), factor=0.1),
    augment=AugmentSpec(shift=4, flip=True),
    keep="last",
)


def errors(rows: dict[str, float]) -> tuple[Expected, ...]:
    return tuple(
        Expected(value=value, unit="%", what=f"test error of {what}", data="CIFAR-10", where="Table 6")
        for what, value in rows.items()
    )


RESNET2015_CIFAR = PublishedRecipe(
    name="resnet2015_cifar",
    recipe=CIFAR,
    claim="20 residual layers have 8.75 % errors on CIFAR-10, 56 have 6.97 %",
    data="CIFAR-10",
    expected=errors({"ResNet-20": 8.75, "ResNet-32": 7.51, "ResNet-44": 7.17, "ResNet-56": 6.97}),
    citation=CITATION,
    values={
        "model": ("resnet20_cifar", "section 4.2, n = 3"),
        "size": (32, "section 4.2"),
        "normalize": ("mean-image", "section 4.2: the per-pixel mean is subtracted"),
        "epochs": (182, "section 4.2: 64k iterations of 128 of 45k images"),
        "batch": (128, "section 4.2"),
        "optimizer.lr": (0.1, "section 4.2"),
        "optimizer.momentum": (0.9, "section 4.2"),
        "optimizer.weight_decay": (1e-4, "section 4.2"),
        "schedule.name": ("step", "section 4.2"),
        "schedule.milestones": ((0.5, 0.75), "section 4.2: at 32k and 48k of 64k iterations"),
        "schedule.factor": (0.1, "section 4.2"),
        "augment.shift": (4, "section 4.2: a 32x32 crop of the image padded by 4"),
        "augment.flip": (True, "section 4.2"),
        "val_fraction": (
            0.2,
            "section 4.2: 45k for training and 5k for validation, half of the share beside a test split",
        ),
        "initialize": ("network", "section 4.2: as He et al. 2015, variance 2 / fan-in"),
        "regularize.dropout": (None, "section 4.2: no dropout"),
        "protocol": ("centre", "section 4.2: the single view of the 32x32 image"),
    },
    chosen={
        "optimizer.name": CAFFE,
        "optimizer.decay_norm_and_bias": "not printed; every parameter decays",
        "keep": "not printed; the weights at the end",
    },
    departures=(RAW,),
    notes=("the same for the others: --model resnet32_cifar, resnet44_cifar, resnet56_cifar, plain20_cifar",),
)
WARM_UP = 0.00625  # 400 of 64,000 iterations
DEEP = derive(
    RESNET2015_CIFAR,
    "resnet2015_cifar110",
    replace(CIFAR, model="resnet110_cifar", schedule=replace(CIFAR.schedule, warmup=WARM_UP)),
    "110 residual layers have 6.43 % errors on CIFAR-10, after a warm-up",
    expected=errors({"ResNet-110, the best of five": 6.43, "ResNet-110, mean of five": 6.61}),
    values={
        "model": ("resnet110_cifar", "section 4.2, n = 18"),
        "schedule.warmup": (WARM_UP, "section 4.2: about 400 iterations"),
    },
    departures=(
        RAW,
        "the warm-up rises in a line to 0.1; there it stays at 0.01 until the training error is below 80 %",
    ),
    notes=(),
)
RECIPES = (RESNET2015, RESNET2015_CIFAR, DEEP)
