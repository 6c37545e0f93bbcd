"""From a Keras model to a file of another runtime, in a process of its own: converters crash, and take much memory."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfvt.files import disk_is_full, whole_file
from tfvt.folding import fuse
from tfvt.stores import AnyPath, StorePath, as_path

Batch = np.ndarray | Mapping[str, np.ndarray]
Run = Callable[[Batch], dict[str, np.ndarray]]  # a file as a function: from what the model takes to its outputs by name

SIGNATURE = "serving_default"
SAVED_MODEL, JOB, RESULT, ERROR = "model", "job.json", "result", "error.txt"


def check_target(path: AnyPath | str) -> AnyPath:
    """`path`, where nothing may be yet.

    Raises:
        ValueError: there is something, or another backend than TensorFlow makes the graph.
    """
    path = as_path(path)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"exports need the TensorFlow backend; KERAS_BACKEND is {keras.backend.backend()!r}")
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists: choose another output, or remove it first")
    return path


@contextlib.contextmanager
def new_file(path: AnyPath, ending: str = "") -> Iterator[Path]:
    """`tfvt.files.whole_file` in a folder that may have to be made."""
    if not isinstance(path, StorePath):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, ending) as temporary:
        yield temporary


def check_packages(*packages: str) -> None:
    """Refuse to begin without what a format needs.

    Raises:
        ImportError: a package is missing; the message names the extra that installs it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} is not installed: pip install 'tfvt[export]'")


@contextlib.contextmanager
def converted(
    model: keras.Model, module: str, options: Mapping[str, Any], calibration: Iterable[Batch] = ()
) -> Iterator[Path]:
    """Give what `convert` of a module makes of `model`: a file or folder (below TMPDIR). Afterwards it goes.

    Args:
        model: any Keras model of float32 or integer inputs.
        module: of this package; `convert(folder, target, options)` reads the SavedModel `folder / SAVED_MODEL` and
            `samples(folder)`, and writes `target`.
        options: plain values for it.
        calibration: batches as the model takes them.

    Raises:
        ValueError: the format cannot hold the model.
        RuntimeError: the converter ended in another way.
        OSError: the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="tfvt-export-") as name:
        folder = Path(name)
        _save(fuse(model), folder / SAVED_MODEL)
        for number, batch in enumerate(calibration):
            np.savez(folder / f"{number:05}.npz", **named_inputs(model, batch))
        (folder / JOB).write_text(json.dumps({"module": module, "options": dict(options)}), encoding="utf-8")
        _run(folder, module)
        yield folder / RESULT


def _run(folder, module):
    command = [sys.executable, "-P", "-m", "tfvt.export.converter", str(folder)]
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if ended.returncode == 0:
        return
    what = f"the {module} converter"
    if (folder / ERROR).is_file():
        kind, _, text = (folder / ERROR).read_text(encoding="utf-8").partition("\n")
        if kind == "OSError":
            raise OSError(f"{what} cannot write: {text}")
        raise (ValueError(text) if kind == "ValueError" else RuntimeError(f"{what} failed: {text}"))
    said = ended.stdout.decode("utf-8", "replace")
    if ended.returncode == -signal.SIGXFSZ or disk_is_full(RuntimeError(said)):
        raise OSError(f"{what} cannot write: the disk of {folder.parent} is full, or a limit stops the file")
    raise RuntimeError(f"{what} crashed ({_reason(ended.returncode)}), so this model cannot be exported in that format")


def _reason(status):
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def samples(folder: Path) -> list[dict[str, np.ndarray]]:
    """The calibration batches, by input."""
    batches = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            batches.append(dict(arrays))
    return batches


def named_inputs(model: keras.Model, batch: Batch) -> dict[str, np.ndarray]:
    """A batch as the model takes it, by the names of the inputs."""
    names = [tensor.name for tensor in model.inputs]
    values = keras.tree.flatten(batch)
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def named_outputs(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """Outputs by name: the keys of a dict; "output" of a single one, "output_0" and so on of a list."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    values = keras.tree.flatten(outputs)
    return {"output": values[0]} if len(values) == 1 else {f"output_{i}": value for i, value in enumerate(values)}


def signature_of(model: keras.Model) -> tuple[tf.types.experimental.GenericFunction, list[tf.TensorSpec]]:
    """A graph function over the model's inputs by name, and their specifications; the batch has any size."""
    specs = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=x.name) for x in model.inputs]

    @tf.function(input_signature=specs, autograph=False)
    def infer(*tensors):
        given = keras.tree.pack_sequence_as(model.input, list(tensors))
        return named_outputs(model, model(given, training=False))

    return infer, specs


def _save(model, folder):
    """The model as a SavedModel of one signature, each weight once."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    infer, _ = signature_of(model)
    try:
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: infer.get_concrete_function()})
    except tf.errors.OpError as error:
        if disk_is_full(error) or "too large" in error.message.lower():
            raise OSError(f"{folder.parent} of this machine is full, through which exports pass") from error
        raise
