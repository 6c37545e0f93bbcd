"""What a run leaves for serving: the trained model, and the file beside it."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

import keras

from tfvt.errors import UsageError, one_line
from tfvt.export import Serving
from tfvt.files import local_file, whole_file, write_whole
from tfvt.trainers.errors import cannot_write
from tfvt.trainers.recipes.plain import as_plain

from .folder import Run

S = TypeVar("S", bound=Serving)


def write_serving(run: Run, serving: Serving) -> None:
    """Save beside the model what serving needs: for a classifier, its class names and the evaluation's crop."""
    text = json.dumps(as_plain(serving), indent=1, ensure_ascii=False) + "\n"
    write_whole(run.serving, text.encode())


def read_serving(run: Run, serving_class: type[S]) -> S:
    """Read what `write_serving` saved.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        return serving_class.from_plain(json.loads(run.serving.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{run.serving} cannot be read ({error}): `tfvt train --resume --output {run.folder}` writes it again"
        ) from error


def write_diverged(run: Run, what: str, records: Mapping[int, Sequence[int]]) -> None:
    """Save which records the steps around a divergence were trained on: their ids, by step."""
    content = {"what": what, "records_by_step": {str(step): list(ids) for step, ids in records.items()}}
    write_whole(run.diverged, (json.dumps(content) + "\n").encode())


def write_model(run: Run, model: keras.Model) -> None:
    """Save `model` as `final.keras`, with all its layers trainable: what is frozen is the recipe's affair.

    Raises:
        UsageError: the disk is full, or a limit stops the file.
    """
    model.trainable = True
    try:
        with whole_file(run.final_model, ".keras") as path:  # Keras checks the ending
            model.save(path)
    except OSError as error:
        then = f"`tfvt train --resume --output {run.folder}` writes it from the last checkpoint"
        raise cannot_write(run.final_model, error, then) from error


def read_model(run: Run) -> keras.Model:
    """The trained model.

    Raises:
        UsageError: training has not ended, or the file is damaged.
    """
    if not run.final_model.is_file():
        raise UsageError(
            f"{run.folder} has no final.keras, since training has not ended: "
            f"continue it with `tfvt train --resume --output {run.folder}`"
        )
    try:
        with local_file(run.final_model) as path:
            return keras.models.load_model(path, compile=False)
    except Exception as error:  # zipfile, HDF5 and Keras each raise their own errors for a file that is not whole
        raise UsageError(
            f"{run.final_model} cannot be read, it is damaged or of another Keras ({one_line(error)[:200]}): "
            f"`tfvt train --resume --output {run.folder}` writes it again from the last checkpoint"
        ) from error
