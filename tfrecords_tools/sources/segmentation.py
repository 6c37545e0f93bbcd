"""Images and masks of one name in two folders."""

import os
from pathlib import Path

from tfvt.data.records import UNLABELLED, counted
from tfvt.errors import UsageError
from tfvt.files import printable

from .layout import read_layout
from .source import RecordSettings, Source, SourceImage, by_stem, entries, file_size, relative


def segmentation(root: Path | str, layout: Path | str | None) -> Source:
    """Pairs of an image and a PNG of the same name up to the suffix, below the folders that a layout names.

    Args:
        root: the folder.
        layout: a YAML file, or the name of one that comes with tfvt.

    Raises:
        UsageError: the layout is wrong, a folder does not exist, or two files of a folder have the same name.
    """
    if layout is None:
        raise UsageError("the format segmentation needs --layout: a YAML file, or ade20k, coco_stuff or lip")
    root, described = os.fspath(root), read_layout(layout)
    if not os.path.isdir(root):
        raise UsageError(f"{root} is not a folder; the layout {layout} expects folders below it")
    left_out = _unnamed(root, "", {os.path.normpath(folder) for pair in described.splits.values() for folder in pair})
    splits = {}
    for split, folders in described.splits.items():
        images, masks = (by_stem(root, folder, left_out) for folder in folders)
        left_out += [relative(root, path) for stem, path in masks.items() if stem not in images]
        if not set(images) & set(masks):
            raise UsageError(
                f"{split} of {root}: no image in {folders[0]} ({counted(len(images), 'file')}) has a mask of its name "
                f"in {folders[1]} ({counted(len(masks), 'file')})"
            )
        # An image without a mask is rejected when its turn comes: a file of this name is missing.
        expected = os.path.join(root, folders[1])
        splits[split] = tuple(
            _pair(path, masks.get(stem, os.path.join(expected, f"{stem}.png"))) for stem, path in images.items()
        )
    settings = RecordSettings(described.class_names, described.class_names, mask_ids=described.mask_ids)
    return Source(root=root, settings=settings, splits=splits, left_out=tuple(left_out))


def _pair(image, mask) -> SourceImage:
    return SourceImage(image, file_size(image), UNLABELLED, mask=mask, mask_size=file_size(mask))


def _unnamed(root, folder, named) -> list[str]:
    """Names that belong to no split's folder."""
    found = []
    for entry in entries(os.path.join(root, folder)):
        path = os.path.join(folder, entry.name)
        if any(name.startswith(f"{path}{os.sep}") for name in named):
            found += _unnamed(root, path, named)
        elif path not in named:
            found.append(printable(path))
    return found
