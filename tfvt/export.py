"""A trained model as a SavedModel that takes image files, to serve in production."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfvt.checks import check_numbers
from tfvt.data.headers import checked_images
from tfvt.files import fsync, temporary_folder
from tfvt.stores import AnyPath, StorePath, as_path

MAX_PIXELS = 2**26  # 8192 x 8192, as large as a phone's photographs; one such image takes up to 0.75 GB to decode


class Serving(Protocol):
    """What a task does around its model: from the bytes of an image to an answer.

    A dataclass of plain values: `from_plain` reads what JSON holds of it.

    Attributes:
        image_size: (height, width) that the model takes.
        class_names: in the order of the labels; () where answers name no classes.
    """

    image_size: tuple[int, int]
    class_names: tuple[str, ...]

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Serving":
        """From what JSON holds.

        Raises:
            KeyError, TypeError, ValueError: `content` holds something else.
        """

    def check(self, model: keras.Model) -> None:
        """Raise a ValueError if the model does not match this object."""

    def decode(self, encoded: tf.Tensor) -> tf.Tensor:
        """float32 (H, W, 3), 0..255, of an encoded image, a scalar string; graph code."""

    def answer(self, outputs: Any) -> dict[str, tf.Tensor]:
        """The answer to a client, (B, ...) by name, from the model's outputs for B images; graph code."""

    def describe(self, answer: Mapping[str, np.ndarray]) -> str:
        """The answer for one image on one line, for people."""


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

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image")])
    def serve(image):
        pixels = tf.map_fn(
            serving.decode,
            checked_images(image, max_pixels),
            fn_output_signature=tf.TensorSpec((*serving.image_size, 3), tf.float32),
            parallel_iterations=1,  # n would decode n images of `max_pixels` at once
        )
        return serving.answer(model(pixels, training=False))

    module = tf.Module()  # Keras' own export would write every weight twice
    module.weights = [variable.value for variable in model.variables]
    _write(module, serve, directory)
    return directory


def _write(module, signature, directory):
    """Save a module in `directory`, which appears complete or not at all."""
    if isinstance(directory, StorePath):
        with temporary_folder(directory) as temporary:
            _save(module, signature, temporary, directory)
            _upload(temporary, directory)
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        written = Path(temporary) / "saved_model"
        _save(module, signature, written, directory)
        for path in (*written.rglob("*"), written):
            fsync(path)
        if directory.exists():
            directory.rmdir()  # it is empty, and rename needs it gone
        os.rename(written, directory)
    fsync(directory.parent)


def _save(module, signature, written, directory):
    try:
        tf.saved_model.save(module, str(written), signatures=signature)
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
    size = tuple(model.input_shape[1:3])
    if any(side not in (None, expected) for side, expected in zip(size, serving.image_size, strict=True)):
        raise ValueError(f"the model takes images of {size}, preprocessing.image_size is {serving.image_size}")
    serving.check(model)
