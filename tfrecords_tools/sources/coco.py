"""COCO's JSON files of objects: read through once for what goes where; workers read each object where it lies."""

import importlib
import json
import os
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfvt.data.records import UNLABELLED, counted
from tfvt.errors import UsageError
from tfvt.files import printable

from .json_stream import JsonStream
from .layout import read_box_layout
from .source import (
    AnnotationFile,
    ObjectSettings,
    RecordSettings,
    Source,
    SourceImage,
    entries,
    file_size,
    refuse,
    some,
)

FOLDER = "annotations"
FILE = re.compile(r"instances_(?P<split>train|val|validation|test)(?P<rest>.*)\.json")
EXPECTED = (
    "expected annotations/instances_<split>*.json and image folders <split>*, such as instances_train2017.json and "
    "train2017; name others with --layout"
)


@dataclass(frozen=True)
class _Image:
    name: str
    size: tuple[int, int]  # width, height


@dataclass
class _Content:
    """What one file says. Annotations are places in it, a few bytes each."""

    images: dict[int, _Image] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    places: dict[int, array] = field(default_factory=dict)  # image -> offset, length, offset, length, ...
    ids: array = field(default_factory=lambda: array("q"))  # of annotations
    used: dict[int, int] = field(default_factory=dict)  # category -> the first annotation of it
    unmasked: list[int] = field(default_factory=list)  # annotations without segmentation
    masked: int = 0
    flat: list[int] = field(default_factory=list)  # annotations with a box of no area
    problems: list[str] = field(default_factory=list)


def looks_like_coco(root: Path | str) -> bool:
    """Whether a folder has a file of objects where COCO has it."""
    folder = os.path.join(root, FOLDER)
    return os.path.isdir(folder) and any(FILE.fullmatch(entry.name) for entry in entries(folder))


def coco(root: Path | str, layout: Path | str | None = None) -> Source:
    """The images that COCO's JSON files list, with boxes, and with masks if every object has one.

    Labels are the categories in the order of their ids. A box of no area is left out.

    Args:
        root: the folder.
        layout: YAML file with the images and annotations of each split; by default they have COCO's names.

    Raises:
        UsageError: a file or folder is missing, a file is damaged or contradicts itself (an annotation without its
            image or category, one id or name twice; the message has up to 20), files differ in their categories, or
            there are masks and pycocotools is not installed.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise UsageError(f"{root} is not a folder; {EXPECTED}")
    splits = read_box_layout(layout) if layout else _splits(root)
    contents, files, flat = {}, [], []
    for split, (images, annotations) in splits.items():
        path = os.path.join(root, annotations)
        contents[split], file = _read(path, needs_annotations=split != "test")
        files.append(file)
        numbers = contents[split].flat
        flat += [f"annotation {number} of {printable(annotations)}, a box of no area" for number in numbers]
        if not os.path.isdir(os.path.join(root, images)):
            raise UsageError(f"{root} has no folder {images} with the images of {annotations}; {EXPECTED}")
    categories = _categories(root, splits, contents)
    left_out = _unnamed(root, splits, contents) + flat
    names = tuple(categories.values())
    objects = ObjectSettings(_masks(splits, contents, left_out), tuple(categories), tuple(files))
    return Source(
        root=root,
        settings=RecordSettings(names, names, objects=objects),
        splits={
            split: tuple(_images(os.path.join(root, splits[split][0]), content, number))
            for number, (split, content) in enumerate(contents.items())
        },
        left_out=tuple(left_out),
    )


def read_annotations(objects: ObjectSettings, described: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The annotations of one image, as its JSON file has them.

    Raises:
        UsageError: the file is not the one that was read before.
    """
    file = objects.files[described["file"]]
    places = described["places"]
    try:
        with open(file.path, "rb", buffering=0) as opened:
            for offset, length in zip(places[::2], places[1::2], strict=True):
                one = json.loads(os.pread(opened.fileno(), length, offset))
                objects.category_ids.index(one["category_id"])
                yield one
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{printable(file.path)} has changed since this conversion began: run it again") from error


def _splits(root) -> dict[str, tuple[str, str]]:
    """Split -> (folder of the images, file of the annotations), as COCO names them."""
    found = {}
    for entry in entries(os.path.join(root, FOLDER)) if os.path.isdir(os.path.join(root, FOLDER)) else ():
        if match := FILE.fullmatch(entry.name):
            split = "validation" if match["split"].startswith("val") else match["split"]
            if split in found:
                other = os.path.basename(found[split][1])
                raise UsageError(f"{root} has {split} twice, {other} and {entry.name}: name one of them with --layout")
            folder = match["split"] + match["rest"]
            below = os.path.join("images", folder)
            found[split] = (below if os.path.isdir(os.path.join(root, below)) else folder, f"{FOLDER}/{entry.name}")
    if not found:
        raise UsageError(f"{root} has no annotations of objects; {EXPECTED}")
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def _unnamed(root, splits, contents) -> list[str]:
    """Files that are neither images nor annotations of a split, and folders without any such."""
    named = {os.path.normpath(annotations) for _, annotations in splits.values()}
    for split, (images, _) in splits.items():
        named |= {os.path.normpath(os.path.join(images, image.name)) for image in contents[split].images.values()}
    folders = {os.path.dirname(name) for name in named}
    while above := {os.path.dirname(folder) for folder in folders} - folders:
        folders |= above
    left_out = []
    for folder in sorted(folders):
        found = (os.path.join(folder, entry.name) for entry in entries(os.path.join(root, folder)))
        left_out += [printable(path) for path in found if path not in named and path not in folders]
    return left_out


def _read(path, needs_annotations) -> tuple[_Content, AnnotationFile]:
    stream, content, lists = JsonStream(path), _Content(), set()
    readers = {"images": _read_image, "categories": _read_category, "annotations": _read_annotation}
    for element in stream:
        if not element.source:
            lists.add(element.key)
        elif element.key in readers:
            if element.key not in lists:
                raise UsageError(f"{printable(path)} is not of COCO's form: {element.key} is no list")
            if isinstance(element.value, dict):
                readers[element.key](content, element)
            else:
                content.problems.append(f"an element of {element.key} at byte {element.offset:,} is no object")
    missing = [name for name in readers if name not in lists and (needs_annotations or name != "annotations")]
    if missing:
        raise UsageError(f"{printable(path)} is not of COCO's form: it has no {some(missing)}")
    _check(content)
    refuse(path, content.problems)
    return content, AnnotationFile(path, stream.sha256)


def _text(element, key) -> str | None:
    """One of an element's texts; None if it is none, or no UTF-8."""
    try:
        text = json.loads(element.source.encode("latin-1")).get(key)
        text.encode("utf-8")  # an escape may be half of a character
    except (AttributeError, ValueError):
        return None
    return None if not text or "\0" in text else text


def _number(value) -> bool:
    return type(value) is int and abs(value) < 2**63


def _read_image(content, element):
    value, problems = element.value, content.problems
    number, name, size = value.get("id"), _text(element, "file_name"), (value.get("width"), value.get("height"))
    if not _number(number):
        problems.append(f"an image at byte {element.offset:,} has the id {number!r}, which is no whole number")
    elif number in content.images:
        problems.append(f"two images have the id {number}")
    elif name is None or os.path.isabs(name) or ".." in Path(name).parts:
        problems.append(f"image {number} has the file_name {value.get('file_name')!r}, not one below the folder")
    elif not all(_number(side) and side > 0 for side in size):
        problems.append(f"image {number} has width and height {size}, not two whole numbers above 0")
    else:
        content.images[number] = _Image(name, size)


def _read_category(content, element):
    number, name = element.value.get("id"), _text(element, "name")
    if not _number(number) or name is None:
        content.problems.append(f"a category at byte {element.offset:,} lacks a whole number as id, or a name")
    elif number in content.categories or name in content.categories.values():
        content.problems.append(f"two categories have the id {number} or the name {name!r}")
    else:
        content.categories[number] = name


def _read_annotation(content, element):
    value = element.value
    number, image, category = (value.get(key) for key in ("id", "image_id", "category_id"))
    if not _number(number):
        content.problems.append(f"an annotation at byte {element.offset:,} has the id {number!r}, no whole number")
        return
    content.ids.append(number)
    if not (_number(image) and _number(category)):
        content.problems.append(f"annotation {number} has no whole numbers as image_id and category_id")
        return
    content.used.setdefault(category, number)
    box = value.get("bbox")
    places = content.places.setdefault(image, array("q"))
    if isinstance(box, list) and len(box) == 4 and 0 in box[2:] and all(type(side) in (int, float) for side in box):
        content.flat.append(number)
        return
    places.extend((element.offset, len(element.source)))
    if value.get("segmentation"):
        content.masked += 1
    else:
        content.unmasked.append(number)


def _check(content):
    """What only the whole file shows."""
    problems = content.problems
    ids, counts = np.unique(np.array(content.ids, np.int64), return_counts=True)
    problems += [f"annotation {number} is there more than once" for number in ids[counts > 1]]
    for category in content.used.keys() - content.categories.keys():
        problems.append(f"annotation {content.used[category]} has category {category}, which the file does not define")
    for image in sorted(content.places.keys() - content.images.keys()):
        problems.append(f"image {image} has annotations and is not in the file's images")
    names = {}
    for number, image in content.images.items():
        if (first := names.setdefault(os.path.normpath(image.name), number)) != number:
            problems.append(f"image {number} has the file_name of image {first}, {image.name!r}")
    if not content.categories:
        problems.append("it defines no categories")
    if not content.images:
        problems.append("it lists no images")


def _categories(root, splits, contents) -> dict[int, str]:
    (first, content), *others = contents.items()
    for other, compared in others:
        if compared.categories != content.categories:
            one, two = (set(read.categories.items()) for read in (content, compared))
            strange = some(f"{number} {name!r}" for number, name in sorted(one ^ two))
            raise UsageError(
                f"{splits[first][1]} and {splits[other][1]} of {root} define different categories ({strange}): labels "
                "would not mean the same in both"
            )
    return dict(sorted(content.categories.items()))


def _masks(splits, contents, left_out) -> bool:
    """Whether the records get masks: all objects have one, or none."""
    if not any(content.masked for content in contents.values()):
        return False
    for split, content in contents.items():
        if content.unmasked:
            left_out.append(
                f"all masks, because {counted(len(content.unmasked), 'annotation')} of {splits[split][1]} have none, "
                f"such as {content.unmasked[0]}"
            )
            return False
    try:
        importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise UsageError("the masks of COCO's annotations need pycocotools: pip install 'tfvt[detection]'") from error
    return True


def _images(folder, content, file) -> Iterator[SourceImage]:
    found = False
    for number, image in sorted(content.images.items()):
        path = os.path.join(folder, image.name)
        size = file_size(path)
        found |= size > 0
        places = content.places.get(number, array("q")).tolist()
        described = {"id": str(number), "size": image.size, "file": file, "places": places}
        yield SourceImage(path, size, UNLABELLED, annotations=json.dumps(described))
    if not found:
        raise UsageError(f"{printable(folder)} holds none of the images that its annotations name; {EXPECTED}")
