"""Requests that TensorFlow Serving makes of a model when it has loaded it, so that no client waits for the first one.

Source: github.com/tensorflow/serving, `saved_model_warmup.md` and the messages in `apis/prediction_log.proto`,
`predict.proto` and `model.proto`. They are few fields, written here by hand: `tensorflow-serving-api` asks for a
TensorFlow of its own release.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfvt.stores import AnyPath

FILE = "tf_serving_warmup_requests"
SIZE = (240, 320)  # (height, width) of the image in a request

# Numbers of fields: PredictionLog.predict_log, PredictLog.request, PredictRequest.model_spec and .inputs, the key and
# the value of a map's entry, ModelSpec.signature_name.
_PREDICT_LOG, _REQUEST, _MODEL_SPEC, _INPUTS, _KEY, _VALUE, _SIGNATURE_NAME = 6, 1, 1, 2, 1, 2, 3
_BYTES = 2  # a field's kind: its length, then its content


def write_warm_up(path: AnyPath, signatures: Mapping[str, tf.DType], max_pixels: int) -> None:
    """Write one request to each signature as a TFRecord file.

    Args:
        path: of the file.
        signatures: name -> what its input "image" is: string, the bytes of files; or uint8 (B, H, W, 3).
        max_pixels: of an image that the model takes.

    Raises:
        tf.errors.OpError: the file cannot be written.
    """
    shrink = min(1.0, (max_pixels / (SIZE[0] * SIZE[1])) ** 0.5)
    height, width = (max(1, int(side * shrink)) for side in SIZE)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows + columns], -1).astype(np.uint8)
    batches = {tf.uint8: image[None], tf.string: np.array([tf.io.encode_jpeg(image).numpy()], object)}
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, dtype in signatures.items():
            writer.write(prediction_log(name, {"image": batches[dtype]}))


def prediction_log(signature: str, inputs: Mapping[str, Any]) -> bytes:
    """A `PredictionLog` with the request of these arrays by name to a signature."""
    request = _field(_MODEL_SPEC, _field(_SIGNATURE_NAME, signature.encode()))
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(_INPUTS, _field(_KEY, name.encode()) + _field(_VALUE, tensor))
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def _field(number, content):
    """A field of a protocol buffer; its number and length are below 2**4 and any."""
    length, digits = len(content), []
    while length >= 0x80:  # seven bits at a time, the lowest first
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | _BYTES, *digits, length]) + content
