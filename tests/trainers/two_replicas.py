"""Trains on two virtual CPU devices and on one; prints what they did as JSON. Run by test_engine.py."""

import itertools
import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfvt.errors import UsageError
from tfvt.trainers.engines import configure_process
from tfvt.trainers.engines import tensorflow as engines
from tfvt.trainers.recipes.parsing import parse_recipe
from tfvt.trainers.tasks.classification import Classification
from tfvt.trainers.tasks.distillation import Distillation

STRATEGIES = {"one": ["--distribution.strategy=default"], "two": ["--distribution.strategy=mirrored"]}
STRATEGIES["two"].append("--distribution.devices=[CPU:0,CPU:1]")
# Flags, and the layers between the network's convolution and its pooling.
CASES = {
    "without_norms": ([], list),
    "compiled": (["--jit_compile=true"], list),
    "synchronized_norms": ([], lambda: [keras.layers.BatchNormalization(synchronized=True)]),
    "plain_norms": ([], lambda: [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]),
}


class SmallModel(Classification):
    """The task with another network."""

    def __init__(self, recipe, make_layers):
        super().__init__(recipe)
        self.make_layers = make_layers

    def model(self):
        return small_model(self.make_layers)


def small_model(make_layers):
    return keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Rescaling(1 / 127.5, -1.0),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        *make_layers(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(6),
    ])  # fmt: skip


def batches():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (40, 32, 32, 3)).astype(np.float32)
    data = {"image": images, "label": rng.integers(0, 6, 40).astype(np.int32)}
    return tf.data.Dataset.from_tensor_slices(data).batch(8, drop_remainder=True)


def write_teachers(folder):
    """A network for larger images, as a file and as a SavedModel: the flags of a taught case of each."""
    teacher = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(),
                                keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(6)])  # fmt: skip
    teacher.save(folder / "teacher.keras")
    teacher.export(folder / "saved", verbose=False)
    return {f"taught_by_{path.stem}": ([f"--distillation.teacher={path}"], list) for path in folder.iterdir()}


def train(config, flags, make_layers=list):
    recipe = parse_recipe(["--config", config, "--optimizer.clip_global_norm=0.1", *flags])
    devices = configure_process(recipe)
    task = SmallModel(recipe, make_layers)
    task = Distillation(task) if recipe.distillation.teacher else task
    engine = engines.TensorFlowEngine(recipe, task, 6, devices)
    losses = []
    training = engine.train_batches(lambda share: batches(), check_stop=lambda: None)
    for _ in range(5):
        engine.train_steps(training, 1)
        sums = engine.read_sums("train")
        losses.append(float(sums["loss"] / sums["images"]))
    variables = itertools.chain.from_iterable(engine.update.variables.values())
    report = {"replicas": engine.strategy.num_replicas_in_sync, "losses": losses}
    if report["replicas"] == 2:
        copies = [[copy.numpy().astype(np.float64) for copy in variable.value.values] for variable in variables]
        report["replicas_differ_by"] = max(np.abs(first - second).max() for first, second in copies)
    return report, list(engine.state().values())


def compare(config, flags, make_layers):
    """One device and two."""
    runs = {name: train(config, [*flags, *strategy], make_layers) for name, strategy in STRATEGIES.items()}
    differences = [
        np.abs(one.astype(np.float64) - two).max() for one, two in zip(runs["one"][1], runs["two"][1], strict=True)
    ]
    return {name: run[0] for name, run in runs.items()} | {"largest_difference": max(differences)}


def main(config):
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # One strategy for all cases: the collective operations of two of them in one process mix up their keys.
    make, made = engines.make_strategy, {}
    engines.make_strategy = lambda recipe: made.get(recipe.strategy) or made.setdefault(recipe.strategy, make(recipe))
    with tempfile.TemporaryDirectory() as folder:
        cases = CASES | write_teachers(Path(folder))
        report = {case: compare(config, *settings) for case, settings in cases.items()}
    try:
        train(config, [*STRATEGIES["two"], "--data.batch_size=7"])
    except UsageError as error:
        report["indivisible"] = str(error)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
