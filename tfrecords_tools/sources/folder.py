"""Class folders: `<split>/<class>/<image file>`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfvt.errors import UsageError
from tfvt.files import printable

from .source import RecordSettings, Source, SourceImage, entries, file_size, is_folder, some

SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation"}
LAYOUT = "expected INPUT/<split>/<class>/<image file> with splits train and validation (or val)"


def image_folder(root: Path | str) -> Source:
    """The source `root/<split>/<class>/<file>`; names that begin with a dot are left out.

    Raises:
        UsageError: the folder has another form, lacks classes or images, or its splits differ in their classes.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise UsageError(f"{root} is not a folder; {LAYOUT}")
    left_out = []
    found = _visible(root, root, left_out)
    if not found:
        raise UsageError(f"{root} is empty; {LAYOUT}")
    folders = {entry.name: entry.path for entry in found if entry.name in SPLIT_FOLDERS and is_folder(entry)}
    left_out += [printable(entry.name) for entry in found if entry.name not in folders]
    if not folders:
        raise UsageError(f"{root} has no split folder, it holds {some(left_out)}; {LAYOUT}")
    if "val" in folders and "validation" in folders:
        raise UsageError(f"{root} has both val and validation, which are the same split: merge them")

    classes = {name: class_folders(root, folder, left_out) for name, folder in folders.items()}
    class_names = same_classes(root, {name: tuple(found) for name, found in classes.items()})
    splits = {
        split: tuple(
            image
            for label, class_name in enumerate(class_names)
            for image in class_images(root, classes[name][class_name], label, left_out)
        )
        for name, split in SPLIT_FOLDERS.items()
        if name in folders
    }
    settings = RecordSettings(class_names=class_names, class_texts=class_names)
    return Source(root=root, settings=settings, splits=splits, left_out=tuple(left_out))


def class_folders(root: Path | str, split_folder: Path | str, left_out: list[str]) -> dict[str, str]:
    """Class name -> folder; names of all else go to `left_out`."""
    found = _visible(root, split_folder, left_out)
    files = [printable(entry.name) for entry in found if not is_folder(entry)]
    if files:
        raise UsageError(
            f"{split_folder} holds files outside class folders: {some(files)}; move each into the folder of "
            "its class, or elsewhere"
        )
    if not found:
        raise UsageError(f"{split_folder} is empty; {LAYOUT}")
    folders = {}
    for entry in found:
        name = printable(entry.name)
        if name in folders:
            raise UsageError(
                f"two class folders of {split_folder} have the same name as text, {name}: one of them has bytes that "
                "are not UTF-8; rename it"
            )
        folders[name] = entry.path
    return folders


def class_images(root: Path | str, folder: Path | str, label: int, left_out: list[str]) -> list[SourceImage]:
    """The files of one class folder; what is left out goes to that list."""
    found = _visible(root, folder, left_out)
    if not found:
        raise UsageError(f"class folder {printable(folder)} holds no images: fill it, or remove it from every split")
    for entry in found:
        if is_folder(entry):
            raise UsageError(
                f"class folder {printable(folder)} holds a folder, {printable(entry.name)}: images lie directly in "
                "the folder of their class"
            )
    return [SourceImage(path=entry.path, size=file_size(entry.path), label=label) for entry in found]


def _visible(root, folder, left_out):
    """The entries of a folder, without those whose name begins with a dot."""
    found = entries(folder)
    left_out += [printable(os.path.relpath(entry.path, root)) for entry in found if entry.name.startswith(".")]
    return [entry for entry in found if not entry.name.startswith(".")]


def same_classes(root: Path | str, classes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The class names that every split has, sorted.

    Args:
        root: for messages.
        classes: split -> its class names.
    """
    (first, names), *others = classes.items()
    for other, other_names in others:
        for one, one_names, two, two_names in ((first, names, other, other_names), (other, other_names, first, names)):
            missing = sorted(set(one_names) - set(two_names))
            if missing:
                raise UsageError(
                    f"the splits of {root} differ in their classes: {one} has {some(missing)}, {two} does not; "
                    "labels would not mean the same in both"
                )
    if len(names) < 2:
        raise UsageError(f"{first} of {root} has one class only ({names[0]}): classification needs at least two")
    return tuple(sorted(names))
