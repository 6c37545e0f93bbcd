"""Label maps for people: a PNG with a palette, and the image under its classes' colours with a legend."""

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfvt.data.records import VOID

GOLDEN_RATIO = 0.618  # of a turn between the hues of two classes, so that neighbours differ much
# Saturation and brightness of three classes in turn: hues come close to one another after a few.
SHADES = ((1.0, 1.0), (0.55, 1.0), (1.0, 0.6))
SMALLEST, LARGEST = (
    480,
    1600,
)  # pixels of an overlay's longer side: a larger image is shown smaller, a smaller one larger
FONT_SIZE, LINE, MARGIN = 15, 22, 12
LEGEND_WIDTH = 320
MOST_LINES = 40


def palette() -> np.ndarray:
    """The colour of each class, uint8 (256, 3); `VOID` is black."""
    colors = [colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, *SHADES[index % len(SHADES)]) for index in range(VOID)]
    return (255 * np.array([*colors, (0, 0, 0)])).astype(np.uint8)


def blended(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image (RGB) half under the colours of a mask, uint8 (H, W); pixels that are void stay as they are."""
    overlaid = Image.blend(image, Image.fromarray(palette()[mask]), 0.5)
    return Image.composite(image, overlaid, Image.fromarray(mask == VOID))


def label_map_png(label_map: np.ndarray) -> bytes:
    """An 8-bit PNG of classes, uint8 (H, W), with the palette: its pixels are the classes."""
    picture = Image.fromarray(label_map)
    picture.putpalette(palette().tobytes())  # makes it one of mode "P"
    return png(picture)


def overlay_png(image: np.ndarray, label_map: np.ndarray, class_names: Sequence[str]) -> bytes:
    """The image, uint8 (H, W, 3), under the colours of its label map, with a legend: classes and their shares.

    The picture is for people: its longer side is made at least `SMALLEST` and at most `LARGEST` pixels.
    """
    base = to_look_at(image)
    shown = Image.fromarray(label_map).resize(base.size, Image.Resampling.NEAREST)
    picture = blended(base, np.asarray(shown))
    lines = _legend(label_map, class_names)
    height = max(picture.height, len(lines) * LINE + 2 * MARGIN)
    sheet = Image.new("RGB", (picture.width + LEGEND_WIDTH, height), "white")
    sheet.paste(picture, (0, 0))
    _draw(ImageDraw.Draw(sheet), picture.width + MARGIN, lines)
    return png(sheet)


def to_look_at(image: np.ndarray) -> Image.Image:
    """The image, uint8 (H, W, 3), with a longer side of at least `SMALLEST` and at most `LARGEST` pixels."""
    height, width = image.shape[:2]
    zoom = min(max(height, width, SMALLEST), LARGEST) / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.BILINEAR)


def class_shares(label_map: np.ndarray) -> list[tuple[int, float]]:
    """Classes and their shares of the pixels, the largest first."""
    counts = np.bincount(label_map.reshape(-1), minlength=VOID + 1)
    order = np.argsort(-counts, kind="stable")
    return [(int(index), float(counts[index] / label_map.size)) for index in order if counts[index]]


def _legend(label_map, class_names):
    """(colour or None, name, share) of each line."""
    shares, colors = class_shares(label_map), palette()
    most = MOST_LINES if len(shares) <= MOST_LINES else MOST_LINES - 1
    lines = [(tuple(colors[index].tolist()), class_names[index], share) for index, share in shares[:most]]
    if rest := shares[most:]:
        lines.append((None, f"{len(rest)} more classes", sum(share for _, share in rest)))
    return lines


def _draw(draw, left, lines):
    font = letters()
    right = left + LEGEND_WIDTH - 2 * MARGIN
    swatch = LINE - 6
    for number, (color, name, share) in enumerate(lines):
        top = MARGIN + number * LINE
        if color:
            draw.rectangle((left, top + 3, left + swatch, top + 3 + swatch), color, "black")
        percent = f"{share:.1%}" if share >= 0.0005 else "< 0.1%"
        begin = right - font.getlength(percent)
        draw.text((begin, top), percent, "black", font)
        text = left + swatch + MARGIN
        draw.text((text, top), shortened(name, font, begin - text - MARGIN), "black", font)


def letters() -> ImageFont.FreeTypeFont:
    """The font of pictures."""
    import matplotlib  # has a font, and takes a while to import

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", FONT_SIZE)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text on one line, with an ellipsis if it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def png(picture: Image.Image) -> bytes:
    """A PNG file's bytes."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
