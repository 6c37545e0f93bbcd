"""A CSV or TSV file of image paths and boxes."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from tfvt.errors import UsageError
from tfvt.files import printable

from .boxed import boxed_source
from .source import Source, refuse
from .table import DELIMITERS, WrongLineError, read_cells, read_table

SIDES = ("xmin", "ymin", "xmax", "ymax")
SPLITS = ("train", "validation", "test")
COLUMNS = ("path", *SIDES, "label", "split")


def looks_like_boxes(path: Path | str) -> bool:
    """Whether a table's first line names the sides of boxes, or has as many columns as boxes without names."""
    try:
        with open(path, "rb") as file:
            first = file.readline(2**16).replace(b"\0", b"").decode("latin-1").strip().lower()  # UTF-16 as well
    except OSError:
        return False
    cells = [cell.strip().strip('"') for cell in first.split(DELIMITERS[os.path.splitext(path)[1].lower()])]
    return set(SIDES) <= set(cells) or (len(cells) in (6, 7) and "label" not in cells)


def box_table(path: Path | str) -> Source:
    """The images and boxes that a table names, one box a line; a line with empty cells is an image without boxes.

    The first line may name the columns path, xmin, ymin, xmax, ymax, label and perhaps split, in any order; without it
    they have this order. Numbers are pixels, counted from 0: a box that covers a whole image ends at its width and
    height. Paths are relative to the table's folder. Without splits every image is for training. Labels are class
    names, sorted. A box of no area is left out.

    Raises:
        UsageError: lines are wrong, or contradict each other (the message names up to 20 of them).
    """
    path = os.fspath(path)
    if os.path.splitext(path)[1].lower() not in DELIMITERS:
        raise UsageError(f"{path} must end in {' or '.join(DELIMITERS)}, which says what separates its columns")
    lines, columns, width, without_meaning = read_table(path, COLUMNS)
    images, problems, flat = {}, [], []
    for line, cells in lines:
        try:
            file, _, label, split = read_cells(os.path.dirname(path), line, cells, columns, width)
            image = images.setdefault(os.path.normpath(file), _Image(file, cells[columns["path"]], split))
            box = _box([cells[columns[side]].strip() for side in SIDES], label)
            image.check(box, split)
        except WrongLineError as error:
            problems.append(f"line {line}: {error}")
            continue
        if box is None:
            image.empty = True
        elif (box[0] == box[2] or box[1] == box[3]) and all(map(math.isfinite, box)):
            flat.append(f"line {line} of {printable(os.path.basename(path))}, a box of no area")
        else:
            image.objects.append([f"line {line}", label, *box, 0])
    refuse(path, problems)
    if _in_one_pixel(images.values()):
        raise UsageError(
            f"all boxes of {path} lie within one pixel: they look like parts of the image's size, and must be pixels"
        )
    return boxed_source(
        path,
        {split: keys for split in SPLITS if (keys := [key for key, image in images.items() if image.split == split])},
        {key: (image.path, image.described) for key, image in images.items()},
        (*without_meaning, *flat),
    )


@dataclass
class _Image:
    """An image of the table; `empty`: a line says that it has no boxes."""

    path: str
    name: str
    split: str
    objects: list[list] = field(default_factory=list)
    empty: bool = False

    @property
    def described(self):
        return {"id": self.name, "size": None, "objects": self.objects}

    def check(self, box, split):
        """A further line, or the first one, with this box or None, agrees with the earlier lines."""
        if split != self.split:
            raise WrongLineError(
                f"{printable(self.path)} is of the split {self.split} in an earlier line, {split} here"
            )
        if self.empty or (self.objects and box is None):
            raise WrongLineError(f"{printable(self.path)} has a line without a box, and another line")


def _box(texts, label):
    """xmin, ymin, xmax, ymax; None for an image without boxes."""
    if not any([*texts, label]):
        return None
    if not label:
        raise WrongLineError("the box has an empty label")
    box = []
    for side, text in zip(SIDES, texts, strict=True):
        try:
            box.append(float(text))
        except ValueError:
            raise WrongLineError(f"{side} is {printable(text)!r}, not a number") from None
    return box


def _in_one_pixel(images):
    ends = [max(row[4:6]) for image in images for row in image.objects]
    return bool(ends) and max(ends) <= 1
