"""Trains some steps with one engine and prints the losses as JSON. test_equal_numbers.py runs it in other processes.

`python equal_numbers.py STEPS WEIGHTS WORKER FLAG...`: the flags are those of a recipe. WEIGHTS is a file of initial
weights; the first process that finds none writes it. WORKER is the process's place, or none.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfvt.data.stream import train_stream
from tfvt.trainers.engines import configure_process, make_engine
from tfvt.trainers.engines.cluster import find_cluster
from tfvt.trainers.loop import epoch_steps, stream_settings
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.distillation import training_task


def start_from(engine, path):
    """Equal weights on all engines; the states of random generators are their own."""
    state = engine.state()
    if not path.exists():
        np.savez(path, **{name: array for name, array in state.items() if not name.startswith("sums")})
    with np.load(path) as saved:
        kinds = ("model/", "average/")
        chosen = {name: saved[name] for name in saved.files if name.startswith(kinds) and "seed" not in name}
    engine.restore(state | chosen)


def main(steps, weights, worker, *flags):
    if "VIRTUAL_CPUS" in os.environ:  # of TensorFlow; JAX has a flag for it
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * int(os.environ["VIRTUAL_CPUS"])
        )
    recipe = parse_recipe(flags)
    devices = configure_process(recipe, find_cluster(recipe.distribution, None if worker == "none" else int(worker)))
    task = training_task(recipe)
    engine = make_engine(recipe, task, epoch_steps(task, recipe), devices)
    start_from(engine, Path(weights))
    settings, seen = stream_settings(recipe), []

    def stream(share):
        for batch in train_stream(task.train_records, task.samples(True), settings, share).take(3).as_numpy_iterator():
            seen.append(batch["id"].tolist())
        return train_stream(task.train_records, task.samples(True), settings, share)

    batches = engine.train_batches(stream, lambda: None)
    losses = []
    for _ in range(int(steps)):
        engine.train_steps(batches, 1)
        sums = engine.read_sums("train")
        engine.reset_sums("train")
        losses.append(float(sums["loss"] / sums["images"]))
    report = {"losses": losses, "ids": seen, "chief": engine.is_chief}
    if hasattr(engine, "arrays"):  # JAX: the bytes that each device holds of all that is trained
        shards = [shard for array in engine.arrays.values() for shard in array.addressable_shards]
        held = {}
        for shard in shards:
            held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
        report["share_of_bytes"] = max(held.values()) / sum(array.nbytes for array in engine.arrays.values())
    state = engine.state()
    devices.gather(np.zeros(1, np.float32))
    report["weights"] = {n: float(np.abs(a).sum()) for n, a in state.items() if n.startswith("average/")}
    print(json.dumps(report), flush=True)
    os._exit(0)  # collective runtimes wait for each other at exit


if __name__ == "__main__":
    main(*sys.argv[1:])
