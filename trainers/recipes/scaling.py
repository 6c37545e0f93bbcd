"""The linear scaling rule: another batch size with rates in proportion, and as many images."""

import dataclasses

from tfvt.errors import UsageError

from .plain import as_plain, flatten
from .ranges import LARGEST_INTEGER
from .recipe import Recipe

RATES = ("optimizer.learning_rate", "schedule.warmup_learning_rate", "schedule.final_learning_rate")
STEPS = ("steps", "schedule.warmup_steps", "schedule.decay_steps")


def scale_to(recipe: Recipe, batch_size: int) -> tuple[Recipe, str]:
    """`recipe` with another batch size and every learning rate in proportion, and a line that says what changed.

    Numbers of steps, where a recipe has them, change the other way: the run sees as many images as before.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.1, https://arxiv.org/abs/1706.02677.

    Raises:
        UsageError: no such batch size, or a number that leaves the range of its key.
    """
    if not 1 <= batch_size <= LARGEST_INTEGER:
        raise UsageError(f"--scale_to {batch_size}: expected a batch size from 1 to {LARGEST_INTEGER}")
    if batch_size == recipe.data.batch_size:
        return recipe, f"data.batch_size is {batch_size} already: nothing to scale"
    factor = batch_size / recipe.data.batch_size
    before = flatten(as_plain(recipe))
    values = {key: before[key] * factor for key in RATES if before[key] is not None}
    values |= {key: _scaled_steps(before[key], factor) for key in STEPS if before[key]}
    parts = {
        part: {key.removeprefix(f"{part}."): value for key, value in values.items() if key.startswith(f"{part}.")}
        for part in ("optimizer", "schedule")
    }
    try:
        scaled = dataclasses.replace(
            recipe,
            steps=values.get("steps"),
            data=dataclasses.replace(recipe.data, batch_size=batch_size),
            optimizer=dataclasses.replace(recipe.optimizer, **parts["optimizer"]),
            schedule=dataclasses.replace(recipe.schedule, **parts["schedule"]),
        )
    except UsageError as error:
        raise UsageError(f"--scale_to {batch_size}: {error}") from error
    after = flatten(as_plain(scaled))
    changes = [f"{key} {_text(before[key])} -> {_text(after[key])}" for key in values if before[key] != after[key]]
    return scaled, "; ".join([f"data.batch_size {recipe.data.batch_size} -> {batch_size}", *changes])


def _scaled_steps(steps, factor):
    """One number of steps, or several."""
    if isinstance(steps, list):
        return tuple(_scaled_steps(step, factor) for step in steps)
    return max(round(steps / factor), 1)


def _text(value):
    return f"{value:g}" if isinstance(value, float) else str(value)
