"""`tfvt train --dry_run`: what a run would take, by a few steps that leave nothing behind."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import keras
import numpy as np

from tfvt.analysis.profiling import profile

from .loop import Loop

CALLS = 3  # training steps, and batches of evaluation; the first of them builds the graph


def dry_run(loop: Loop) -> int:
    """Take a few steps and print what the whole run would take. Nothing is written.

    Returns:
        The exit status, 0.
    """
    engine, recipe, say = loop.engine, loop.recipe, loop.log.say
    step, evaluation = _seconds(loop)
    peak = engine.peak_memory()  # before the host holds a copy of the state
    sizes = state_bytes(engine.state())
    validation = loop.task.validation_records.num_examples
    batch_size = recipe.data.batch_size
    one, many, count = "a batch", "batches", -(-validation // batch_size)
    if loop.task.by_image:
        one, many, count = "an image", "images", validation
    evaluations = -(-loop.num_epochs // recipe.evaluate_every)
    whole = timedelta(seconds=round(loop.num_steps * step + evaluations * count * evaluation))
    say(f"Dry run of {recipe.model.name}: nothing is written")
    say(f"Model:   {_describe(engine.trained_model(), recipe.data.train.image_size)}")
    say(
        f"Records: {loop.task.train_records.num_examples:,} training and {validation:,} validation images, "
        f"{loop.task.train_records.num_classes} classes"
    )
    say(
        f"Steps:   {loop.num_epochs} epochs of {loop.steps_per_epoch:,} steps of {batch_size:,} images, "
        f"{loop.num_steps:,} steps in all; {evaluations} evaluations of {count:,} {many}"
    )
    say(
        f"Time:    {step:.3g} s a step ({batch_size / step:.4g} images/s), {evaluation:.3g} s {one} of evaluation; "
        f"the whole run about {whole}"
    )
    say(f"Memory:  {_mib(peak * 2**20)} at most so far; " + ", ".join(f"{n} {_mib(b)}" for n, b in sizes.items()))
    return 0


def _seconds(loop: Loop) -> tuple[float, float]:
    """Seconds of a training step and of a batch of evaluation: medians without the first ones, if there are others."""
    engine = loop.engine
    evaluator = loop.evaluator
    batches, evaluated = loop.train_batches(lambda: None), iter(loop.validation_batches)
    evaluator.reset_sums("validation")
    steps = _timed(lambda _: engine.train_steps(batches, 1), lambda: engine.read_sums("train"), range(CALLS))
    evaluations = _timed(
        evaluator.eval_step, lambda: evaluator.read_sums("validation"), itertools.islice(evaluated, CALLS)
    )
    return statistics.median(steps[1:] or steps), statistics.median(evaluations[1:] or evaluations)


def _timed(call: Callable, wait: Callable, arguments) -> Sequence[float]:
    """Seconds of each call, with the wait for its argument before it and for the devices after it."""
    seconds, began = [], time.perf_counter()
    for argument in arguments:
        call(argument)
        wait()
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
    return seconds


def state_bytes(state: dict[str, np.ndarray]) -> dict[str, int]:
    """Bytes of the weights, of the optimizer and of the averaged weights in an engine's state."""
    parts = {"weights": "model/", "optimizer": "optimizer/", "averaged weights": "average/"}
    sizes = {
        part: sum(array.nbytes for name, array in state.items() if name.startswith(prefix))
        for part, prefix in parts.items()
    }
    return {part: size for part, size in sizes.items() if size}


def _describe(model: keras.Model, image_size: tuple[int, int]) -> str:
    """Parameters and multiply-adds, at the size of training images where the model takes any."""
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    text = f"{trainable:,} of {model.count_params():,} parameters trainable; "
    try:
        counted = profile(model, (*image_size, 3) if None in model.input_shape[1:] else None)
    except ValueError as error:
        return f"{text}multiply-adds are unknown ({error})"
    return f"{text}{counted.macs:,} multiply-adds per image of {'x'.join(map(str, counted.input_shape))}"


def _mib(size: float) -> str:
    mib = size / 2**20
    return f"{mib:,.0f} MiB" if mib >= 100 else f"{mib:.3g} MiB"
