"""From a file on disk to arrays by name. Nothing is ever unpickled without torch's weights-only guard."""

from pathlib import Path

import keras
import numpy as np


def read_arrays(path_or_arrays) -> dict[str, np.ndarray]:
    """Arrays under the source's own names.

    Args:
        path_or_arrays: a dict of arrays (taken as it is), or a path to `.safetensors`, `.pth` / `.pt` / `.bin`
            (PyTorch, needs torch) or `.keras`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or one that is damaged. The message names the file.
    """
    if isinstance(path_or_arrays, dict):
        return {name: np.asarray(array) for name, array in path_or_arrays.items()}
    path = Path(path_or_arrays)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    readers = {
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".bin": _read_torch,
        ".keras": _read_keras,
    }
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a checkpoint that ends in {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a {path.suffix} checkpoint: {error}") from error


def _read_safetensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


def _read_torch(path):
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):  # training scripts put the weights below one of these
        state = state.get(wrapper, state)
    return {name: tensor.float().numpy() for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _read_keras(path):
    model = keras.models.load_model(path, compile=False)
    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}
