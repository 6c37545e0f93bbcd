"""What is to be converted: labelled image files, listed without being opened."""

import os
from dataclasses import dataclass
from pathlib import Path

from tfvt.data.records import RecordsError

SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation"}
LAYOUT = "expected INPUT/<split>/<class>/<image file> with splits train and validation (or val)"


@dataclass(frozen=True)
class SourceImage:
    """One file: its path, its size in bytes and the index of its class."""

    path: str
    size: int
    label: int


@dataclass(frozen=True)
class Source:
    """Labelled images by split.

    Attributes:
        root: the folder that the paths begin with.
        class_names: sorted; an image's label is an index into them.
        splits: split name -> images, sorted by class and file name.
        left_out: entries of the root that are no split.
    """

    root: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[SourceImage, ...]]
    left_out: tuple[str, ...]


def image_folder(root) -> Source:
    """The source `root/<split>/<class>/<file>`; names that begin with a dot are passed over.

    Raises:
        RecordsError: the folder has not that form, lacks classes or images, or its splits differ in their classes.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise RecordsError(f"{root} is not a folder; {LAYOUT}")
    entries = _entries(root)
    if not entries:
        raise RecordsError(f"{root} is empty; {LAYOUT}")
    folders = {entry.name: entry.path for entry in entries if entry.name in SPLIT_FOLDERS and entry.is_dir()}
    left_out = tuple(printable(entry.name) for entry in entries if entry.name not in folders)
    if not folders:
        raise RecordsError(f"{root} has no split folder, it holds {_some(left_out)}; {LAYOUT}")
    if "val" in folders and "validation" in folders:
        raise RecordsError(f"{root} has both val and validation, which are the same split: merge them")

    classes = {name: _class_folders(folder) for name, folder in folders.items()}
    class_names = _common_classes(root, {name: tuple(found) for name, found in classes.items()})
    splits = {
        split: tuple(
            image
            for label, class_name in enumerate(class_names)
            for image in _class_images(classes[name][class_name], label)
        )
        for name, split in SPLIT_FOLDERS.items()
        if name in folders
    }
    return Source(root=root, class_names=class_names, splits=splits, left_out=left_out)


def printable(name) -> str:
    """A file name as text that can be printed and stored; bytes that are not UTF-8 are written in hexadecimal."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _entries(folder):
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise RecordsError(f"{printable(folder)} cannot be listed: {error.strerror}") from error
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _class_folders(split_folder):
    """Class name -> folder."""
    entries = _entries(split_folder)
    files = [printable(entry.name) for entry in entries if not entry.is_dir()]
    if files:
        raise RecordsError(
            f"{split_folder} holds files outside class folders: {_some(files)}; move each into the folder of "
            "its class, or away"
        )
    if not entries:
        raise RecordsError(f"{split_folder} is empty; {LAYOUT}")
    return {printable(entry.name): entry.path for entry in entries}


def _common_classes(root, classes):
    """The class names that every split has."""
    (first, names), *others = classes.items()
    for other, other_names in others:
        for one, one_names, two, two_names in ((first, names, other, other_names), (other, other_names, first, names)):
            missing = sorted(set(one_names) - set(two_names))
            if missing:
                raise RecordsError(
                    f"the splits of {root} differ in their classes: {one} has {_some(missing)}, {two} has not; "
                    "labels would not mean the same in both"
                )
    if len(names) < 2:
        raise RecordsError(
            f"{Path(root, first)} has one class only ({names[0]}): classification needs at least two class folders"
        )
    return tuple(sorted(names))


def _class_images(folder, label):
    entries = _entries(folder)
    if not entries:
        raise RecordsError(f"class folder {printable(folder)} holds no images: fill it, or remove it from every split")
    for entry in entries:
        if entry.is_dir():
            raise RecordsError(
                f"class folder {printable(folder)} holds a folder, {printable(entry.name)}: images lie directly in "
                "the folder of their class"
            )
        yield SourceImage(path=entry.path, size=_size(entry), label=label)


def _size(entry):
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere: reading it will say so, and put it on the rejects list
        return 0


def _some(names):
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
