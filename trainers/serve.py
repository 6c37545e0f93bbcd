"""`tfvt evaluate`, `predict` and `export`: what a finished run's model is used for.

Model, class names and preprocessing come from the run's folder; nothing is said twice.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from jsonargparse import ArgumentParser

from tfvt.data.images import decode_and_center_crop
from tfvt.data.pipeline import eval_dataset
from tfvt.data.records import RecordsError, open_records

from .distribution import Evaluator, readable_batches
from .errors import UsageError
from .recipe import parse_recipe
from .run import open_run, read_model, read_serving


def evaluate(arguments: Sequence[str]) -> int:
    """Run `tfvt evaluate ARGUMENTS` and return its exit status."""
    parser = ArgumentParser(prog="tfvt evaluate", exit_on_error=False)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--records", default=None, help="other records than those of the run's recipe")
    parser.add_argument("--split", default=None, help="another split than the recipe's validation split")
    parser.add_argument("--batch_size", type=int, default=None, help="another size than the recipe's")
    call = parser.parse_args(list(arguments))
    run = open_run(call.run)
    data = parse_recipe(["--config", str(run.recipe)]).data
    model = read_model(run)
    serving = read_serving(run)
    try:
        records = open_records(call.records or data.records, call.split or data.validation_split)
        batches = eval_dataset(records, serving.preprocessing, batch_size=call.batch_size or data.batch_size)
    except RecordsError as error:
        raise UsageError(str(error)) from error
    if records.class_names != serving.class_names:
        raise UsageError(
            f"{records.directory} has other classes than the run was trained on "
            f"({len(records.class_names)} and {len(serving.class_names)}, or other names)"
        )
    evaluator = Evaluator(model, tf.distribute.get_strategy())
    for batch in readable_batches(batches):
        evaluator.step(batch)
    metrics = evaluator.metrics()
    print(
        f"top-1 {metrics.top1:.2%}, top-5 {metrics.top5:.2%}, loss {metrics.loss:.4f} on {metrics.num_images} images "
        f"of {records.split} in {records.directory}"
    )
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Run `tfvt predict ARGUMENTS` and return its exit status: 1 when a file could not be read as an image."""
    parser = ArgumentParser(prog="tfvt predict", exit_on_error=False)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    call = parser.parse_args(list(arguments))
    run = open_run(call.run)
    model = read_model(run)
    serving = read_serving(run)
    status = 0
    for path in call.images:
        try:
            image = decode_and_center_crop(path.read_bytes(), serving.preprocessing)
        except (OSError, tf.errors.InvalidArgumentError) as error:
            print(f"{path}: cannot be read as an image: {_reason(error)}")
            status = 1
            continue
        probabilities = tf.nn.softmax(tf.cast(model(image[None], training=False), tf.float32))[0].numpy()
        best = np.argsort(-probabilities, kind="stable")[:5]
        answers = ", ".join(f"{serving.class_names[index]} {probabilities[index]:.2%}" for index in best)
        print(f"{path}: {answers}")
    return status


def export(arguments: Sequence[str]) -> int:
    """Run `tfvt export ARGUMENTS` and return its exit status."""
    from tfvt.export import export_saved_model

    parser = ArgumentParser(prog="tfvt export", exit_on_error=False)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("output", nargs="?", type=Path, default=None, help="folder to write; default RUN/saved_model")
    call = parser.parse_args(list(arguments))
    run = open_run(call.run)
    output = call.output or run.saved_model
    model = read_model(run)
    serving = read_serving(run)
    try:
        export_saved_model(model, output, preprocessing=serving.preprocessing, class_names=serving.class_names)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f"SavedModel: {output}")
    return 0


def _reason(error: OSError | tf.errors.OpError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", error.message)  # without the names of TensorFlow's nodes
