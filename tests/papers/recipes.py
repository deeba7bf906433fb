"""What the papers print about training, written down by hand; nothing here calls the code under test."""

from __future__ import annotations

from typing import Any

IMAGENET = 1_281_167  # training images of ImageNet 2012
# recipe -> the printed values, dotted key -> value
PRINTED: dict[str, dict[str, Any]] = {
    "lenet1998": {"model": "lenet5", "size": 32, "epochs": 20, "batch": 1},
    "alexnet2012": {
        "model": "alexnet",
        "size": 224,
        "stored": 256,
        "batch": 128,
        "optimizer.name": "sgd_alexnet",
        "optimizer.lr": 0.01,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0.0005,
        "schedule.name": "plateau",
        "schedule.factor": 0.1,
        "schedule.max_drops": 3,
        "epochs": 90,
        "augment.flip": True,
        "augment.lighting": 0.1,
        "normalize": "mean-image",
        "protocol": "10-crop",
    },
    "vgg2014": {
        "model": "vgg_d",
        "size": 224,
        "stored": 256,
        "batch": 256,
        "optimizer.lr": 0.01,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0.0005,
        "schedule.name": "plateau",
        "schedule.factor": 0.1,
        "schedule.max_drops": 3,
        "epochs": 74,
    },
    "vgg2014_a": {"model": "vgg_a", "batch": 256, "optimizer.lr": 0.01},
    "vgg2014_384": {"model": "vgg_d", "stored": 384, "optimizer.lr": 0.001},
    "vgg2014_jitter": {"model": "vgg_d", "augment.scale_jitter": (256, 512)},
    "googlenet2014": {
        "model": "googlenet",
        "optimizer.momentum": 0.9,
        "schedule.name": "exponential",
        "schedule.factor": 0.96,
        "schedule.every": 8.0,
        "augment.area": (0.08, 1.0),
        "augment.aspect": 4 / 3,
        "protocol": "144-crop",
    },
    "bn_inception2015": {"model": "bn_inception", "batch": 32, "optimizer.lr": 0.045},
    "bn_inception2015_x5": {"model": "bn_inception", "batch": 32, "optimizer.lr": 0.0075},
    "resnet2015": {
        "model": "resnet34",
        "size": 224,
        "batch": 256,
        "optimizer.lr": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0.0001,
        "schedule.name": "plateau",
        "schedule.factor": 0.1,
        "augment.scale_jitter": (256, 480),
        "augment.flip": True,
        "normalize": "mean-image",
    },
    "resnet2015_cifar": {
        "model": "resnet20_cifar",
        "batch": 128,
        "optimizer.lr": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 0.0001,
        "schedule.name": "step",
        "schedule.factor": 0.1,
        "augment.shift": 4,
        "augment.flip": True,
    },
    "resnet2015_cifar110": {"model": "resnet110_cifar", "batch": 128, "optimizer.lr": 0.1},
    "mobilenet2017": {"model": "mobilenet_v1_100_224", "optimizer.name": "rmsprop", "label_smoothing": 0.0},
    "mcdnn2012": {
        "model": "stack",
        "size": 29,
        "epochs": 800,
        "batch": 1,
        "optimizer.lr": 0.001,
        "schedule.factor": 0.993,
        "schedule.every": 1.0,
    },
}
# LeCun et al. 1998, section III-B: the global rate in each of the 20 passes.
LENET_RATES = [0.0005] * 2 + [0.0002] * 3 + [0.0001] * 3 + [0.00005] * 4 + [0.00001] * 8
# recipe -> (iterations, batch, training images): the printed lengths that are not in epochs
ITERATIONS = {
    "vgg2014": (370_000, 256, IMAGENET),
    "resnet2015": (600_000, 256, IMAGENET),
    "resnet2015_cifar": (64_000, 128, 45_000),
    "bn_inception2015": (6_000_000, 32, IMAGENET),
}
# recipe -> numbers that the paper prints as results
RESULTS = {
    "lenet1998": {0.95, 0.35},
    "alexnet2012": {40.7, 18.2, 17.0},
    "vgg2014": {27.0, 8.8},
    "vgg2014_a": {29.6, 10.4},
    "vgg2014_384": {26.8, 8.7},
    "vgg2014_jitter": {24.8, 7.5, 25.6, 8.1},
    "googlenet2014": {7.89, 9.15, 10.07, 6.67},
    "bn_inception2015": {74.8, 2.7},
    "resnet2015": {24.52, 7.46, 28.54, 22.85, 21.75, 21.43},
    "resnet2015_cifar": {8.75, 7.51, 7.17, 6.97},
    "resnet2015_cifar110": {6.43, 6.61},
    "mobilenet2017": {70.6, 68.4},
    "mcdnn2012": {0.23},
}
# Cireşan et al. 2012: 1x29x29-20C4-MP2-40C5-MP3-150N-10N, by arithmetic.
MCDNN_PARAMETERS = (16 * 20 + 20) + (20 * 25 * 40 + 40) + (40 * 3 * 3 * 150 + 150) + (150 * 10 + 10)
