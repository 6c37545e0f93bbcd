"""A picture of records drawn at random. It shows at a glance what counts cannot: wrong labels, rotations, boxes."""

import io
import math
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tfvt.data.box_pictures import draw_boxes, with_masks
from tfvt.data.mask_pictures import blended, palette, shortened
from tfvt.data.records import (
    BOX_CROWD,
    BOX_LABEL,
    BOX_MASK,
    BOX_XMAX,
    BOX_XMIN,
    BOX_YMAX,
    BOX_YMIN,
    ENCODED,
    LABEL,
    MASK,
    OBJECT_LISTS,
    SYNSET,
    TEXT,
    VOID,
    Manifest,
    check_shards,
    read_manifest,
)
from tfvt.errors import UsageError
from tfvt.files import write_whole
from tfvt.stores import AnyPath, as_path

from .images import RejectedImageError, open_image
from .reading import parse_features, read_record

CELL, MARGIN, LINE = 160, 8, 15  # pixels: the longer side of an image, around it, a line of its caption
BOXED_CELL = 400  # of images with boxes, for which a smaller one is too small
FONT_SIZE = 11
SQUARE = 8  # of a class's colour in a caption


def contact_sheet(directory: AnyPath | str, path: AnyPath | str, *, count: int = 64, seed: int = 0) -> None:
    """Writes a PNG with records of all splits, and below each its class and its width x height in pixels.

    Masks lie over their images, with a colour for each class and none for pixels without a class; the caption lists the
    classes with their colours, the largest first, as many as there is room for. Boxes have the name of their class; the
    caption lists the most frequent classes first.

    Args:
        directory: of the shards and the manifest.
        path: of the PNG.
        count: records to show, at most all.
        seed: decides which ones.

    Raises:
        UsageError: no such set, a drawn record that is damaged or whose image does not decode, or a path
            that does not end in .png.
    """
    path = as_path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"a contact sheet is a PNG: {path} does not end in .png")
    if count < 1:
        raise UsageError(f"a contact sheet needs at least one record, not {count}")
    manifest, directory = read_manifest(directory), as_path(directory)
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    check_shards(directory, shards)
    ends = np.cumsum([shard.records for shard in shards])
    if not len(ends) or not ends[-1]:
        raise UsageError(f"{directory} holds no records")
    drawn = np.random.default_rng(seed).choice(ends[-1], min(count, ends[-1]), replace=False)

    pictures = []
    for record_id in drawn:
        shard = int(np.searchsorted(ends, record_id, side="right"))
        number = int(record_id - (ends[shard] - shards[shard].records))
        pictures.append(_picture(directory / shards[shard].name, number, manifest))
    cell = max(cell for _, _, _, cell in pictures)
    columns = math.ceil(math.sqrt(len(drawn)))
    width, height = cell + 2 * MARGIN, cell + 2 * MARGIN + 2 * LINE
    sheet = Image.new("RGB", (columns * width, math.ceil(len(drawn) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), FONT_SIZE)
    for place, (image, size, classes, _) in enumerate(pictures):
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        sheet.paste(image, (left + (cell - image.width) // 2, top + (cell - image.height) // 2))
        _draw_classes(draw, (left, top + cell + 2), cell, classes, font)
        draw.text((left, top + cell + 2 + LINE), f"{size[0]} x {size[1]}", "black", font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    write_whole(path, file.getvalue())


def _draw_classes(draw, corner, width, classes, font):
    """Names of classes side by side, each after a square of its colour if it has one, until the line is full."""
    x, y = corner
    end = x + width
    for name, color in classes:
        if color is not None:
            draw.rectangle((x, y + 3, x + SQUARE, y + 3 + SQUARE), tuple(color), "black")
            x += SQUARE + 3
        text = shortened(name, font, end - x)
        draw.text((x, y), text, "black", font)
        x += round(font.getlength(text)) + MARGIN
        if x + SQUARE + LINE > end:
            return


def _picture(path, number, manifest: Manifest):
    """A record's image as it is shown, its own size, its classes (names and colours), and the side of its cell."""
    try:
        values = parse_features(read_record(path, number), (ENCODED, LABEL), (TEXT, SYNSET, MASK, *OBJECT_LISTS))
        image = open_image(values[ENCODED]).convert("RGB")
        size = image.size
        if BOX_LABEL in values:
            return *_with_objects(image, values, manifest), BOXED_CELL
        if MASK in values:
            mask = np.asarray(open_image(values[MASK]))
            image, classes = blended(image, mask), _classes(mask[mask != VOID], manifest.class_names)
        else:
            classes = [(_class_name(values, manifest), None)]
        image.thumbnail((CELL, CELL))
        return image, size, classes, CELL
    except (UsageError, RejectedImageError, OSError, SyntaxError, ValueError, IndexError, KeyError) as error:
        raise UsageError(f"record {number} of {path} cannot be shown: {error}") from error


def _with_objects(image, values, manifest):
    """The image with boxes and masks, small ones over large ones; its own size; its classes."""
    size, shown = image.size, ImageOps.contain(image, (BOXED_CELL, BOXED_CELL))
    boxes = np.stack([values[name] for name in (BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX)], -1).reshape(-1, 4)
    labels = np.array(values[BOX_LABEL], int) - manifest.label_offset
    if len(labels) != len(boxes) or not np.isin(labels, np.arange(len(manifest.class_names))).all():
        raise UsageError("the labels of its objects do not fit; `tfvt records verify` says more")
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")
    masks = values.get(BOX_MASK, ())
    if masks:
        pixels = [open_image(masks[place]).convert("L").resize(shown.size, Image.Resampling.NEAREST) for place in order]
        shown = with_masks(shown, [np.asarray(mask) > 0 for mask in pixels], labels[order])
    crowds = values.get(BOX_CROWD) or [0] * len(boxes)
    texts = [manifest.class_names[labels[place]] + " (crowd)" * crowds[place] for place in order]
    draw_boxes(shown, boxes[order] * np.tile(shown.size[::-1], 2), labels[order], texts)
    return shown, size, _classes(labels, manifest.class_names)


def _class_name(values, manifest):
    name = values.get(TEXT) or values.get(SYNSET)
    if name:
        return name.decode("utf-8", "backslashreplace")
    label = values[LABEL] - manifest.label_offset
    return manifest.class_names[label] if 0 <= label < len(manifest.class_names) else "no class"


def _classes(labels, class_names):
    """(name, colour) of each class, the most frequent first."""
    classes, counts = np.unique(labels, return_counts=True)
    return [(class_names[index], palette()[index % VOID]) for index in classes[np.argsort(-counts)]]
