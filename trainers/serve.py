"""`tfvt evaluate`, `predict` and `export`: what a finished run's model is used for.

Model, class names and preprocessing come from the run's folder; nothing is said twice.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfvt.data.classification import ClassificationSamples
from tfvt.data.images import decode_and_center_crop
from tfvt.data.records import RecordsError, open_records
from tfvt.data.stream import StreamSettings, eval_stream
from tfvt.tfrecords_tools.images import RejectedImageError, jpeg_damage, read_file, read_image
from tfvt.tfrecords_tools.sources import printable

from .distribution import Evaluator, check_backend, readable_batches
from .errors import LineParser, UsageError
from .recipe import parse_recipe
from .run import Run, Serving, open_run, read_model, read_serving


def evaluate(arguments: Sequence[str]) -> int:
    """Run `tfvt evaluate ARGUMENTS` and return its exit status."""
    parser = LineParser(prog="tfvt evaluate")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--records", default=None, help="other records than those of the run's recipe")
    parser.add_argument("--split", default=None, help="another split than the recipe's validation split")
    parser.add_argument("--batch_size", type=int, default=None, help="another size than the recipe's")
    call = parser.parse_args(list(arguments))
    run, model, serving = _open(call.run)
    data = parse_recipe(["--config", str(run.recipe)]).data
    batch_size = data.batch_size if call.batch_size is None else call.batch_size
    if batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, not {batch_size}")
    try:
        records = open_records(call.records or data.records, call.split or data.validation_split)
        samples = ClassificationSamples.of(records, serving.preprocessing)
        batches = eval_stream(records, samples, StreamSettings(batch_size))
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
        f"of {records.split} in {printable(records.directory)}"
    )
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Run `tfvt predict ARGUMENTS` and return its exit status: 1 when a file could not be read as an image."""
    parser = LineParser(prog="tfvt predict")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    call = parser.parse_args(list(arguments))
    _, model, serving = _open(call.run)
    status = 0
    for path in call.images:
        try:
            image = decode_and_center_crop(_read(path), serving.preprocessing)
        except (RejectedImageError, tf.errors.InvalidArgumentError) as error:
            print(f"{printable(path)}: rejected: {_reason(error)}")
            status = 1
            continue
        probabilities = tf.nn.softmax(tf.cast(model(image[None], training=False), tf.float32))[0].numpy()
        best = np.argsort(-probabilities, kind="stable")[:5]
        answers = ", ".join(f"{serving.class_names[index]} {probabilities[index]:.2%}" for index in best)
        print(f"{printable(path)}: {answers}")
    return status


def export(arguments: Sequence[str]) -> int:
    """Run `tfvt export ARGUMENTS` and return its exit status."""
    from tfvt.export import MAX_PIXELS, export_saved_model

    parser = LineParser(prog="tfvt export")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("output", nargs="?", type=Path, default=None, help="folder to write; default RUN/saved_model")
    parser.add_argument(
        "--max_pixels", type=int, default=MAX_PIXELS, help=f"largest image that is served, default {MAX_PIXELS}"
    )
    call = parser.parse_args(list(arguments))
    run, model, serving = _open(call.run)
    output = call.output or run.saved_model
    try:
        export_saved_model(
            model,
            output,
            preprocessing=serving.preprocessing,
            class_names=serving.class_names,
            max_pixels=call.max_pixels,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f"SavedModel: {printable(output)}")
    return 0


def _open(folder: Path) -> tuple[Run, keras.Model, Serving]:
    """A finished run: all that is needed to use it."""
    check_backend()
    run = open_run(folder)
    return run, read_model(run), read_serving(run)


def _read(path: Path) -> bytes:
    """An image file as conversion reads it: upright, CMYK as RGB. Evaluation saw such pixels.

    Raises:
        RejectedImageError: conversion would leave the file out, or `tfvt records verify` would name its image.
    """
    data = read_file(path)
    # What conversion takes with --jpeg alone; JPEG and PNG stay what they are.
    encoded = read_image(data, jpeg=not data.startswith((b"\xff\xd8", b"\x89PNG"))).encoded
    damage, may_be_harmless = jpeg_damage(encoded) or (None, True)
    if not may_be_harmless:
        raise RejectedImageError(f"JPEG {damage}")
    return encoded


def _reason(error: RejectedImageError | tf.errors.OpError) -> str:
    if isinstance(error, RejectedImageError):
        return str(error)
    return re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", error.message)  # without the names of TensorFlow's nodes
