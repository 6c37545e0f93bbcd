"""A trained model as a SavedModel that takes image files, to serve in production."""

import os
import re
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from tfvt.checks import check_numbers
from tfvt.data.headers import checked_images
from tfvt.data.serving import Serving
from tfvt.files import fsync, temporary_folder
from tfvt.stores import AnyPath, StorePath, as_path

MAX_PIXELS = 2**26  # 8192 x 8192, as large as a phone's photographs; one such image takes up to 0.75 GB to decode


def export_saved_model(
    model: keras.Model, directory: AnyPath | str, serving: Serving, *, max_pixels: int = MAX_PIXELS
) -> AnyPath:
    """Write `model` as a SavedModel whose default signature takes encoded images.

    Signature `serving_default`: input `image`, string (B,) with B at least 1, each the bytes of a JPEG, PNG, BMP or
    WebP file; outputs as `serving.answer` names them, for a classifier (`tfvt.data.ClassificationServing`):

    - `label`: int64 (B,), the class with the greatest probability, counted from 0.
    - `name`: string (B,), its name.
    - `probabilities`: float32 (B, num_classes).

    The SavedModel contains decoding and the evaluation crop, so a server prepares images exactly as the evaluation
    did. Images that `tfvt.data.headers.checked_images` refuses, and bytes that do not decode, raise
    InvalidArgumentError for the whole request. docs/serving.md says which damage stays unnoticed.

    Args:
        model: from pixels (B, H, W, 3) in 0..255 to what `serving` takes, on the TensorFlow backend.
        directory: where to write, also "gs://bucket/folder"; it appears complete or not at all (in a store, its
            saved_model.pb does, without which nothing loads it).
        serving: turns an image into pixels, and the model's output into an answer.
        max_pixels: the most pixels, height times width, that an image of a request may have.

    Returns:
        The directory.

    Raises:
        ValueError: another backend, a directory that has content, a model that does not match `serving`, or
            `max_pixels` below 1.
        OSError: the directory cannot be written, for instance because the disk is full.
    """
    directory = as_path(directory)
    _check(model, directory, serving)
    check_numbers({"max_pixels": max_pixels})

    def signature(answer):
        images = tf.TensorSpec((None,), tf.string, name="image")
        return tf.function(lambda image: answer(checked_images(image, max_pixels)), input_signature=[images])

    signatures = {name: signature(answer) for name, answer in serving.signatures(model).items()}
    module = tf.Module()  # Keras' own export would write every weight twice
    module.weights = [variable.value for variable in model.variables]
    _write(module, signatures, directory)
    return directory


def _write(module, signatures, directory):
    """Save a module in `directory`, which appears complete or not at all."""
    if isinstance(directory, StorePath):
        with temporary_folder(directory) as temporary:
            _save(module, signatures, temporary, directory)
            _upload(temporary, directory)
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        written = Path(temporary) / "saved_model"
        _save(module, signatures, written, directory)
        for path in (*written.rglob("*"), written):
            fsync(path)
        if directory.exists():
            directory.rmdir()  # it is empty, and rename needs it gone
        os.rename(written, directory)
    fsync(directory.parent)


def _save(module, signatures, written, directory):
    try:
        tf.saved_model.save(module, str(written), signatures=signatures)
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", error.message)  # without the names of TensorFlow's nodes
        raise OSError(f"{directory} cannot be written: {reason}") from error


def _upload(written, directory):
    """Copy a SavedModel into a store, last the file without which nothing loads it."""
    for path in sorted(written.rglob("*"), key=lambda path: path.name == "saved_model.pb"):
        target = directory / path.relative_to(written).as_posix()
        if path.is_dir():
            target.mkdir()
        else:
            target.upload(path)


def _check(model, directory, serving):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"a SavedModel on image bytes needs the TensorFlow backend; KERAS_BACKEND is {keras.backend.backend()!r}"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not empty: choose another output, or remove it first")
    serving.check(model)
