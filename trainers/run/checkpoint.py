"""Checkpoints of a run: one safetensors file each, written whole or not at all.

A file holds arrays by name and, in its metadata, a header: the step, the number of finished epochs, the recipe, the
data's digests and a digest of all that. Nothing is pickled: a file from elsewhere can be wrong but cannot run code.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tfvt.errors import UsageError
from tfvt.files import local_file, whole_file
from tfvt.stores import AnyPath
from tfvt.trainers.errors import cannot_read, cannot_write

FORMAT = 2  # 1, without this number in the header: no recipe, a digest of the arrays alone, sums in one array
FORMAT_1_SUMS = ("loss", "top1", "top5", "images")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` updates; its first `epoch` epochs are evaluated and logged.

    `digests` are the task's (`Task.digests`), `recipe` is the recipe as plain values (None in files of format
    1): what a step trains on depends on them.
    """

    step: int
    epoch: int
    arrays: dict[str, np.ndarray]
    digests: dict[str, str]
    recipe: dict[str, Any] | None


def save_checkpoint(folder: AnyPath, checkpoint: Checkpoint, keep: int) -> AnyPath:
    """Write `checkpoint` into `folder`; keep only the `keep` newest ones.

    The file gets its name only when every byte is on the disk: a run killed at any moment leaves the earlier
    checkpoints as they were.

    Raises:
        UsageError: the disk is full, or a limit stops the file. The earlier checkpoints stay.
    """
    folder.mkdir(exist_ok=True)  # not its parents: where a shared folder is away, they would come to lie below it
    path = folder / _name(checkpoint.step)
    header = {
        "format": FORMAT,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "records": checkpoint.digests,  # the name is of format 1
        "recipe": checkpoint.recipe,
    }
    metadata = {"run": json.dumps(header | {"digest": _digest(header, checkpoint.arrays)})}
    try:
        with whole_file(path) as written:
            written.touch()
            mode = written.stat().st_mode
            save_file(checkpoint.arrays, written, metadata=metadata)  # makes a file that only its owner can read
            written.chmod(mode)
    except (SafetensorError, OSError) as error:
        then = "continue with --resume: the earlier ones are whole"
        raise cannot_write(f"the checkpoint {path}", error, then) from error
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def _name(step: int) -> str:
    return f"step-{step:09d}.safetensors"


def load_checkpoint(path: AnyPath) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        UsageError: the file cannot be read, or is cut off, altered, of a later format or not a checkpoint. An
            older one never replaces it silently: that would lose the work since then without a word.
    """
    try:
        with local_file(path) as whole, safe_open(whole, framework="numpy") as file:
            header = json.loads(file.metadata()["run"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        written = header.get("format", 1)
        if type(written) is not int or written < 1:
            raise ValueError(f"its format is {written!r}")
        if written > FORMAT:
            raise UsageError(
                f"the checkpoint {path} has format {written}, which a later tfvt wrote; this one reads 1 and "
                f"{FORMAT}: continue the run with that tfvt"
            )
        digest = header.pop("digest")
        intact = digest == _digest(header if "format" in header else None, arrays)
        if "format" not in header:
            arrays |= {f"sums/{name}": sum_ for name, sum_ in zip(FORMAT_1_SUMS, arrays.pop("totals"), strict=True)}
        checkpoint = Checkpoint(header["step"], header["epoch"], arrays, header["records"], header.get("recipe"))
        if path.name != _name(checkpoint.step):
            raise ValueError(f"it holds step {checkpoint.step}")
    except OSError as error:
        raise cannot_read(f"the checkpoint {path}", error, "continue with --resume") from error
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(_damaged(path, str(error))) from error
    if not intact:
        raise UsageError(_damaged(path, "its contents do not match their digest"))
    return checkpoint


def check_finite(arrays: dict[str, np.ndarray]) -> None:
    """Refuse a state that has diverged.

    Raises:
        UsageError: an array holds NaN or infinity; the message names the first one.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "biu" and not np.isfinite(array).all():
            raise UsageError(f"{name} is not finite")


def list_checkpoints(folder: AnyPath) -> list[AnyPath]:
    """Complete checkpoints in `folder`, oldest first; files that somebody named otherwise are none.

    Raises:
        OSError: there is a folder and it cannot be read: a run would begin again from the start (`glob` finds nothing).
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    return sorted(path for path in paths if re.fullmatch(r"step-\d{9}\.safetensors", path.name))


def name_arrays(prefix: str, variables: Iterable[keras.Variable]) -> dict[str, np.ndarray]:
    """Arrays of keras `variables` under names that keep their order: `model/0003/conv1/kernel`."""
    return {f"{prefix}/{index:04d}/{v.path}": np.asarray(v) for index, v in enumerate(variables)}


def assign_arrays(prefix: str, variables: Iterable[keras.Variable], arrays: dict[str, np.ndarray]) -> None:
    """Assign what `name_arrays` collected, in order; counts, shapes and types must agree.

    Raises:
        UsageError: the arrays are those of another model or optimizer.
    """
    variables = list(variables)
    names = sorted(name for name in arrays if name.startswith(f"{prefix}/"))
    if len(names) != len(variables):
        raise UsageError(f"the checkpoint has {len(names)} arrays of the {prefix}, this run {len(variables)}")
    for name, variable in zip(names, variables, strict=True):
        array = arrays[name]
        if array.shape != tuple(variable.shape):
            raise UsageError(f"the checkpoint's {name} has shape {array.shape}, this run's {tuple(variable.shape)}")
        variable.assign(array)


def _digest(header: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    if header is not None:
        digest.update(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _damaged(path: AnyPath, reason: str) -> str:
    return (
        f"the checkpoint {path} is damaged ({reason}); delete it to continue from the one before "
        "(or, when it is the only one, from the start)"
    )
