"""A trained model as a SavedModel that takes image files: what production serves."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tfvt.checks import check_numbers
from tfvt.data.headers import checked_images
from tfvt.data.images import EvalPreprocessing, decode_and_center_crop

MAX_PIXELS = 2**26  # 8192 x 8192, as many as a telephone takes; one image then takes up to 0.75 GB to decode


def export_saved_model(
    model: keras.Model,
    directory,
    *,
    preprocessing: EvalPreprocessing,
    class_names: Sequence[str],
    max_pixels: int = MAX_PIXELS,
) -> Path:
    """Write `model` as a SavedModel whose default signature takes encoded images.

    Signature `serving_default`:

    - input `image`: string (B,), each the bytes of a JPEG, PNG, BMP or WebP file; B of at least 1.
    - output `label`: int64 (B,), the class with the greatest probability, counted from 0.
    - output `name`: string (B,), its name.
    - output `probabilities`: float32 (B, num_classes).

    Decoding and the evaluation crop are inside, so a server cannot prepare images otherwise than the evaluation
    did. Images that `tfvt.data.headers.checked_images` refuses, and bytes that do not decode, raise
    InvalidArgumentError for the whole request. docs/serving.md says what is not noticed.

    Args:
        model: from pixels (B, H, W, 3) in 0..255 to logits (B, num_classes), on the TensorFlow backend.
        directory: where to write; it appears complete or not at all.
        preprocessing: the evaluation's, with the size that the model was built for.
        class_names: one a class, in the order of the labels.
        max_pixels: the most pixels, height times width, that an image of a request may have.

    Returns:
        The directory.

    Raises:
        ValueError: another backend, a directory that has content, a size or class list that is not the model's, or
            `max_pixels` below 1.
        OSError: the directory cannot be written, for instance because the disk is full.
    """
    directory = Path(directory)
    _check(model, directory, preprocessing, class_names)
    check_numbers({"max_pixels": max_pixels})
    names = tf.constant(list(class_names))

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image")])
    def serve(image):
        pixels = tf.map_fn(
            lambda encoded: decode_and_center_crop(encoded, preprocessing),
            checked_images(image, max_pixels),
            fn_output_signature=tf.TensorSpec((*preprocessing.image_size, 3), tf.float32),
            parallel_iterations=1,  # more would decode as many images of `max_pixels` at once
        )
        probabilities = tf.nn.softmax(tf.cast(model(pixels, training=False), tf.float32))
        label = tf.argmax(probabilities, axis=-1)
        return {"label": label, "name": tf.gather(names, label), "probabilities": probabilities}

    module = tf.Module()  # Keras' own export would write every weight twice
    module.weights = [variable.value for variable in model.variables]
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        written = Path(temporary) / "saved_model"
        try:
            tf.saved_model.save(module, str(written), signatures=serve)
        except tf.errors.OpError as error:
            raise OSError(f"{directory} cannot be written: {error.message}") from error
        for path in (*written.rglob("*"), written):
            _fsync(path)
        if directory.exists():
            directory.rmdir()  # it is empty, and rename wants it away
        os.rename(written, directory)
    _fsync(directory.parent)
    return directory


def _fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(model, directory, preprocessing, class_names):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"a SavedModel on image bytes needs the TensorFlow backend; KERAS_BACKEND is {keras.backend.backend()!r}"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not empty: choose another output, or remove it first")
    size = tuple(model.input_shape[1:3])
    if any(side not in (None, expected) for side, expected in zip(size, preprocessing.image_size, strict=True)):
        raise ValueError(f"the model takes images of {size}, preprocessing.image_size is {preprocessing.image_size}")
    if len(class_names) != model.output_shape[-1]:
        raise ValueError(f"{len(class_names)} class names for a model with {model.output_shape[-1]} classes")
