"""`fast`: our own procedure for the shortest way to a good network on an ordinary machine. No paper.

It is the recipe of the network `fastnet`, and of every network with batch norm that has none of its own.
"""

from __future__ import annotations

from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe, ScheduleSpec

FAST = Recipe(
    model="fastnet",
    epochs=15,
    batch=128,
    optimizer=OptimizerSpec(
        name="nesterov", lr=0.2, momentum=0.9, weight_decay=5e-4, decay_norm_and_bias=False
    ),
    schedule=ScheduleSpec(name="one-cycle", warmup=0.25),
    augment=AugmentSpec(shift=3, flip=True),
    label_smoothing=0.1,
)
