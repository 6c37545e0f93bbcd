"""From a file on disk to arrays by name. Unpickling always runs under torch's weights-only guard."""

import json
import pickle
import re
import zipfile
from typing import Any

import keras
import numpy as np

from tfvt.files import local_file
from tfvt.stores import AnyPath, as_path

Checkpoint = AnyPath | str | dict[str, np.ndarray]  # a path or "gs://...", or arrays by the source's names
MAX_JSON = 2**24  # bytes; an index of ten thousand tensors has 1 MB


def read_arrays(path_or_arrays: Checkpoint) -> dict[str, np.ndarray]:
    """Arrays under the source's own names.

    Args:
        path_or_arrays: a dict of arrays (returned as it is), or a path to `.npz`, `.safetensors`, `.pth` / `.pt` /
            `.bin` (PyTorch, needs torch), `.keras`, `.safetensors.index.json` with the files that it names beside it,
            or the prefix of a TensorFlow checkpoint (`ckpt-100`, beside which `ckpt-100.index` lies; needs TensorFlow).

    Raises:
        FileNotFoundError, IsADirectoryError: no such file, or a folder (see `tfvt.checkpoints.folders`).
        ValueError: another kind of file, or one that is damaged (the message names it), or a dict whose keys are not
            all strings.
    """
    if isinstance(path_or_arrays, dict):
        odd = [name for name in path_or_arrays if not isinstance(name, str)]
        if odd:
            raise ValueError(f"the names of a checkpoint's arrays are strings, not {odd[0]!r}")
        return {name: np.asarray(array) for name, array in path_or_arrays.items()}
    path = as_path(path_or_arrays)
    readers = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".bin": _read_torch,
        ".keras": _read_keras,
    }
    reader = readers.get(path.suffix)
    if as_path(f"{path}.index").is_file():
        reader = _read_tensorflow
    elif path.name.endswith(".safetensors.index.json"):
        reader = _read_shards
    elif path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: pass the checkpoint in it")
    elif not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    elif reader is None:
        raise ValueError(f"{path}: expected a checkpoint that ends in {', '.join(readers)}, or a TensorFlow checkpoint")
    elif _start(path).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page and not a checkpoint: the download gave an error page, try again")
    try:
        if reader in (_read_tensorflow, _read_shards):  # several files
            return reader(path)
        with local_file(path) as file:
            return reader(file)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a {path.suffix or 'TensorFlow'} checkpoint: {error}") from error


def read_neighbour(source: Checkpoint, name: str) -> dict[str, Any]:
    """The JSON object in the file `name` beside the file `source`; {} if there is none, or for a dict of arrays.

    Raises:
        ValueError: the file holds something else; the message names it.
    """
    if isinstance(source, dict):
        return {}
    path = as_path(source).with_name(name)
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}, beside the checkpoint, {error}") from error


def read_json(path: AnyPath) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: the file holds something else, or more than `MAX_JSON` bytes; the message begins with a verb.
    """
    with path.open("rb") as file:
        text = file.read(MAX_JSON + 1)
    if len(text) > MAX_JSON:
        raise ValueError(f"has more than {MAX_JSON} bytes: expected a small JSON object")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("holds no JSON object")
    return content


def pixel_units(values: Any, where: str) -> tuple[float, ...]:
    """Means or deviations per channel from 0..1 to 0..255; `where` is how the message calls a value that is none."""
    if not isinstance(values, list | tuple) or not all(type(v) in (int, float) and abs(v) < 1e6 for v in values):
        raise ValueError(f"{where}={values!r}: expected a number for each channel")
    return tuple(round(255 * float(value), 6) for value in values)


def keras_gelu(source: Checkpoint) -> str | None:
    """The form of GELU that a `.keras` file was trained with; None if it has none, or is not such a file."""
    if isinstance(source, dict) or as_path(source).suffix != ".keras":
        return None
    with local_file(source) as path, zipfile.ZipFile(path) as file:
        form = re.search(r'"gelu": "(\w+)"', file.read("config.json").decode())
    return form and form[1]


def _start(path):
    with path.open("rb") as file:
        return file.read(256)


def _read_npz(path):
    if _start(path).startswith(b"\x93NUMPY"):
        raise ValueError("it is an .npy file, one array without a name: save the arrays by name with np.savez")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, pickle.UnpicklingError) as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                "it is not an .npz file, or holds pickled objects, which could run code; tfvt reads only plain arrays"
            ) from error
        raise
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"it is cut off or damaged ({error}); download it again") from error


def _read_safetensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


def _read_shards(path):
    """The tensors of an index {"weight_map": {tensor: file}}, each from its file beside the index."""
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ValueError("weight_map: expected an object of tensors and their files")
    arrays = {}
    for name in dict.fromkeys(map(str, files.values())):
        if not re.fullmatch(r"[^/\\]+\.safetensors", name):
            raise ValueError(f"weight_map has the file {name!r}: expected a .safetensors file beside the index")
        shard = path.with_name(name)
        if not shard.is_file():
            raise ValueError(f"weight_map has the file {name}, which is missing")
        with local_file(shard) as file:
            try:
                tensors = _read_safetensors(file)
            except Exception as error:
                raise ValueError(f"{name}: {error}") from error
        wanted = [tensor for tensor, holder in files.items() if holder == name]
        for tensor in wanted:
            if tensor not in tensors:
                raise ValueError(f"weight_map has {tensor!r} in {name}, which does not hold it")
            arrays[tensor] = tensors[tensor]
    return arrays


def _read_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{path}: reading it needs PyTorch (pip install torch); .safetensors files do not") from error

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        objects = f" ({found[1]})" if found else ""
        raise ValueError(
            f"it is damaged, or holds Python objects{objects}, which could run code; tfvt reads only tensors. "
            "If you trust it, save only its state dict"
        ) from error
    return _named_tensors(state, torch.Tensor)


def _named_tensors(state, tensor_class):
    """Name -> array, of what PyTorch saved."""
    for wrapper in ("state_dict", "model"):  # training scripts put the weights below one of these
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    entries = state.items() if isinstance(state, dict) else ()
    tensors = {name: t for name, t in entries if isinstance(name, str) and isinstance(t, tensor_class)}
    if not tensors:
        raise ValueError("it holds no tensors by name, neither at the top nor below 'state_dict' or 'model'")
    # A model that was trained on several devices has this in front of every name.
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): tensor.detach().float().numpy() for name, tensor in tensors.items()}


def _read_keras(path):
    if not zipfile.is_zipfile(path):  # Keras would say that there is no such file
        raise ValueError("it is cut off or damaged")
    model = keras.models.load_model(path, compile=False)
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}


def _read_tensorflow(path):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path))
    return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}
