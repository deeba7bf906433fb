"""Advice on training from the numbers of a data set: each sentence with its rule and a command to run."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from convworks.data.doctor import IMBALANCED
from convworks.data.manifest import OK
from convworks.data.scan import scan
from convworks.data.store import probe
from convworks.evaluation.metrics import wilson
from convworks.flows.prepare import PHOTO_SIZE, DataRequest, choose_geometry
from convworks.flows.session import StopRequest
from convworks.recipes.recipe import Recipe
from convworks.training.planner import usable_cpus

FEW = 100  # training images of a class, below which published weights are advised for photographs
VERY_FEW = 20  # below which only the last stage should learn
PLENTY = 5_000  # of a class, from which augmentation brings little
WIDE = 0.1  # width of the 95 % interval of an accuracy of 0.9 that is called wide
LARGE = 4  # times the default input, from which a larger input is advised


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What advice follows from."""

    location: str
    counts: dict[str, int]  # class -> readable training images, without those held out for validation
    measured: int  # images that accuracy will be measured on
    channels: int
    side: int  # the shorter side of the median image


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A sentence, the rule that it follows, and what to run."""

    about: str
    text: str
    rule: str
    command: str


def advise(
    request: DataRequest, *, should_stop: StopRequest = lambda: False
) -> tuple[Statistics, tuple[Advice, ...]]:
    """Read every image, and say what suits them. Raises D1xx for data that cannot be understood, D144 where
    no image is readable, ScanInterrupted.

    What was decoded is kept in the cache folder, so that training afterwards begins at once.
    """
    recipe = Recipe()
    with request.open() as source:
        seen = probe(source)
        found = scan(
            source,
            indices=range(len(source.entries)),
            geometry=choose_geometry(recipe, seen),
            cache=request.cache,
            threads=usable_cpus(),
            strict=request.strict,
            should_stop=should_stop,
        )
        good = [
            (entry, record)
            for entry, record in zip(source.entries, found.records, strict=True)
            if record.verdict == OK
        ]
        classes = source.classes
    splits = Counter(entry.split for entry, _ in good)
    train = Counter(entry.label for entry, _ in good if entry.split in (None, "train"))
    drawn = 0.0 if splits["val"] else recipe.val_fraction / (2 if splits["test"] else 1)
    taken = round(drawn * train.total())
    facts = Statistics(
        location=request.location,
        counts={name: round((1 - drawn) * train[name]) for name in classes},
        measured=splits["test"] or splits["val"] or taken,
        channels=seen.channels,
        side=int(np.median([min(record.height, record.width) for _, record in good])) if good else 0,
    )
    return facts, tuple(advice_on(facts))


def advice_on(facts: Statistics) -> Iterator[Advice]:
    """The sentences that these numbers call for, most important first."""
    train = f"convworks train {shlex.quote(facts.location)}"
    least, most = min(facts.counts.values(), default=0), max(facts.counts.values(), default=0)
    smallest = min(facts.counts, key=lambda name: facts.counts[name], default="")
    photographs = facts.channels == 3 and facts.side > PHOTO_SIZE
    yield _model(facts, train, least, photographs=photographs)
    if photographs and least < FEW:
        yield from _transfer(train, least, smallest)
    elif least < FEW:
        yield Advice(
            about="transfer",
            text=f"'{smallest}' has {least:,} training images, which is little. Published weights are "
            "of large "
            "photographs and will help small or grey images less: begin with a run of your own on "
            "similar images.",
            rule=f"fewer than {FEW} training images in a class, and images that ImageNet's weights do "
            "not know",
            command=f"{train} --init runs/SIMILAR",
        )
    if least < PLENTY:
        yield _augmentation(facts, train)
    if least and most / least >= IMBALANCED:
        yield Advice(
            about="balance",
            text=f"The largest class has {most / least:.1f} times the images of '{smallest}'. Weight "
            "the classes, "
            "and go by balanced accuracy.",
            rule=f"largest over smallest class of at least {IMBALANCED:g}",
            command=f"{train} --set class_weights=balanced",
        )
    low, high = wilson(round(0.9 * facts.measured), facts.measured)
    if high - low > WIDE:
        yield Advice(
            about="measuring",
            text=f"Accuracy will be measured on {facts.measured:,} images: a measured 0.90 means "
            f"{low:.2f} to "
            f"{high:.2f}. Small differences between two runs are chance.",
            rule=f"95 % interval (Wilson) wider than {WIDE:g}",
            command=f"{train} --set val_fraction=0.3",
        )


def _model(facts: Statistics, train: str, least: int, *, photographs: bool) -> Advice:
    if facts.side <= PHOTO_SIZE and facts.channels == 1:
        return Advice(
            about="model",
            text=f"Small grey images ({facts.side} pixels): a small convolutional network is enough.",
            rule=f"one channel and a shorter side of at most {PHOTO_SIZE} pixels",
            command=f"{train} --model lenet5_modern",
        )
    if not photographs or facts.side < LARGE * PHOTO_SIZE // 2:
        return Advice(
            about="model",
            text=f"Images of {facts.side} pixels: the default network takes them as they are.",
            rule=f"a shorter side below {LARGE * PHOTO_SIZE // 2} pixels, or grey",
            command=train,
        )
    side = 224 if least < FEW else 2 * PHOTO_SIZE
    return Advice(
        about="size",
        text=f"Photographs of {facts.side} pixels are shrunk to {PHOTO_SIZE} by default. More pixels "
        "show more: "
        f"{side} cost about {round((side / PHOTO_SIZE) ** 2)} times as much time.",
        rule=f"a median shorter side of at least {LARGE * PHOTO_SIZE // 2} pixels",
        command=f"{train} --size {side}",
    )


def _transfer(train: str, least: int, smallest: str) -> Iterator[Advice]:
    pretrained = f"{train} --model resnet18 --pretrained imagenet1k_v1"
    yield Advice(
        about="transfer",
        text=f"'{smallest}' has {least:,} training images: too few to learn features from. Begin with "
        "published "
        "weights and train the last stage alone, on features that are computed once.",
        rule=f"fewer than {FEW} training images in a class (Zeiler, Fergus 2014, section 5.2; "
        "lectures, transfer "
        "learning)",
        command=f"{pretrained} --freeze backbone",
    )
    if least >= VERY_FEW:
        yield Advice(
            about="fine-tune",
            text="Then let more stages learn, the last ones first and fastest.",
            rule=f"at least {VERY_FEW} training images in every class; with fewer, later stages overfit",
            command=f"{pretrained} --unfreeze 2 --lr 0.005 --set optimizer.layer_decay=0.5",
        )


def _augmentation(facts: Statistics, train: str) -> Advice:
    least = min(facts.counts.values(), default=0)
    rule = f"fewer than {PLENTY:,} training images in a class"
    if facts.channels == 1:
        return Advice(
            about="augment",
            text=f"With {least:,} images in the smallest class, shift and turn a little. Do not "
            "mirror: grey images "
            "are often characters, and a mirrored one may be another.",
            rule=f"{rule}; one channel",
            command=f"{train} --set augment.shift=2 --set augment.rotate=10",
        )
    return Advice(
        about="augment",
        text=f"With {least:,} images in the smallest class, mirror and shift images, unless left and "
        "right differ "
        "in meaning; cut out or mix as well where the training accuracy is far above the other.",
        rule=f"{rule} (lectures, AlexNet: crops and mirror images against overfitting)",
        command=f"{train} --set augment.flip=true --set augment.shift=4",
    )


def to_dict(facts: Statistics, found: tuple[Advice, ...]) -> dict[str, Any]:
    """As JSON values."""
    return {"statistics": asdict(facts), "advice": [asdict(each) for each in found]}
