"""A trained model as a SavedModel that takes image files, to serve in production."""

import json
import re

import keras
import tensorflow as tf

from tfvt.checks import check_numbers
from tfvt.data.headers import checked_images, checked_pixels
from tfvt.data.serving import Serving
from tfvt.errors import WriteError
from tfvt.export.warm_up import FILE as WARM_UP
from tfvt.export.warm_up import write_warm_up
from tfvt.files import whole_folder
from tfvt.folding import fuse
from tfvt.stores import AnyPath, as_path

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

    Further signatures:

    - `image`: the same answer of images that the client decoded, `image` uint8 (B, H, W, 3).
    - `features`, of a classifier: `features` float32 (B, C), what its layer "head" reads.
    - `class_names`: takes nothing, gives `class_names` string (num_classes,).
    - what else `serving.signatures` has.

    Beside the model, `assets.extra` holds `class_names.json`, a list, and `tf_serving_warmup_requests`, a request to
    each signature that takes images, which TensorFlow Serving sends itself before it answers clients.

    Batch norms are folded (`tfvt.fuse`), every weight is written once, and JPEGs are turned as their EXIF header says.
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
        WriteError: the directory cannot be written, for instance because the disk is full.
    """
    directory = as_path(directory)
    _check(model, directory, serving)
    check_numbers({"max_pixels": max_pixels})
    fused = fuse(model)
    takes = {"serving_default": tf.string, "image": tf.uint8}
    answers = serving.signatures(fused)
    answers["image"] = answers["serving_default"]
    takes |= {name: tf.string for name in answers if name not in takes}
    signatures = {name: _signature(answers[name], dtype, max_pixels) for name, dtype in takes.items()}
    names = list(serving.class_names)
    if names:
        signatures["class_names"] = tf.function(lambda: {"class_names": tf.constant(names)}, input_signature=[])
    module = tf.Module()  # Keras' own export would write every weight twice
    module.weights = [variable.value for variable in fused.variables]

    with whole_folder(directory, last="saved_model.pb") as folder:
        try:
            tf.saved_model.save(module, str(folder), signatures=signatures)
            extra = folder / "assets.extra"  # as TensorFlow Serving calls it
            extra.mkdir()
            write_warm_up(extra / WARM_UP, takes, max_pixels)
        except tf.errors.OpError as error:
            reason = re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", error.message)  # without the names of TensorFlow's nodes
            raise WriteError(None, reason, str(directory)) from error
        if names:
            (extra / "class_names.json").write_text(json.dumps(names, ensure_ascii=False), "utf-8")
    return directory


def _signature(answer, dtype, max_pixels):
    """`answer` as a function of images of a request, after a check of them."""
    shape, check = ((None,), checked_images) if dtype == tf.string else ((None, None, None, 3), checked_pixels)
    images = tf.TensorSpec(shape, dtype, name="image")
    return tf.function(lambda image: answer(check(image, max_pixels)), input_signature=[images])


def _check(model, directory, serving):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"a SavedModel on image bytes needs the TensorFlow backend; KERAS_BACKEND is {keras.backend.backend()!r}"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not empty: choose another output, or remove it first")
    serving.check(model)
