"""What of a model a format can hold in fewer bits: what was measured and is worth it, see docs/export.md."""

import math
from collections.abc import Mapping
from typing import Literal

import keras

from tfvt.layers import GroupedDense

FORMATS = ("savedmodel", "keras", "onnx", "openvino", "litert")
Quantize = Literal["int8", "float16", "dynamic"]
_OFFERED = {
    ("onnx", "convolutional net"): ("int8",),
    ("onnx", "transformer"): ("dynamic",),
    ("openvino", "convolutional net"): ("float16",),
    ("openvino", "transformer"): ("float16",),
    ("openvino", "detector"): ("float16",),
    ("litert", "convolutional net"): ("float16", "dynamic", "int8"),
    ("litert", "transformer"): ("float16", "dynamic"),
    ("litert", "detector"): ("float16", "dynamic"),
}


def model_kind(model: keras.Model) -> str:
    """A "detector" gives boxes, and most weights of a "convolutional net" are of convolutions; else "transformer"."""
    if isinstance(model.output, Mapping) and "boxes" in model.output:
        return "detector"
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, GroupedDense)
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, convolutions)]
    own = _entries(weight for layer in layers for weight in layer.weights)
    matrices = _entries(model.weights)
    return "convolutional net" if 2 * own > matrices else "transformer"


def _entries(weights):
    return sum(math.prod(weight.shape) for weight in weights if len(weight.shape) > 1)


def check_quantization(file_format: str, quantize: str | None, model: keras.Model) -> None:
    """Refuse what is not offered.

    Raises:
        ValueError: it is not; the message says what is, for this format and this kind of model.
    """
    if quantize is None:
        return
    kind = model_kind(model)
    offered = _OFFERED.get((file_format, kind), ())
    if quantize not in offered:
        others = f"choose {' or '.join(offered)}, or " if offered else ""
        raise ValueError(f"--quantize {quantize} is not offered for {file_format} and a {kind}: {others}leave it out")
