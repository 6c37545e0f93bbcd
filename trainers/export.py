"""`tfvt export`: the model of a finished run as a file that other programs run."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence

import keras

from tfvt.errors import UsageError, one_line
from tfvt.export import (
    MAX_PIXELS,
    Serving,
    export_keras,
    export_litert,
    export_onnx,
    export_openvino,
    export_saved_model,
    open_litert,
    open_onnx,
    open_openvino,
)
from tfvt.export.card import write_card
from tfvt.export.quantization import check_quantization
from tfvt.files import local_file, printable
from tfvt.stores import AnyPath, StorePath, as_path

from .errors import LineParser
from .export_accuracy import calibration_batches, compare
from .run.card import run_card
from .run.folder import Run
from .serve import check_classes, open_finished
from .tasks import task_class
from .tasks.task import Task

# Format -> (its writer, its runtime, what it is called in a run's folder).
RUNTIMES = {
    "onnx": (export_onnx, open_onnx, "model{}.onnx"),
    "openvino": (export_openvino, open_openvino, "openvino{}"),
    "litert": (export_litert, open_litert, "model{}.tflite"),
}
LABELS = {"savedmodel": "SavedModel", "keras": "Keras", "onnx": "ONNX", "openvino": "OpenVINO", "litert": "LiteRT"}


def export(arguments: Sequence[str]) -> int:
    """Run `tfvt export ARGUMENTS` and return its exit status."""
    call = _parser().parse_args(list(arguments))
    if call.max_pixels is not None and call.format != "savedmodel":
        raise UsageError(f"--max_pixels is for savedmodel, which decodes images; {call.format} takes pixels")
    run, recipe, model, serving = open_finished(call.run, "tensorflow")
    output = call.output or _default(run, call)
    network = model if call.format in ("savedmodel", "keras") else serving.network(model)
    task = None
    with _lines():
        check_quantization(call.format, call.quantize, network)
        if call.quantize:
            task = task_class(recipe.model.name)(recipe)
            check_classes(task, serving)  # before the conversion, which takes minutes
        _write(call, model, serving, network, task, output)
    print(f"{LABELS[call.format]}: {printable(output)}")
    card = write_card(output, call.format, run_card(run, recipe, model, serving))
    print(f"Card: {printable(card) if card else 'none, since its names are taken'}", flush=True)
    if task:
        with _lines(f"{printable(output)} is written, and its accuracy cannot be measured: "):
            print("\n".join(_accuracy(call, model, network, task, output)))
    return 0


@contextlib.contextmanager
def _lines(beginning: str = "") -> Iterator[None]:
    """Errors of the block as one line, after a beginning that says what holds already."""
    try:
        yield
    except (UsageError, ValueError, ImportError, RuntimeError) as error:
        raise UsageError(beginning + one_line(error)) from error


def _parser():
    parser = LineParser(prog="tfvt export")
    parser.add_argument("run", type=as_path, help="folder of a finished run")
    parser.add_argument(
        "output",
        nargs="?",
        type=as_path,
        default=None,
        help="what to write; default RUN/saved_model, or a file of the format's in RUN/exported",
    )
    parser.add_argument("--format", choices=list(LABELS), default="savedmodel", help="default savedmodel")
    parser.add_argument(
        "--quantize", choices=["int8", "float16", "dynamic"], default=None, help="of onnx, openvino and litert"
    )
    parser.add_argument(
        "--max_pixels",
        type=int,
        default=None,
        help=f"largest image that a savedmodel accepts, default {MAX_PIXELS}",
    )
    return parser


def _default(run: Run, call: argparse.Namespace) -> AnyPath:
    if call.format == "savedmodel":
        return run.saved_model
    ending = f"_{call.quantize}" if call.quantize else ""
    name = "model{}.keras" if call.format == "keras" else RUNTIMES[call.format][2]
    return run.exported / name.format(ending)


def _write(
    call: argparse.Namespace,
    model: keras.Model,
    serving: Serving,
    network: keras.Model,
    task: Task | None,
    output: AnyPath,
) -> None:
    if call.format == "savedmodel":
        limit = MAX_PIXELS if call.max_pixels is None else call.max_pixels
        export_saved_model(model, output, serving, max_pixels=limit)
    elif call.format == "keras":
        export_keras(model, output)
    else:
        write, _, _ = RUNTIMES[call.format]
        calibration = {}
        if call.quantize == "int8":
            calibration["calibration"] = calibration_batches(task, model, network)
        write(network, output, quantize=call.quantize, **calibration)


def _accuracy(
    call: argparse.Namespace, model: keras.Model, network: keras.Model, task: Task, output: AnyPath
) -> list[str]:
    if isinstance(output, StorePath) and call.format == "openvino":
        return ["Its accuracy is measured on a disk only: export it there first"]
    _, open_file, _ = RUNTIMES[call.format]
    with local_file(output) as path:
        return compare(task, model, network, call.quantize, open_file(path))
