"""What is wrong with the objects of a record: boxes, classes and masks."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfvt.data.records import (
    BOX_AREA,
    BOX_CROWD,
    BOX_LABEL,
    BOX_MASK,
    BOX_XMAX,
    BOX_XMIN,
    BOX_YMAX,
    BOX_YMIN,
    HEIGHT,
    OBJECT_LISTS,
    SOURCE_ID,
    WIDTH,
    Manifest,
    counted,
)

BOX = (BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX)
NEEDED = (*BOX, SOURCE_ID)


def object_problems(values: Mapping[str, Any], manifest: Manifest, decode: bool) -> Iterator[str]:
    """What is wrong with a record's lists of objects; nothing if these have no classes.

    Args:
        values: its features, as `parse_features` gives them.
        manifest: of the set.
        decode: decode the masks; without it only their headers are read.
    """
    if BOX_LABEL not in values:  # slim's images of ImageNet have boxes too, without classes, and nothing reads them
        return
    lists = {name: values[name] for name in OBJECT_LISTS if name in values}
    missing = [name for name in NEEDED if name not in values]
    if missing:
        yield f"it has objects and lacks {missing[0]}"
        return
    count = len(values[BOX_YMIN])
    for name, values_of in lists.items():
        if len(values_of) != count:
            yield f"its {name} has {counted(len(values_of), 'value')}, its {BOX_YMIN} {count:,}"
            return
    ymin, xmin, ymax, xmax = boxes = np.array([values[name] for name in BOX])
    sound = (boxes >= 0) & (boxes <= 1)  # not where it is no number
    yield from _named("has a side that is not from 0 to 1", ~sound.all(0))
    yield from _named("has a box that is inverted or of no area", sound.all(0) & ((ymin >= ymax) | (xmin >= xmax)))
    first, last = manifest.label_offset, manifest.label_offset + len(manifest.class_names) - 1
    labels = np.array(values[BOX_LABEL])
    yield from _named(f"has a label that is not from {first} to {last}", (labels < first) | (labels > last))
    if BOX_CROWD in lists:
        yield from _named("has an is_crowd that is neither 0 nor 1", ~np.isin(values[BOX_CROWD], (0, 1)))
    if BOX_AREA in lists:
        areas = np.array(values[BOX_AREA])
        yield from _named("has an area that is not a number from 0", ~((areas >= 0) & np.isfinite(areas)))
    for number, mask in enumerate(lists.get(BOX_MASK, ()), 1):
        if problem := _mask_problem(mask, (values[HEIGHT], values[WIDTH]), decode):
            yield f"object {number} has a mask {problem}"


def _named(problem, wrong):
    """The first object with a problem, and how many more have it."""
    numbers = np.flatnonzero(wrong)
    if len(numbers):
        more = f" (and so have {len(numbers) - 1:,} more)" if len(numbers) > 1 else ""
        yield f"object {numbers[0] + 1} {problem}{more}"


def _mask_problem(mask, size, decode):
    if not mask.startswith(b"\x89PNG\r\n\x1a\n") or mask[24:26] != b"\1\0":  # bits, and the colour type grey
        return "that is not a grey PNG of 1 bit"
    found = int.from_bytes(mask[20:24]), int.from_bytes(mask[16:20])
    if found != size:
        return f"of (height, width) {found}, its image has {size}"
    try:
        if decode:
            tf.io.decode_png(mask)
    except tf.errors.OpError:
        return "that does not decode"
    return None
