"""What the lectures print and should not: the list that the verdicts and the notes refer to.

`numbers` says that a cell of the ledger recomputes it; the other rows are words, or results of experiments,
and appear as notes of their group. The basis of a correction is

    computed    follows by arithmetic from what is printed, or from the network itself
    lecture     two places of the lectures contradict each other
    literature  stands so in the source that is named
    memory      of the paper, not looked up again: check it before you quote it
"""

from __future__ import annotations

from typing import NamedTuple

from convworks.exercises.registry import ARCHITECTURES, COURSE, KERAS, LEARNING, VISION


class Erratum(NamedTuple):
    """One row: where it stands, what it says, and what it should say."""

    group: str
    where: str
    says: str
    remark: str
    basis: str
    numbers: bool = False


# fmt: off
ERRATA: dict[str, Erratum] = {
    "D1": Erratum("googlenet", ARCHITECTURES, "GoogLeNet's first convolution has 2.7K params, 34M ops",
        "a 7x7 convolution has 9.2K and 118M; the table means a separable one with depth multiplier 8",
        "computed; literature: TF-slim's inception_v2 has that layer", numbers=True),
    "D2": Erratum("googlenet", ARCHITECTURES, "the params column from 4a to 5b",
        "0.2 to 6.9 % (4c) below what the channels of the same lines give, and 5.3 % above in 5a; the ops "
        "are right but in 5a",
        "computed", numbers=True),
    "D3": Erratum("googlenet", ARCHITECTURES, "inception 5a has 54M operations",
        "51.1M; its params are 5 % too high as well, so that row is of another configuration",
        "computed", numbers=True),
    "D4": Erratum("googlenet", ARCHITECTURES, "K",
        "1024 in the params column, 112K = 114,688 / 1024; M is 10^6 in the ops column",
        "computed", numbers=True),
    "D5": Erratum("googlenet", ARCHITECTURES, "7 models and 144 crops: -3.45 %",
        "10.07 - 6.67 = 3.40",
        "computed", numbers=True),
    "D6": Erratum("googlenet", KERAS, "GoogLeNet has 16,063,912 parameters, 45 % of them dense",
        "13,378,280 with the auxiliary heads, 54.4 % dense; 6,998,552 without them, 14.6 % dense. 45.27 % of "
        "16,063,912 are the 7,271,352 dense parameters, so that 2.69M of convolutions are too many",
        "computed", numbers=True),
    "D7": Erratum("googlenet", ARCHITECTURES, "12x fewer parameters than AlexNet",
        "60.97M / 7.00M = 8.7; 12x would need 5.0M. The phrase is the paper's own",
        "computed; memory", numbers=True),
    "D8": Erratum("googlenet", ARCHITECTURES, "1.5B multiply-adds at training time",
        "at inference time, in the paper",
        "memory"),
    "D9": Erratum("resnet", f"{ARCHITECTURES}; {COURSE}", "FLOPs 3.6 and 3.8 x 10^9 of ResNet-34 and -50",
        "3.664 and 3.858, truncated and not rounded; they are multiply-adds, half of the operations. With "
        "the stride in the 3x3 ResNet-50 has 4.089",
        "computed", numbers=True),
    "D10": Erratum("resnet", ARCHITECTURES, "weight decay of 0.001 for ResNet",
        "0.0001 in the paper",
        "memory"),
    "D11": Erratum("alexnet", LEARNING, "CONV2 [27x27x26], CONV5 twice; the figure has 11x11 and 2x2sub",
        "27x27x256, and CONV5 once; CONV2 is 5x5 and the pooling 3x3 at stride 2",
        "computed", numbers=True),
    "D12": Erratum("alexnet", LEARNING, "without layers the performance drops by 1.1, 5.7, 3.0 and 33.5 %",
        "the printed paper (ECCV 2014) has 0.3, 4.3, 4.0 and 32.0 points top-5; the lecture has an earlier "
        "version. The 18.2 and 18.1 % of the whole network are right",
        "memory; literature"),
    "D13": Erratum("alexnet", LEARNING, "without layers 3 and 4: ~1 million parameters fewer",
        "1.70M in two towers, 2.51M in one",
        "computed", numbers=True),
    "D14": Erratum("lectures", LEARNING, "MNIST 0.17 %, traffic signs 0.56 %",
        "0.23 and 0.54 % (Ciresan et al. 2012); 1.16 % for humans is right, 9.3 % on CIFAR-10 is 9.32",
        "literature"),
    "D15": Erratum("lectures", VISION, "He initialisation with n = the number of outputs",
        "the number of inputs; the outputs belong to the variant for the backward pass",
        "memory"),
    "D16": Erratum("lectures", KERAS, "the second pooling sees 15/28 of the inputs",
        "16: odd kernels with 2x2 pooling at stride 2 give even fields. 15 would take 3x3 pooling",
        "computed", numbers=True),
    "D17": Erratum("alexnet", VISION, "7 CNNs: 18.2 % to 15.4 %",
        "15.4 is of the validation images (15.3 in the test), and these nets saw ImageNet 2011 before",
        "literature: Zeiler and Fergus 2014, Table 2"),
    "D18": Erratum("alexnet", ARCHITECTURES, "ILSVRC-2012: 15.3 %",
        "with external data; 16.4 % without, as a later table of the lecture says",
        "lecture; literature"),
    "D19": Erratum("lectures", ARCHITECTURES, "ImageNet has 21,831 synsets",
        "21,841",
        "literature"),
    "D20": Erratum("googlenet", ARCHITECTURES, "6.67 and 6.66 % for GoogLeNet, in two tables",
        "both are printed in papers; 6.66 in that of ResNet",
        "lecture"),
    "D21": Erratum("vgg", ARCHITECTURES, "the first two convolutional layers have 4,096 channels",
        "the fully connected layers have them; convolutions only in the dense evaluation",
        "memory", numbers=True),
    "D22": Erratum("alexnet", ARCHITECTURES, "response normalisation normalises mean and variance",
        "it divides by a sum over neighbouring channels; what is described is batch normalisation",
        "memory"),
    "D23": Erratum("resnet", ARCHITECTURES, "scale augmentation of AlexNet, random crops of VGG",
        "the other way round",
        "memory"),
    "D24": Erratum("lectures", ARCHITECTURES, "the variance of batch normalisation is a sum over i",
        "over j, the images of the batch",
        "computed"),
    "D25": Erratum("lectures", COURSE, "the gradient of lambda ||W||^2 is lambda w",
        "2 lambda w; or take half of it",
        "computed"),
    "D26": Erratum("lectures", COURSE, "mixup with lambda = 0.2 to 0.4",
        "these are the alpha of Beta(alpha, alpha), from which lambda is drawn",
        "memory"),
    "D27": Erratum("lectures", COURSE, "max-norm with c = {2, 3}",
        "3 to 4 in the paper on dropout",
        "memory"),
    "D28": Erratum("vgg", COURSE, "VGG-16 has errors of 28.07 and 9.33 %",
        "row C of the VGG table, 28.1 and 9.3; what people call VGG-16 is D, 27.0 and 8.8",
        "lecture"),
    "D29": Erratum("lectures", COURSE, "dropout with p",
        "the probability to keep there, to drop in PyTorch",
        "convention"),
    "D30": Erratum("lectures", COURSE, "the gradient to the batch mean lacks the variance's term",
        "that term is zero; harmless",
        "computed"),
    "D31": Erratum("lectures", COURSE, "a frame of k/2 keeps the size",
        "floor(k/2), and only for odd k",
        "computed", numbers=True),
    "D32": Erratum("lectures", LEARNING, "10^6 images against 10^3 of LeCun 1998",
        "MNIST has 6 x 10^4",
        "memory"),
    "D33": Erratum("lectures", LEARNING, "dE/dtheta is the sum of C/dtheta",
        "of dC/dtheta; and the update with + eta has a negative eta",
        "computed"),
    "D34": Erratum("lectures", f"{VISION}; {KERAS}", "Mass et al.; stride and dilation exclude each other",
        "Maas; and that is a limit of Keras, not a law",
        "convention"),
    "D35": Erratum("alexnet", ARCHITECTURES, "biases begin at 1",
        "as in the paper; Caffe had to take 0.1, because the loss stayed flat (BVLC/caffe pull request 327)",
        "literature"),
    "D36": Erratum("alexnet", "Krizhevsky et al. 2012, section 3.5", "the first layer has 253,440 neurons",
        "55 x 55 x 96 = 290,400; with 253,440 the sum would be 622,312 and not 650K",
        "computed; memory", numbers=True),
}
# fmt: on


def notes(group: str) -> dict[str, Erratum]:
    """The rows of a group that no number of the ledger shows."""
    return {name: row for name, row in ERRATA.items() if row.group == group and not row.numbers}
