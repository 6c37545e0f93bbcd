"""A model's forward pass in training, as the recipe wants it."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from tfvt.errors import UsageError, one_line
from tfvt.models.blocks import Rematerialized
from tfvt.trainers.recipes.recipe import Recipe


def training_forward(
    recipe: Recipe, model: keras.Model, checkpoint: Callable[[Callable], Callable]
) -> Callable[[Any], Any]:
    """A function from images to what `model` gives of them in training.

    Args:
        recipe: of the run.
        model: what is trained; its layers are frozen already.
        checkpoint: see `Rematerialized`.

    Raises:
        UsageError: the recipe rematerialises, and the model has no blocks.
    """
    if not recipe.rematerialize:
        return functools.partial(model, training=True)
    try:
        return Rematerialized(model, checkpoint)
    except ValueError as error:
        raise UsageError(f"rematerialize: {one_line(error)}") from error
