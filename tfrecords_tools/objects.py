"""The objects of an image: what its source says of them -> lists of boxes, classes and masks."""

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tfvt.data.records import (
    BOX_AREA,
    BOX_CROWD,
    BOX_LABEL,
    BOX_MASK,
    BOX_TEXT,
    BOX_XMAX,
    BOX_XMIN,
    BOX_YMAX,
    BOX_YMIN,
)

from .images import EncodedImage, RejectedImageError, open_image, orientation
from .masks import must_turn, turned
from .sources import RecordSettings, SourceImage
from .sources.coco import read_annotations

TOLERANCE = 1  # pixels that a box or polygon may reach out of its image, by rounding; it is cut off there
BOX = (BOX_XMIN, BOX_YMIN, BOX_XMAX, BOX_YMAX)


@dataclass(frozen=True)
class _Object:
    """As its source describes it; `box` is xmin, ymin, xmax, ymax in pixels."""

    name: str
    label: int
    box: tuple[float, float, float, float]
    crowd: int
    area: float | None = None
    segmentation: Any = None


def read_objects(
    settings: RecordSettings, image: SourceImage, data: bytes, encoded: EncodedImage, label_offset: int
) -> dict[str, Any]:
    """The arguments `source_id` and `objects` of `make_example`.

    If EXIF says that the image is rotated, boxes and masks are turned like it if they are of the stored pixels.

    Args:
        settings: of the source.
        image: one of its images.
        data: that image's bytes, as they are stored.
        encoded: what the record holds of them.
        label_offset: stored label of the first class.

    Raises:
        RejectedImageError: a box or a mask does not fit the image, or is none; the text names the annotation.
        UsageError: the source's file of annotations has changed.
    """
    described = json.loads(image.annotations)
    objects = list(_objects(settings, described))
    stored, turn = open_image(data), False
    if described["size"]:
        turn = must_turn(tuple(described["size"]), stored, "image in the annotations")
        size = tuple(described["size"])
    else:
        size = stored.size
        if objects and orientation(stored) != 1:
            raise RejectedImageError(
                "EXIF says that it is rotated, and its boxes do not show whether they are too: turn the image upright, "
                "or remove the tag"
            )
    lists = {name: [] for name in (BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX, BOX_LABEL, BOX_TEXT, BOX_CROWD, BOX_AREA)}
    if settings.objects.masks:
        lists[BOX_MASK] = []
    for one in objects:
        box = _fitted(one, *size)
        area = (box[2] - box[0]) * (box[3] - box[1]) if one.area is None else one.area
        relative = np.float32(_turned_box(box, size, orientation(stored)) if turn else box)
        relative /= np.float32((encoded.width, encoded.height) * 2)
        if not (relative[:2] < relative[2:]).all():
            raise RejectedImageError(f"{one.name} has a box of no area within the image")
        for name, value in zip(BOX, relative.tolist(), strict=True):
            lists[name].append(value)
        lists[BOX_LABEL].append(one.label + label_offset)
        lists[BOX_TEXT].append(settings.class_texts[one.label])
        lists[BOX_CROWD].append(one.crowd)
        lists[BOX_AREA].append(area)
        if settings.objects.masks:
            mask = Image.fromarray(instance_mask(one.segmentation, *size, one.name))
            lists[BOX_MASK].append(_png(turned(mask, stored) if turn else mask))
    return {"source_id": described["id"].encode("utf-8", "surrogateescape"), "objects": lists}


def _objects(settings, described) -> Iterator[_Object]:
    if "objects" in described:
        for name, label, *box, crowd in described["objects"]:
            yield _Object(name, label, tuple(box), crowd)
        return
    for one in read_annotations(settings.objects, described):
        name = f"annotation {one['id']}"
        box, area, crowd = one.get("bbox"), one.get("area"), one.get("iscrowd", 0)
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            raise RejectedImageError(f"{name} has the bbox {str(box)[:80]}, not four numbers")
        if not (area is None or (_is_number(area) and math.isfinite(area) and area >= 0)):
            raise RejectedImageError(f"{name} has the area {str(area)[:80]}, not a number from 0")
        if crowd not in (0, 1):
            raise RejectedImageError(f"{name} has iscrowd {str(crowd)[:80]}, not 0 or 1")
        label = settings.objects.category_ids.index(one["category_id"])
        x, y, width, height = box
        yield _Object(name, label, (x, y, x + width, y + height), int(crowd), area, one.get("segmentation"))


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fitted(one, width, height):
    """The box, cut off where it reaches less than a pixel out of the image."""
    box = one.box
    if not all(map(math.isfinite, box)):
        raise RejectedImageError(f"{one.name} has a box with a number that is not finite: {box}")
    if box[0] > box[2] or box[1] > box[3]:
        raise RejectedImageError(f"{one.name} has an inverted box: {_extent(box)}")
    outside = max(-box[0], -box[1], box[2] - width, box[3] - height)
    if outside > TOLERANCE:
        raise RejectedImageError(
            f"{one.name} has a box that reaches {outside:g} pixels out of the image of {width}x{height}: {_extent(box)}"
        )
    return tuple(np.clip(box, 0, (width, height) * 2).tolist())


def _extent(box):
    return f"x {box[0]:g} to {box[2]:g}, y {box[1]:g} to {box[3]:g}"


def _turned_box(box, size, orientation):
    """The box in the upright image; those of the size of the stored pixels alone tell, which leaves four turns."""
    (xmin, ymin, xmax, ymax), (width, height) = box, size
    match orientation:
        case 5:
            return ymin, xmin, ymax, xmax
        case 6:
            return height - ymax, xmin, height - ymin, xmax
        case 7:
            return height - ymax, width - xmax, height - ymin, width - xmin
        case 8:
            return ymin, width - xmax, ymax, width - xmin
    raise ValueError(f"orientation {orientation} keeps the size")


def instance_mask(segmentation: Any, width: int, height: int, name: str) -> np.ndarray:
    """The pixels of an object, bool (height, width).

    Args:
        segmentation: as COCO has it: a list of polygons, or run lengths, as a list or compressed.
        width, height: of the image.
        name: of the annotation, in messages.

    Raises:
        RejectedImageError: it is none of these, or does not fit the image.
    """
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, width, height, name)
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise RejectedImageError(f"{name} has a segmentation that is neither polygons nor run lengths")
    for polygon in segmentation:
        if not (all(map(_is_number, polygon)) and len(polygon) % 2 == 0 and np.isfinite(polygon).all()):
            raise RejectedImageError(f"{name} has a polygon that is not a list of pairs of numbers")
        x, y = np.array(polygon[::2]), np.array(polygon[1::2])
        outside = max(-x.min(initial=0), -y.min(initial=0), x.max(initial=0) - width, y.max(initial=0) - height)
        if outside > TOLERANCE:
            raise RejectedImageError(
                f"{name} has a mask that does not fit its image: a polygon reaches {outside:g} pixels out of the "
                f"{width}x{height} pixels"
            )
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # COCO's tools pass over points and lines
    if not polygons:
        raise RejectedImageError(f"{name} has no polygon of three points or more")
    from pycocotools import mask

    return mask.decode(mask.merge(mask.frPyObjects(polygons, height, width))).astype(bool)


def _run_lengths(segmentation, width, height, name):
    """Pycocotools leaves pixels that the run lengths do not reach as they were in memory: so these are read here."""
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        raise RejectedImageError(
            f"{name} has a mask that does not fit its image: its size is {str(size)[:80]}, the image has "
            f"{height} rows and {width} columns"
        )
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not (isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts)):
        raise RejectedImageError(f"{name} has run lengths that are neither numbers nor COCO's compressed text")
    if sum(counts) != width * height:
        raise RejectedImageError(
            f"{name} has a mask that does not fit its image: its run lengths cover {sum(counts):,} pixels, the image "
            f"has {width * height:,}"
        )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T  # column by column


def _uncompressed(text) -> list[int] | None:
    """COCO's compression: 5 bits a character, the lowest first; after the third, the difference to two before."""
    counts, number, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not (0 <= bits < 64 and shift < 64):
            return None
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    return counts


def _png(mask: Image.Image) -> bytes:
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()
