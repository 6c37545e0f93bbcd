"""Sources of images for conversion: each kind is a module, and `open_source` finds out which one it is."""

import dataclasses
import os
from pathlib import Path

from tfvt.errors import UsageError
from tfvt.stores import StorePath, as_path

from .boxes import box_table, looks_like_boxes
from .coco import coco, looks_like_coco
from .folder import image_folder
from .imagenet import imagenet, looks_like_imagenet
from .layout import is_box_layout
from .segmentation import segmentation
from .source import RecordSettings, Source, SourceImage, some
from .table import DELIMITERS, image_table
from .tfds import PREFIX, tfds_dataset
from .voc import looks_like_voc, voc

FORMATS = ("folder", "imagenet", "table", "tfds", "segmentation", "coco", "voc", "boxes")
_OPTIONS = {"ground_truth": ("imagenet",), "data_dir": ("tfds",), "layout": ("segmentation", "coco")}
_FOLDERS = {"coco": looks_like_coco, "voc": looks_like_voc, "imagenet": looks_like_imagenet}


def open_source(
    location: Path | str,
    format: str = "auto",
    *,
    ground_truth: Path | str | None = None,
    data_dir: Path | str | None = None,
    layout: Path | str | None = None,
    jpeg: bool = False,
) -> Source:
    """The images at a location, listed but not opened.

    Args:
        location: a folder, a table or `tfds:NAME`.
        format: one of `FORMATS`; "auto" detects it from the location.
        ground_truth: ImageNet: development kit or list of synsets, if it is not in the folder.
        data_dir: TFDS: where it keeps its datasets.
        layout: segmentation: YAML file, or the name of one that comes with tfvt. COCO: YAML file.
        jpeg: whether PNG, WebP, BMP and GIF files become JPEGs.

    Raises:
        UsageError: there is no such source, something is wrong with it, or an option does not apply to it.
    """
    location = os.fspath(location)
    if isinstance(as_path(location), StorePath):
        raise UsageError(
            f"{location} is in an object store, and a conversion reads images from this machine's disks: copy them "
            "there; OUTPUT may be in a store"
        )
    options = {"ground_truth": ground_truth, "data_dir": data_dir, "layout": layout}
    if format == "auto":
        format = _format(location, layout)
    if format not in FORMATS:
        raise UsageError(f"format {format!r} is none of auto, {', '.join(FORMATS)}")
    for name, kinds in _OPTIONS.items():
        if options[name] is not None and format not in kinds:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is for the format {' or '.join(kinds)}, and {location} is read as {format}")
    match format:
        case "folder":
            source = image_folder(location)
        case "imagenet":
            source = imagenet(location, ground_truth)
        case "table":
            source = image_table(location)
        case "tfds":
            source = tfds_dataset(location, data_dir)
        case "segmentation":
            source = segmentation(location, layout)
        case "coco":
            source = coco(location, layout)
        case "voc":
            source = voc(location)
        case "boxes":
            source = box_table(location)
    if jpeg:
        source = dataclasses.replace(source, settings=dataclasses.replace(source.settings, jpeg=True))
    return source


def _format(location, layout):
    if layout is not None:
        return "coco" if is_box_layout(layout) else "segmentation"
    if location.startswith(PREFIX) or os.path.isfile(os.path.join(location, "dataset_info.json")):
        return "tfds"
    if os.path.splitext(location)[1].lower() in DELIMITERS and not os.path.isdir(location):
        return "boxes" if looks_like_boxes(location) else "table"
    if os.path.isdir(location):
        for name, looks_like_it in _FOLDERS.items():
            if looks_like_it(location):
                return name
    return "folder"


__all__ = [
    "FORMATS",
    "RecordSettings",
    "Source",
    "SourceImage",
    "image_folder",
    "open_source",
    "some",
]
