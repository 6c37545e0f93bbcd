"""The linear scaling rule: another batch size with rates in proportion."""

import dataclasses

from tfvt.errors import UsageError

from .plain import as_plain, flatten
from .ranges import LARGEST_INTEGER
from .recipe import Recipe

RATES = ("optimizer.learning_rate", "schedule.warmup_learning_rate", "schedule.final_learning_rate")


def scale_to(recipe: Recipe, batch_size: int) -> tuple[Recipe, str]:
    """`recipe` with another batch size and every learning rate in proportion, and a line that says what changed.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.1, https://arxiv.org/abs/1706.02677.

    Raises:
        UsageError: no such batch size, or a rate that leaves the range of its key.
    """
    if not 1 <= batch_size <= LARGEST_INTEGER:
        raise UsageError(f"--scale_to {batch_size}: expected a batch size from 1 to {LARGEST_INTEGER}")
    if batch_size == recipe.data.batch_size:
        return recipe, f"data.batch_size is {batch_size} already: nothing to scale"
    factor = batch_size / recipe.data.batch_size
    schedule = {"warmup_learning_rate": recipe.schedule.warmup_learning_rate * factor}
    if recipe.schedule.final_learning_rate is not None:
        schedule["final_learning_rate"] = recipe.schedule.final_learning_rate * factor
    try:
        scaled = dataclasses.replace(
            recipe,
            data=dataclasses.replace(recipe.data, batch_size=batch_size),
            optimizer=dataclasses.replace(recipe.optimizer, learning_rate=recipe.optimizer.learning_rate * factor),
            schedule=dataclasses.replace(recipe.schedule, **schedule),
        )
    except UsageError as error:
        raise UsageError(f"--scale_to {batch_size}: {error}") from error
    before, after = flatten(as_plain(recipe)), flatten(as_plain(scaled))
    rates = [f"{key} {before[key]:g} -> {after[key]:g}" for key in RATES if before[key] != after[key]]
    return scaled, "; ".join([f"data.batch_size {recipe.data.batch_size} -> {batch_size}", *rates])
