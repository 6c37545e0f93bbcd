"""Any Keras model as a LiteRT (TensorFlow Lite) file, for telephones and small machines."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np

from tfvt.export.conversion import (
    SAVED_MODEL,
    SIGNATURE,
    Batch,
    Run,
    check_packages,
    check_target,
    converted,
    new_file,
    samples,
)
from tfvt.export.quantization import Quantize, check_quantization
from tfvt.stores import AnyPath


def export_litert(
    model: keras.Model, path: AnyPath | str, *, quantize: Quantize | None = None, calibration: Iterable[Batch] = ()
) -> AnyPath:
    """Write `model` as a LiteRT file of builtin operations alone, with the signature "serving_default".

    Inputs and outputs as of `tfvt.export.export_onnx`.

    Args:
        model: on the TensorFlow backend.
        path: of the file, also in a store; it appears complete or not at all.
        quantize: None, "float16", "dynamic" or "int8", see `tfvt.export.quantization`.
        calibration: for "int8", batches as the model takes them.

    Returns:
        The path.

    Raises:
        ValueError: the file exists, or LiteRT cannot hold the model; the message names the layer.
        ImportError: the extra `export` is not installed.
        OSError: the file cannot be written.
    """
    path = check_target(path)
    check_quantization("litert", quantize, model)
    check_packages("ai_edge_litert")
    options = {"quantize": quantize, "layers": _names(model)}
    with converted(model, "litert", options, calibration) as result, new_file(path) as temporary:
        temporary.write_bytes(result.read_bytes())
    return path


def _names(model):
    return [layer.name for layer in model._flatten_layers() if layer.name != model.name]


def convert(folder: Path, target: Path, quantize: str | None, layers: list[str]) -> None:
    """The part of `export_litert` that runs in a process of its own; `layers` are the names of the model's."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / SAVED_MODEL), signature_keys=[SIGNATURE])
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        batches = samples(folder)
        converter.representative_dataset = lambda: ((SIGNATURE, batch) for batch in batches)
    try:
        content = converter.convert()
    except Exception as error:  # of several kinds
        raise ValueError(refusal(str(error), layers)) from error
    target.write_bytes(content)


def refusal(text: str, layers: list[str]) -> str:
    """Of a converter's message, the layer and the operation of it that LiteRT does not have."""
    operation = re.search(r"'tf\.(\w+)' op is neither", text)
    place = re.search(r'"([^"@]+/[^"@]+)@', text)
    if not operation or not place:
        return f"LiteRT cannot hold this model: {text}"
    # TensorFlow numbers names that it has seen before.
    parts = [part if part in layers else re.sub(r"_\d+$", "", part) for part in place[1].split("/")]
    layer = "/".join(part for part in parts if part in layers) or place[1]
    return f"LiteRT has no builtin operation for the {operation[1]} of layer {layer}: choose onnx or openvino"


def open_litert(path: Path | str, threads: int | None = None) -> Run:
    """A file as a function, by LiteRT's interpreter; otherwise as `tfvt.export.open_onnx`."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), num_threads=threads).get_signature_runner(SIGNATURE)
    inputs = list(runner.get_input_details())

    def run(batch):
        given = batch if isinstance(batch, Mapping) else {inputs[0]: batch}
        return {
            name: np.array(value)
            for name, value in runner(**{name: np.asarray(given[name]) for name in inputs}).items()
        }

    return run
