"""Detections for people: the image with boxes, classes and scores, and masks where there are some."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from tfvt.data.instance_masks import pasted
from tfvt.data.mask_pictures import LARGEST, letters, palette, png, shortened, to_look_at

SHOWN = 0.3  # lowest score of what is drawn: a detector gives many boxes that it hardly believes
LINE = 3  # pixels
PADDING = 3  # around the text of a label
WIDEST = LARGEST // 4  # of that text


def boxes_png(image: np.ndarray, answer: Mapping[str, np.ndarray], class_names: Sequence[str]) -> bytes:
    """The image, uint8 (H, W, 3), with the objects of an answer, the better over the worse, as a PNG.

    Lines have a black or white rim and labels such letters, whichever differs more from the class's colour.

    Args:
        image: pixels.
        answer: as a detector gives it for this image.
        class_names: in the order of the labels.
    """
    picture = to_look_at(image)
    zoom = np.tile(picture.size[::-1], 2) / np.tile(image.shape[:2], 2)
    drawn = [place for place in np.argsort(answer["scores"], kind="stable") if answer["scores"][place] >= SHOWN]
    boxes, labels = (answer["boxes"] * zoom)[drawn], answer["labels"][drawn]
    if "masks" in answer:
        size = picture.size[::-1]
        masks = [pasted(answer["masks"][place], box, size) for place, box in zip(drawn, boxes, strict=True)]
        picture = with_masks(picture, masks, labels)
    texts = [f"{class_names[answer['labels'][place]]} {answer['scores'][place]:.0%}" for place in drawn]
    draw_boxes(picture, boxes, labels, texts)
    return png(picture)


def draw_boxes(picture: Image.Image, boxes: np.ndarray, labels: np.ndarray, texts: Sequence[str]) -> None:
    """Draw boxes with texts into an RGB picture, later ones over earlier ones, in the colours of their classes.

    Args:
        picture: what to draw into.
        boxes: (n, 4), y1, x1, y2, x2 in its pixels.
        labels: classes (n,).
        texts: of each box; the last one has the first choice of a place that no other covers.
    """
    draw, font, colors = ImageDraw.Draw(picture), letters(), _colors(labels)
    for box, color in zip(boxes, colors, strict=True):
        _draw_box(draw, box, color)
    taken: list[tuple[float, ...]] = []
    for box, color, text in reversed(list(zip(boxes, colors, texts, strict=True))):
        taken.append(_draw_label(draw, font, picture.size, box, color, text, taken))


def with_masks(picture: Image.Image, masks: Sequence[np.ndarray], labels: np.ndarray) -> Image.Image:
    """The picture half under masks, bool (H, W), in the colours of their classes; their rims hide it."""
    pixels = np.array(picture)
    for mask, color in zip(masks, _colors(labels), strict=True):
        inner = np.pad(mask, 1)
        inner = mask & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        pixels[inner] = (pixels[inner].astype(np.uint16) + color) // 2
        pixels[mask & ~inner] = color
    return Image.fromarray(pixels)


def _colors(labels):
    return [tuple(color) for color in palette()[np.asarray(labels, int) % 255].tolist()]


def _draw_box(draw, box, color):
    y1, x1, y2, x2 = (round(float(value)) for value in box)
    x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)  # the last pixel that belongs to it
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_opposite(color), width=LINE + 2)
    draw.rectangle((x1, y1, x2, y2), outline=color, width=LINE)


def _draw_label(draw, font, size, box, color, text, taken):
    """Draw the text above the box, inside, below or at its right, where no other label is; its rectangle."""
    text = shortened(text, font, min(WIDEST, size[0]) - 2 * PADDING)
    width, height = font.getlength(text) + 2 * PADDING, sum(font.getmetrics()) + 2
    y1, x1, y2, x2 = (float(value) for value in box)
    places = [(x1, y1 - height), (x1 + LINE, y1 + LINE), (x1, y2), (x2, y1), (x2 - width, y2 - height), (x1, y1)]
    for left, top in places:
        left, top = max(min(left, size[0] - width), 0), max(min(top, size[1] - height), 0)
        tag = left, top, left + width, top + height
        if not any(a[0] < tag[2] and tag[0] < a[2] and a[1] < tag[3] and tag[1] < a[3] for a in taken):
            break
    draw.rectangle(tag, color, _opposite(color))
    draw.text((left + PADDING, top + 1), text, _opposite(color), font)
    return tag


def _opposite(color):
    """Black or white: which has more of WCAG's contrast with the colour."""
    share = np.array(color) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"
