"""The lectures' series on MNIST: a hidden layer of 128 units, with an L2 term, with L2 and sparsity.

The slides show histograms and print no number but the 128. Hidden units are sigmoids in all three, because
the sparsity term asks for outputs between 0 and 1: the runs differ in nothing but their terms.
"""

from __future__ import annotations

from dataclasses import replace

from convworks.recipes.published import Citation, PublishedRecipe, derive
from convworks.recipes.recipe import OptimizerSpec, Recipe, RegularizeSpec, ScheduleSpec

CITATION = Citation(
    key="lectures",
    kind="misc",
    authors=("Lectures",),
    title="Deep learning: generalization, examples on MNIST",
    venue="lectures, regularization",
)
SPEC = "dense 128 sigmoid, dense K"
HIDDEN = "dense1.sigmoid"  # the layer whose outputs the sparsity term sees
RECIPE = Recipe(
    model="stack",
    model_options={"spec": SPEC},
    size=28,
    epochs=10,
    batch=128,
    optimizer=OptimizerSpec(name="adam", lr=1e-3, weight_decay=0.0),
    schedule=ScheduleSpec(name="cosine"),
    keep="last",
)
BASELINE = PublishedRecipe(
    name="mlp128_baseline",
    recipe=RECIPE,
    claim="one hidden layer of 128 units, nothing held back",
    data="MNIST",
    citation=CITATION,
    values={
        "model_options": ({"spec": SPEC}, "examples MNIST: one hidden layer of 128 dim"),
        "regularize.l2_plain": (0.0, "examples MNIST: the first of the series"),
        "regularize.sparsity": (0.0, "examples MNIST: the first of the series"),
    },
    chosen={
        "model": "the network is a line of text",
        "size": "MNIST's 28 pixels",
        "epochs": "not printed; 10",
        "batch": "not printed; 128",
        "optimizer.name": "not printed; Adam",
        "optimizer.lr": "not printed; 0.001, Adam's own",
        "optimizer.momentum": "not printed; 0.9, Adam's own",
        "optimizer.weight_decay": "none, as the series is about the term",
        "schedule.name": "not printed; a cosine",
        "normalize": "not printed; standardised",
        "protocol": "one view of each digit",
        "keep": "the weights at the end, of which the histograms are",
    },
    notes=("weights and activations of the three side by side: convworks demo regularization",),
    of="the lectures'",
)
L2_STRENGTH, SPARSITY, TARGET = 1e-4, 1e-3, 0.05
L2 = derive(
    BASELINE,
    "mlp128_l2",
    replace(RECIPE, regularize=RegularizeSpec(l2_plain=L2_STRENGTH)),
    "the same with an L2 term: smaller weights",
    chosen={"regularize.l2_plain": "the term is lambda sum w^2, lambda is not printed; we take 0.0001"},
    departures=("biases are not in the term, as is usual; the lectures write all w",),
)
L2_SPARSITY = derive(
    L2,
    "mlp128_l2_sparsity",
    replace(
        RECIPE,
        regularize=RegularizeSpec(
            l2_plain=L2_STRENGTH, sparsity=SPARSITY, sparsity_target=TARGET, sparsity_layers=(HIDDEN,)
        ),
    ),
    "the same with L2 and sparsity: few units are active at a time",
    chosen={
        "regularize.sparsity": "the term is the cross-entropy of target and mean activation, its strength is "
        "not printed; we take 0.001",
        "regularize.sparsity_target": "p is not printed; 0.05",
        "regularize.sparsity_layers": "the hidden layer",
    },
)
RECIPES = (BASELINE, L2, L2_SPARSITY)
