"""What an exported file gives on a run's records: calibration of int8, and its accuracy beside float's."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import track

from tfvt.data.order import HostShare
from tfvt.data.stream import StreamSettings, image_stream
from tfvt.export.conversion import Batch, named_inputs, named_outputs

from .engines.tensorflow_batches import readable
from .tasks.task import Task

CALIBRATION_IMAGES, CALIBRATION_PLACES, SEED = 128, 16, 0
MEASURED_IMAGES = 1000  # of a larger validation split: int8 of ImageNet's 50,000 would take half an hour


def calibration_batches(task: Task, model: keras.Model, network: keras.Model) -> Iterator[Batch]:
    """What the network sees of up to 128 images of the training split, prepared as for evaluation.

    They come from 16 places of the split, drawn with a fixed seed. They are read when the first is asked for.
    """
    data = dataclasses.replace(task.recipe.data, validation_split=task.recipe.data.train_split)
    of_training = type(task)(dataclasses.replace(task.recipe, data=data))
    seen: list[Batch] = []

    def record(inputs):
        seen.append(named_inputs(network, inputs))
        return forward(inputs)

    forward = _by_task(_forward(network), network)
    of_training.image_model(model)
    records = of_training.validation_records
    length = CALIBRATION_IMAGES // CALIBRATION_PLACES
    parts = max(1, records.num_examples // length)
    places = np.random.default_rng(SEED).choice(parts, min(parts, CALIBRATION_PLACES), replace=False)
    for place in sorted(places.tolist()):
        for sample in _samples(of_training, HostShare(parts, place), length):
            if sample["weight"][0] > 0:
                _evaluate(of_training, record, sample)
    yield from seen[:: -(-len(seen) // CALIBRATION_IMAGES)]  # an image may be seen through several windows


def compare(
    task: Task, model: keras.Model, network: keras.Model, quantize: str, run: Callable[[Batch], Any]
) -> list[str]:
    """Two lines: the task's figures of the network and of its quantised file, as its runtime runs it.

    They are on the validation split, or on the first thousand images of a larger one.
    """
    task.image_model(model)
    count = min(task.validation_records.num_examples, MEASURED_IMAGES)
    functions = {
        name: _by_task(function, network) for name, function in (("float", _forward(network)), (quantize, run))
    }
    totals = {name: {"images": 0.0} | task.no_sums() for name in functions}
    rows: dict[str, list] = {name: [] for name in functions}
    samples = _samples(task, HostShare(), count)
    console = Console(stderr=True)
    for sample in track(samples, "Accuracy", total=count, console=console, disable=not console.is_terminal):
        if not sample["weight"][0] > 0:
            continue
        for name, function in functions.items():
            sums, row = _evaluate(task, function, sample)
            for key, value in (sums | {"images": 1.0}).items():
                totals[name][key] = totals[name].get(key, 0.0) + np.asarray(value, np.float64)
            rows[name] += [] if row is None else [row]
    of_all = "" if count == task.validation_records.num_examples else f"the first {count} images of "
    where = f"{of_all}{task.validation_records.split}"
    return [f"{name}: {task.summary(task.figures(totals[name], rows[name]))} on {where}" for name in functions]


def _samples(task: Task, share: HostShare, count: int) -> Iterator[dict[str, np.ndarray]]:
    settings = StreamSettings(1, skip_damaged=task.recipe.data.skip_damaged)
    stream = image_stream(task.validation_records, task.samples(False), settings, share)
    with readable():
        yield from stream.take(count).as_numpy_iterator()


def _evaluate(task, forward, sample):
    """What one image adds to the sums, and its row."""
    if task.by_image:
        return task.evaluate_image(forward, {name: value[0] for name, value in sample.items()})
    outputs = keras.ops.convert_to_tensor(forward(sample["image"]))
    return task.sums(outputs, sample, sample["weight"]), None


def _forward(network):
    """The network as a function as files are: outputs by name."""
    return tf.function(lambda inputs: named_outputs(network, network(inputs, training=False)))


def _by_task(function, network):
    """A file as a function from what the task gives the network to what it reads: a detector's dict, or the logits."""

    def run(inputs):
        outputs = function(named_inputs(network, inputs) if len(network.inputs) > 1 else np.asarray(inputs))
        return outputs if len(outputs) > 1 else outputs["logits"]

    return run
