"""Trains with and without rematerialisation and prints, as JSON, what differs. Run by test_rematerialization.py.

`python rematerialized.py compare CASES`: CASES is JSON, name -> flags of a recipe; a line for each.
`python rematerialized.py memory FLAG...`: MiB that a step takes besides the state.
Keras' backend chooses the engine.
"""

import functools
import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.stream import train_stream
from tfvt.trainers.engines import configure_process, make_engine
from tfvt.trainers.loop import epoch_steps, stream_settings
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.distillation import training_task

STEPS = 3
STEPS_SCALED = 8  # the first ones overflow


@functools.cache
def devices_of(*flags):
    """Once: the collective operations of two strategies in one process mix up their keys."""
    return configure_process(parse_recipe(["--model.name=resnet18", "--data.records=none", *flags]))


def make(flags):
    """An engine and its batches."""
    recipe = parse_recipe(flags)
    devices = devices_of(*[flag for flag in flags if "distribution" in flag])
    keras.config.set_dtype_policy(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    task = training_task(recipe)
    engine = make_engine(recipe, task, epoch_steps(task, recipe), devices)

    def stream(share):
        return train_stream(task.train_records, task.samples(True), stream_settings(recipe), share)

    return engine, engine.train_batches(stream, lambda: None)


def train(flags):
    """The state before some steps and after them, the sums of training among it."""
    engine, batches = make(flags)
    before = engine.state()
    engine.train_steps(batches, STEPS_SCALED if "--precision=mixed_float16" in flags else STEPS)
    return before, engine.state()


def compare(flags):
    """By kind of array: how far training has moved one at most, and how far apart the two states are, as a share."""
    before, plain = train(flags)
    _, rematerialized = train([*flags, "--rematerialize=true"])
    same, moved, apart = True, {}, {}
    for (name, value), other in zip(plain.items(), rematerialized.values(), strict=True):  # some names count up
        if np.issubdtype(value.dtype, np.floating):
            moved[name], apart[name] = (np.abs(value.astype(np.float64) - v).max() for v in (before[name], other))
        else:
            same &= np.array_equal(value, other)
    report = {"integers": bool(same)}
    for kind in ("sums/loss", "moving", "optimizer", "model"):
        names = [name for name in moved if kind in name]
        largest = max([moved[name] for name in names], default=0)
        # What has no gradient but rounding counts by the others.
        shares = [apart[name] / (moved[name] + 1e-3 * largest) for name in names if largest]
        report[kind] = float(largest), float(max(shares, default=0))
        moved = {name: size for name, size in moved.items() if name not in names}
    return report


def memory(flags):
    engine, batches = make(flags)
    if keras.backend.backend() == "tensorflow":
        before = engine.peak_memory()
        engine.train_steps(batches, 1)
        return engine.peak_memory() - before
    state = [engine.arrays[id(variable)] for variable in engine.variables]
    return engine._step.lower(state, [], next(batches)).compile().memory_analysis().temp_size_in_bytes / 2**20


def main(what, *arguments):
    if "VIRTUAL_CPUS" in os.environ:  # of TensorFlow; JAX has a flag for it
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * int(os.environ["VIRTUAL_CPUS"])
        )
    if what == "memory":
        print(json.dumps(memory(arguments)))
        return
    for case, flags in json.loads(arguments[0]).items():
        print(json.dumps({case: compare(flags)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
