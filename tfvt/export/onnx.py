"""Any Keras model as an ONNX file, for onnxruntime and others."""

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

OPSET = 18  # what onnxruntime, OpenVINO and the converter all know; Keras' own choice would be 15


def export_onnx(
    model: keras.Model,
    path: AnyPath | str,
    *,
    quantize: Quantize | None = None,
    calibration: Iterable[Batch] = (),
) -> AnyPath:
    """Write `model` as an ONNX file (opset 18).

    Inputs have the names and types of the model's, "image" float32 (batch, height, width, 3) in 0..255 for those of
    tfvt: sides that are None in the model, and the batch, stay open. Outputs are called as the keys of the model's
    dict, or "output".

    Args:
        model: on the TensorFlow backend.
        path: of the file, also in a store; it appears complete or not at all.
        quantize: None, "int8" or "dynamic", see `tfvt.export.quantization`.
        calibration: for "int8", batches as the model takes them.

    Returns:
        The path.

    Raises:
        ValueError: the file exists, or ONNX cannot hold the model.
        ImportError: the extra `export` is not installed.
        OSError: the file cannot be written.
    """
    path = check_target(path)
    check_quantization("onnx", quantize, model)
    check_packages("onnx", "tf2onnx", "onnxruntime")
    with converted(model, "onnx", {"quantize": quantize}, calibration) as result, new_file(path) as temporary:
        temporary.write_bytes(result.read_bytes())
    return path


def convert(folder: Path, target: Path, quantize: str | None) -> None:
    """The part of `export_onnx` that runs in a process of its own."""
    import onnx
    import onnxruntime

    proto = _proto(folder / SAVED_MODEL)
    _name_axes(proto)
    float_path = folder / "float.onnx"
    onnx.save(proto, float_path if quantize else target)
    if quantize:
        _quantize(float_path, target, quantize, samples(folder))
    try:
        session = onnxruntime.InferenceSession(target, _quiet(), providers=["CPUExecutionProvider"])
        for batch in samples(folder)[:1]:
            session.run(None, batch)
    except Exception as error:  # pybind's own classes
        raise ValueError(f"onnxruntime cannot run the file: {error}") from error


def _proto(saved_model):
    import tensorflow as tf
    import tf2onnx
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    patch_tf2onnx()  # for NumPy 2
    loaded = tf.saved_model.load(str(saved_model))  # its variables live as long as it does
    signature = loaded.signatures[SIGNATURE]
    specs = sorted(signature.structured_input_signature[1].values(), key=lambda spec: spec.name)
    infer = tf.function(
        lambda *tensors: signature(**{spec.name: tensor for spec, tensor in zip(specs, tensors, strict=True)}),
        input_signature=specs,
        autograph=False,
    )
    proto, _ = tf2onnx.convert.from_function(infer, specs, opset=OPSET)
    return proto


def _name_axes(proto):
    """Call the first axis of all inputs and outputs "batch", and the open sides of images "height" and "width"."""
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            for dim, name in zip(dims[1:3], ("height", "width"), strict=True):
                if not dim.dim_value:
                    dim.dim_param = name


def _quantize(source, target, quantize, batches):
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    if quantize == "dynamic":
        quantize_dynamic(prepared, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
        return

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(batches)

        def get_next(self):
            return next(self.batches, None)

    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _quiet(threads: int | None = None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    return options


def open_onnx(path: Path | str, threads: int | None = None) -> Run:
    """A file as a function, by onnxruntime on the processor.

    Args:
        path: of the file, on a disk.
        threads: of onnxruntime; None: its own choice.

    Returns:
        From arrays by the inputs' names, or one array for a single input, to the outputs by name.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, _quiet(threads), providers=["CPUExecutionProvider"])
    inputs = [x.name for x in session.get_inputs()]
    outputs = [x.name for x in session.get_outputs()]

    def run(batch):
        given = batch if isinstance(batch, Mapping) else {inputs[0]: batch}
        values = session.run(None, {name: np.asarray(given[name]) for name in inputs})
        return dict(zip(outputs, values, strict=True))

    return run
