"""A picture of records drawn at random. It shows at a glance what counts cannot: wrong labels, rotations, masks."""

import io
import math
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfvt.data.mask_pictures import blended, palette, shortened
from tfvt.data.records import ENCODED, LABEL, MASK, SYNSET, TEXT, VOID, Manifest, check_shards, read_manifest
from tfvt.errors import UsageError
from tfvt.files import write_whole
from tfvt.stores import AnyPath, as_path

from .images import RejectedImageError, open_image
from .reading import parse_features, read_record

CELL, MARGIN, LINE = 160, 8, 15  # pixels: the longer side of an image, around it, a line of its caption
FONT_SIZE = 11
SQUARE = 8  # of a class's colour in a caption


def contact_sheet(directory: AnyPath | str, path: AnyPath | str, *, count: int = 64, seed: int = 0) -> None:
    """Writes a PNG with records of all splits, and below each its class and its width x height in pixels.

    Masks lie over their images, with a colour for each class and none for pixels without a class; the caption lists the
    classes with their colours, the largest first, as many as there is room for.

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

    columns = math.ceil(math.sqrt(len(drawn)))
    width, height = CELL + 2 * MARGIN, CELL + 2 * MARGIN + 2 * LINE
    sheet = Image.new("RGB", (columns * width, math.ceil(len(drawn) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), FONT_SIZE)
    for place, record_id in enumerate(drawn):
        shard = int(np.searchsorted(ends, record_id, side="right"))
        number = int(record_id - (ends[shard] - shards[shard].records))
        image, classes = _picture(directory / shards[shard].name, number, manifest)
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        size = f"{image.width} x {image.height}"
        image.thumbnail((CELL, CELL))
        sheet.paste(image, (left + (CELL - image.width) // 2, top + (CELL - image.height) // 2))
        _draw_classes(draw, (left, top + CELL + 2), classes, font)
        draw.text((left, top + CELL + 2 + LINE), size, "black", font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    write_whole(path, file.getvalue())


def _draw_classes(draw, corner, classes, font):
    """Names of classes side by side, each after a square of its colour if it has one, until the line is full."""
    x, y = corner
    end = x + CELL
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
    """A record's image, with its mask if it has one, and its classes: names and colours."""
    try:
        values = parse_features(read_record(path, number), (ENCODED, LABEL), (TEXT, SYNSET, MASK))
        image = open_image(values[ENCODED]).convert("RGB")
        if MASK in values:
            mask = np.asarray(open_image(values[MASK]))
            return blended(image, mask), _classes(mask, manifest.class_names)
        return image, [(_class_name(values, manifest), None)]
    except (UsageError, RejectedImageError, OSError, SyntaxError, ValueError, IndexError) as error:
        raise UsageError(f"record {number} of {path} cannot be shown: {error}") from error


def _class_name(values, manifest):
    name = values.get(TEXT) or values.get(SYNSET)
    if name:
        return name.decode("utf-8", "backslashreplace")
    label = values[LABEL] - manifest.label_offset
    return manifest.class_names[label] if 0 <= label < len(manifest.class_names) else "no class"


def _classes(mask, class_names):
    classes, pixels = np.unique(mask[mask != VOID], return_counts=True)
    return [(class_names[index], palette()[index]) for index in classes[np.argsort(-pixels)]]
