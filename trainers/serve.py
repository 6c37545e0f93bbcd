"""`tfvt evaluate`, `report` and `predict`: the uses of a finished run's model.

Model, task and what serving needs come from the run's folder, so the user does not have to repeat them.
"""

import dataclasses
import json
import re
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfvt.data import exif
from tfvt.data.stream import StreamSettings
from tfvt.errors import UsageError
from tfvt.export import Serving
from tfvt.files import printable, write_whole
from tfvt.folding import fuse
from tfvt.stores import AnyPath, as_path
from tfvt.tfrecords_tools.images import (
    RejectedImageError,
    jpeg_damage,
    open_image,
    orientation,
    read_file,
    read_image,
)

from .engines import check_backend, make_evaluator
from .errors import LineParser
from .loop import check_images, evaluator_of, validation_stream
from .loop import evaluate as evaluate_model
from .recipes.parsing import parse_recipe
from .recipes.recipe import Recipe
from .run.folder import Run, open_run
from .run.log import Figures
from .run.model import read_model, read_serving
from .run.report import write_report
from .tasks import task_class
from .tasks.task import Table, Task


def evaluate(arguments: Sequence[str]) -> int:
    """Run `tfvt evaluate ARGUMENTS` and return its exit status."""
    parser = LineParser(prog="tfvt evaluate")
    parser.add_argument("run", type=as_path, help="folder of a finished run")
    parser.add_argument("--records", default=None, help="records other than those of the run's recipe")
    parser.add_argument("--split", default=None, help="a split other than the recipe's validation split")
    parser.add_argument("--batch_size", type=int, default=None, help="a batch size other than the recipe's")
    call = parser.parse_args(list(arguments))
    _, recipe, model, serving = open_finished(call.run, "tensorflow", "jax")
    data = recipe.data
    batch_size = data.batch_size if call.batch_size is None else call.batch_size
    if batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, not {batch_size}")
    data = dataclasses.replace(
        data, records=call.records or data.records, validation_split=call.split or data.validation_split
    )
    task = task_class(recipe.model.name)(dataclasses.replace(recipe, data=data))
    figures = _evaluate(task, model, serving, batch_size)
    records, table = task.validation_records, task.table(figures.sums, figures.rows)
    if table:
        print(_text(table))
    print(
        f"{figures.words(task.summary)} on {figures.num_images} images "
        f"of {records.split} in {printable(records.directory)}"
    )
    return 0


def _text(table: Table) -> str:
    """A table as lines, its numbers one below the other."""
    lines = [table.columns, *table.rows]
    first, *others = ([len(line[column]) for line in lines] for column in range(len(table.columns)))
    return "\n".join(
        "  ".join([line[0].ljust(max(first)), *(c.rjust(max(w)) for c, w in zip(line[1:], others, strict=True))])
        for line in lines
    )


def report(arguments: Sequence[str]) -> int:
    """Run `tfvt report ARGUMENTS` and return its exit status."""
    parser = LineParser(prog="tfvt report")
    parser.add_argument("run", type=as_path, help="folder of a finished run")
    run, recipe, model, serving = open_finished(parser.parse_args(list(arguments)).run, "tensorflow", "jax")
    task = task_class(recipe.model.name)(recipe)
    write_report(run, task, _evaluate(task, model, serving, recipe.data.batch_size))
    print(f"Report: {printable(run.report)}")
    return 0


def _evaluate(task: Task, model: keras.Model, serving: Serving, batch_size: int) -> Figures:
    """The model's figures over the task's validation split."""
    check_classes(task, serving)
    evaluator = evaluator_of(make_evaluator(model, task, batch_size), task)
    settings = StreamSettings(batch_size, skip_damaged=task.recipe.data.skip_damaged)
    batches = evaluator.eval_batches(lambda share: validation_stream(task, settings, share))
    figures = evaluate_model(evaluator, task, batches, check_stop=lambda: None)
    check_images(task.validation_records.split, figures)
    return figures


def check_classes(task: Task, serving: Serving) -> None:
    """Refuse to measure a model on the validation records if they have other classes.

    Raises:
        UsageError: they have.
    """
    records = task.validation_records
    if serving.class_names and records.class_names != serving.class_names:
        raise UsageError(
            f"{records.directory} has other classes than the run was trained on "
            f"({len(records.class_names)} and {len(serving.class_names)}, or other names)"
        )


def predict(arguments: Sequence[str]) -> int:
    """Run `tfvt predict ARGUMENTS` and return its exit status: 1 if a file could not be read as an image."""
    parser = LineParser(prog="tfvt predict")
    parser.add_argument("run", type=as_path, help="folder of a finished run")
    parser.add_argument("images", nargs="+", type=as_path, help="image files")
    parser.add_argument("--output", type=as_path, default=None, help="folder for pictures of the answers")
    call = parser.parse_args(list(arguments))
    _, _, model, serving = open_finished(call.run, "tensorflow")
    answer_to = serving.answers(fuse(model))  # what `tfvt export` writes
    if call.output is not None:
        _check_pictures(call.images, call.output, serving)
        call.output.mkdir(parents=True, exist_ok=True)
    status, results = 0, []
    for path in call.images:
        try:
            image = serving.decode(tf.constant(read_encoded(path)))
        except (RejectedImageError, tf.errors.InvalidArgumentError) as error:
            print(f"{printable(path)}: rejected: {_reason(error)}")
            status = 1
            continue
        answer = {name: value.numpy() for name, value in answer_to(image).items()}
        if call.output is not None:
            for ending, content in serving.pictures(image.numpy(), answer).items():
                write_whole(call.output / f"{_stem(path)}{ending}", content)
            results += serving.results(printable(_stem(path)), image.numpy(), answer)
        print(f"{printable(path)}: {serving.describe(answer)}")
    if call.output is not None and serving.results_file:
        write_whole(call.output / serving.results_file, (json.dumps(results) + "\n").encode())
    return status


def _stem(path):
    return path.name.removesuffix(path.suffix)


def _check_pictures(images, output, serving):
    """Refuse to write pictures where there are none, or where one would replace an image or the picture of another."""
    if not serving.picture_endings:
        raise UsageError("--output: this run's model answers in one line and makes no pictures; leave --output out")
    taken = {str(path.absolute()): path for path in images}
    for path in dict.fromkeys(images):
        for ending in serving.picture_endings:
            picture = output / f"{_stem(path)}{ending}"
            if other := taken.get(str(picture.absolute())):
                raise UsageError(
                    f"--output: {printable(picture)}, a picture of {printable(path)}, would replace {printable(other)} "
                    "or its picture; choose another folder, or give the images in calls of their own"
                )
            taken[str(picture.absolute())] = path


def open_finished(folder: AnyPath, *backends: str) -> tuple[Run, Recipe, keras.Model, Serving]:
    """A finished run: everything needed to use it on one of these backends."""
    check_backend(*backends)
    run = open_run(folder)
    model = read_model(run)
    recipe = parse_recipe(["--config", str(run.recipe)])
    serving = read_serving(run, task_class(recipe.model.name).serving_class)
    try:
        serving.check(model)
    except ValueError as error:
        raise UsageError(f"{run.serving} does not go with {run.final_model}: {error}") from error
    return run, recipe, model, serving


def read_encoded(path: AnyPath) -> bytes:
    """An image file as conversion reads it: CMYK as RGB, and upright, where the model itself does not turn it.

    Raises:
        RejectedImageError: conversion would leave the file out, or `tfvt records verify` would name its image.
    """
    data = read_file(path)
    # Formats that conversion takes only with --jpeg; JPEG and PNG stay as they are.
    encoded = read_image(data, jpeg=not data.startswith((b"\xff\xd8", b"\x89PNG"))).encoded
    if encoded is not data and data.startswith(b"\xff\xd8") and _turned_by_the_model(data):
        return data  # as a served model sees it; `read_image` has checked it
    damage, may_be_harmless = jpeg_damage(encoded) or (None, True)
    if not may_be_harmless:
        raise RejectedImageError(f"JPEG {damage}")
    return encoded


def _turned_by_the_model(jpeg):
    """Whether nothing but its orientation, which a served model reads as well, had a JPEG encoded again."""
    image = open_image(jpeg)
    return image.mode != "CMYK" and int(exif.orientation(tf.constant(jpeg))) == orientation(image)


def _reason(error: RejectedImageError | tf.errors.OpError) -> str:
    if isinstance(error, RejectedImageError):
        return str(error)
    return re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", error.message)  # without the names of TensorFlow's nodes
