"""The labels of ImageNet's validation images: from the development kit, or from a list of synsets."""

import io
import os
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from tfvt.errors import UsageError

from .source import some

DEVKIT = "ILSVRC2012_devkit_t12"
SYNSET_LIST = "imagenet_2012_validation_synset_labels.txt"  # the name that slim gives it
SYNSET = re.compile(r"n\d{8}")
META = "data/meta.mat"
IDS = "data/ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True)
class GroundTruth:
    """The labels of the validation images.

    Attributes:
        path: the file or folder from which they were read.
        synsets: of the images, in the order of their numbers.
        texts: synset -> its name for human readers, for every class; empty if only the list of synsets is known.
    """

    path: str
    synsets: tuple[str, ...]
    texts: dict[str, str] = field(default_factory=dict)


def read_ground_truth(path: Path | str) -> GroundTruth:
    """From the development kit, packed or unpacked, or from a text file with a synset a line.

    Raises:
        UsageError: it is none of them, in particular a list of plain numbers, which do not say what they count.
    """
    path = os.fspath(path)
    try:
        if os.path.isdir(path):
            files = {name: _read(os.path.join(path, name)) for name in (META, IDS)}
        elif tarfile.is_tarfile(path):
            files = _read_packed(path)
        else:
            return GroundTruth(path=path, synsets=_synset_list(path))
    except OSError as error:
        raise UsageError(f"ground truth {error.filename or path} cannot be read: {error.strerror}") from error
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"ground truth {path} is damaged ({error}): download it again") from error
    texts = _classes(path, files[META])
    try:
        ids = [int(line) for line in files[IDS].split()]
    except ValueError as error:
        raise UsageError(f"{IDS} of {path} must hold only numbers: {error}") from error
    unknown = sorted(set(ids) - set(texts))
    if unknown:
        raise UsageError(f"{IDS} of {path} has ids that {META} does not have: {some(map(str, unknown))}")
    return GroundTruth(path=path, synsets=tuple(texts[number][0] for number in ids), texts=dict(texts.values()))


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def _read_packed(path):
    files = {}
    with tarfile.open(path) as tar:
        for info in tar:
            for name in (META, IDS):
                if info.isreg() and info.name.endswith(name):
                    files[name] = tar.extractfile(info).read()
    missing = [name for name in (META, IDS) if name not in files]
    if missing:
        raise UsageError(f"{path} holds no {missing[0]}: expected {DEVKIT}.tar.gz as it was downloaded")
    return files


def _classes(path, content) -> dict[int, tuple[str, str]]:
    """ILSVRC id -> (synset, name) of the classes, without the inner nodes of the hierarchy."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UsageError(
            f"{META} of {path} is a MATLAB file, which needs SciPy: pip install 'tfvt[imagenet]'; or give a list of "
            "synsets with --ground-truth"
        ) from error
    try:
        synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        return {
            int(row["ILSVRC2012_ID"]): (str(row["WNID"]), str(row["words"]))
            for row in synsets
            if int(row["num_children"]) == 0
        }
    except Exception as error:  # SciPy has many errors for files of another kind
        raise UsageError(f"{META} of {path} is damaged or of another form ({error!r}): download it again") from error


def _synset_list(path):
    with open(path, "rb") as file:
        lines = file.read().decode("utf-8", "replace").split("\n")
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if lines and all(line.isdigit() for line in lines):
        raise UsageError(
            f"{path} holds plain numbers, which may count ILSVRC ids or sorted synsets: give the whole development kit "
            f"({DEVKIT}.tar.gz), which says what they mean, or a list of synsets ({SYNSET_LIST})"
        )
    for number, line in enumerate(lines, 1):
        if not SYNSET.fullmatch(line):
            raise UsageError(f"line {number} of {path} is {line[:40]!r}, not a synset such as n01440764")
    if not lines:
        raise UsageError(f"{path} is empty; it should hold the synset of each validation image, one a line")
    return tuple(lines)
