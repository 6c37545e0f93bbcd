"""A trained model as a SavedModel that takes image files: what production serves."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tfvt.data.images import EvalPreprocessing, decode_and_center_crop


def export_saved_model(
    model: keras.Model,
    directory,
    *,
    preprocessing: EvalPreprocessing,
    class_names: Sequence[str],
) -> Path:
    """Write `model` as a SavedModel whose default signature takes encoded images.

    Signature `serving_default`:

    - input `image`: string (B,), each the bytes of a JPEG, PNG, GIF, BMP or WebP file of any size; B of at least 1.
    - output `label`: int64 (B,), the class with the greatest probability, counted from 0.
    - output `name`: string (B,), its name.
    - output `probabilities`: float32 (B, num_classes).

    Decoding and the evaluation crop are inside, so a server cannot prepare images otherwise than the evaluation
    did. Two limits: EXIF rotation is not looked at, and CMYK files get TensorFlow's colours where conversion takes
    Pillow's. Bytes that are no image raise InvalidArgumentError.

    Args:
        model: from pixels (B, H, W, 3) in 0..255 to logits (B, num_classes), on the TensorFlow backend.
        directory: where to write; it appears complete or not at all.
        preprocessing: the evaluation's, with the size that the model was built for.
        class_names: one a class, in the order of the labels.

    Returns:
        The directory.

    Raises:
        ValueError: another backend, a directory that has content, or a size or class list that is not the model's.
    """
    directory = Path(directory)
    _check(model, directory, preprocessing, class_names)
    names = tf.constant(list(class_names))

    def serve(image):
        pixels = tf.map_fn(
            lambda encoded: decode_and_center_crop(encoded, preprocessing),
            image,
            fn_output_signature=tf.TensorSpec((*preprocessing.image_size, 3), tf.float32),
        )
        probabilities = tf.nn.softmax(tf.cast(model(pixels, training=False), tf.float32))
        label = tf.argmax(probabilities, axis=-1)
        return {"label": label, "name": tf.gather(names, label), "probabilities": probabilities}

    model(tf.zeros((1, *preprocessing.image_size, 3)))  # Keras exports what has been called
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=[tf.TensorSpec((None,), tf.string, name="image")])
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        written = Path(temporary) / "saved_model"
        archive.write_out(written, verbose=False)
        if directory.exists():
            directory.rmdir()  # it is empty, and rename wants it away
        os.rename(written, directory)
    return directory


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
