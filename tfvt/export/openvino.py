"""Any Keras model as a folder that OpenVINO reads, for processors and graphics of Intel."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from tfvt.export.conversion import SAVED_MODEL, Run, check_packages, check_target, converted
from tfvt.export.quantization import Quantize, check_quantization
from tfvt.files import whole_folder
from tfvt.stores import AnyPath

MODEL = "model.xml"  # beside model.bin, the weights


def export_openvino(model: keras.Model, directory: AnyPath | str, *, quantize: Quantize | None = None) -> AnyPath:
    """Write `model` as a folder with model.xml and model.bin.

    Inputs and outputs as of `tfvt.export.export_onnx`.

    Args:
        model: on the TensorFlow backend.
        directory: which appears complete or not at all; in a store, last the file without which nothing loads it.
        quantize: None or "float16", of the weights.

    Returns:
        The directory.

    Raises:
        ValueError: the directory exists, or OpenVINO cannot hold the model.
        ImportError: the extra `export` is not installed.
        OSError: the files cannot be written.
    """
    directory = check_target(directory)
    check_quantization("openvino", quantize, model)
    check_packages("openvino")
    with converted(model, "openvino", {"quantize": quantize}) as result, whole_folder(directory, last=MODEL) as written:
        shutil.copytree(result, written, dirs_exist_ok=True)
    return directory


def convert(folder: Path, target: Path, quantize: str | None) -> None:
    """The part of `export_openvino` that runs in a process of its own."""
    import openvino

    network = openvino.convert_model(str(folder / SAVED_MODEL))
    target.mkdir()
    openvino.save_model(network, target / MODEL, compress_to_fp16=quantize == "float16")


def open_openvino(directory: Path | str, threads: int | None = None) -> Run:
    """A folder as a function, by OpenVINO on the processor; otherwise as `tfvt.export.open_onnx`."""
    import openvino

    core = openvino.Core()
    config = {"INFERENCE_NUM_THREADS": threads} if threads else {}
    config["INFERENCE_PRECISION_HINT"] = "f32"  # new processors would compute in bfloat16
    network = core.compile_model(Path(directory) / MODEL, "CPU", config)
    inputs = [port.any_name for port in network.inputs]
    outputs = [port.any_name for port in network.outputs]

    def run(batch):
        given = batch if isinstance(batch, Mapping) else {inputs[0]: batch}
        values = network({name: np.asarray(given[name]) for name in inputs})
        return {name: np.array(values[index]) for index, name in enumerate(outputs)}

    return run
