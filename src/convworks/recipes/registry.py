"""All recipes that have a source, by name. One file for each paper."""

from __future__ import annotations

from convworks.recipes import (
    airbench2024,
    alexnet2012,
    bn_inception2015,
    googlenet2014,
    lenet1998,
    mcdnn2012,
    mlp128,
    mobilenet2017,
    resnet2015,
    vgg2014,
)
from convworks.recipes.published import PublishedRecipe

PAPERS = (
    lenet1998, alexnet2012, mcdnn2012, vgg2014, googlenet2014, bn_inception2015, resnet2015, mobilenet2017,
    mlp128, airbench2024,
)  # fmt: skip
PUBLISHED: dict[str, PublishedRecipe] = {row.name: row for paper in PAPERS for row in paper.RECIPES}
