"""One image -> what its record holds. Bytes are copied; only the few files that readers fail on are re-encoded.

Sizes come from the header, without decoding, so that conversion waits for the disk and not for the processor.
"""

import io
import os
import re
import stat
import struct
import threading
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from tfvt.data.records import counted
from tfvt.stores import AnyPath, StorePath, as_path

JPEG_QUALITY = 95
ORIENTATION = 0x0112  # EXIF's tag
GREY_MODES = ("1", "L", "LA")
WITH_JPEG_ONLY = {"WEBP": "WebP", "BMP": "BMP", "GIF": "GIF"}  # Pillow's name -> the reader's
_BEGINS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}

# Inside a JPEG's compressed data, 0xFF is followed by 0x00 (a data byte), 0xD0-0xD7 (restart) or 0xFF (filling);
# anything else is the next marker.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE, _EXIF = 0xDA, 0xD9, 0xE1
_SIZE_AND_CHANNELS = (0xC0, 0xC1, 0xC2)  # frames of baseline, extended and progressive JPEGs

# Damage for which libjpeg only warns and then makes up pixels. Its other warnings are harmless.
_JPEG_DAMAGE = re.compile(r"Corrupt JPEG data|Premature end")
# libjpeg also says this of images that decode well but have further bytes after the end.
_JPEG_SURPLUS = re.compile(r"extraneous bytes before marker")

_opening = threading.Lock()  # the filters of warnings belong to the process, and threads open images


class RejectedImageError(Exception):
    """A file that gives no record; the text is the reason."""


@dataclass(frozen=True)
class EncodedImage:
    """The features of a record that come from the file: bytes, size in pixels, channels as encoded."""

    encoded: bytes
    format: str
    height: int
    width: int
    channels: int
    colorspace: str


def read_image(data: bytes, jpeg: bool = False) -> EncodedImage:
    """The image in a file's bytes: JPEG or PNG, whatever its name says.

    This re-encodes CMYK JPEGs (to RGB), 16-bit PNGs (to 8 bits) and images that EXIF says are rotated (upright);
    with `jpeg` also every PNG, WebP, BMP and GIF (the first frame), transparent pixels over white. It writes JPEGs with
    quality 95 and without chroma subsampling. A copied JPEG counts as complete when its markers lead to the
    end-of-image marker; damage inside the compressed data that leaves the markers intact shows only when the image is
    decoded. An image to re-encode is decoded, and rejected if a decoder finds or suspects damage: its copy would hide
    the damage.

    Raises:
        RejectedImageError: of another format, cut off, damaged, or with more pixels than `Image.MAX_IMAGE_PIXELS`.
    """
    if plain := _plain_jpeg(data):
        height, width, channels = plain
        colorspace = "Grayscale" if channels == 1 else "RGB"
        return EncodedImage(data, "JPEG", height, width, channels, colorspace)
    try:
        image = open_image(data, ("JPEG", "PNG", *WITH_JPEG_ONLY))
        kind = "JPEG" if image.format == "MPO" else image.format  # MPO: a JPEG followed by further pictures
        if kind in WITH_JPEG_ONLY and not jpeg:
            raise RejectedImageError(f"{WITH_JPEG_ONLY[kind]} file: `tfvt records convert --jpeg` makes a JPEG of it")
        if kind == "JPEG" and not _is_complete_jpeg(data):
            raise RejectedImageError("JPEG is cut off: it has no end-of-image marker")
        if kind == "PNG":
            verify_png(data)
        to_jpeg = jpeg and kind != "JPEG"
        if to_jpeg or image.mode == "CMYK" or _is_16_bit_png(data, kind) or orientation(image) != 1:
            if kind == "JPEG" and (damage := jpeg_damage(data)):
                raise RejectedImageError(f"JPEG {damage[0]}")
            kind = "JPEG" if to_jpeg else kind
            data, image = _reencode(image, kind)
    except Image.UnidentifiedImageError:
        if kind := next((kind for kind, begin in _BEGINS.items() if data.startswith(begin)), None):
            raise RejectedImageError(f"{kind} is cut off or damaged: its header cannot be read") from None
        raise RejectedImageError(f"neither JPEG nor PNG: it begins with {data[:8]!r}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow raises any of these for damaged files, SyntaxError for PNGs.
        raise RejectedImageError(str(error)) from error
    grey = image.mode in GREY_MODES
    return EncodedImage(
        encoded=data,
        format=kind,
        height=image.height,
        width=image.width,
        channels=3 if image.mode == "P" else len(image.getbands()),
        colorspace="Grayscale" if grey else "RGB",
    )


def open_image(data: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """The image in a file's bytes; only its header is read.

    Args:
        data: the bytes.
        formats: Pillow's names of those to try; by default all.

    Raises:
        RejectedImageError: it has more pixels than `Image.MAX_IMAGE_PIXELS`. Up to twice as many, Pillow only warns,
            and cannot name the file.
        OSError: Pillow finds no such image in it.
    """
    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise RejectedImageError(
            f"too large: it has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down"
        ) from None


def read_file(path: AnyPath | str, offset: int = 0, size: int | None = None) -> bytes:
    """A whole file, or `size` bytes of it from `offset`.

    Raises:
        RejectedImageError: unreadable, empty, or shorter.
    """
    try:
        data = _read_regular(path, offset, size)
    except OSError as error:
        raise RejectedImageError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise RejectedImageError("empty file")
    if size is not None and len(data) < size:
        raise RejectedImageError(f"{path} ends {counted(size - len(data), 'byte')} before the image does")
    return data


def _read_regular(path, offset, size):
    if isinstance(as_path(path), StorePath):
        with as_path(path).open("rb") as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RejectedImageError("not a regular file")
        return os.pread(descriptor, status.st_size if size is None else size, offset)
    finally:
        os.close(descriptor)


def _plain_jpeg(data):
    """(height, width, channels) of a whole JPEG that needs no change, as nearly all do; else None.

    Pillow sees more, but takes as long as all other work on such a file before it is written. In a file that ends with
    the end-of-image marker, there is no need to search for it after the header of the first scan: compressed data
    holds no markers.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        return None
    position, found = 2, None
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _START_OF_SCAN:
            return found
        if marker == _EXIF and data.startswith(b"Exif", position + 4):
            return None  # may say that the image is rotated
        if marker in _SIZE_AND_CHANNELS:
            precision, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            if precision != 8 or not 0 < height * width <= Image.MAX_IMAGE_PIXELS or channels not in (1, 3):
                return None
            found = height, width, channels
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _is_complete_jpeg(data):
    """Whether the markers lead over at least one scan to the end of the image. Thumbnails inside are skipped."""
    position, scans = 2, 0
    while match := _MARKER.search(data, position):
        marker, position = data[match.end() - 1], match.end()
        if marker == _END_OF_IMAGE:
            return scans > 0
        scans += marker == _START_OF_SCAN
        position += int.from_bytes(data[position : position + 2], "big")
    return False


def jpeg_damage(data: bytes) -> tuple[str, bool] | None:
    """The warning of libjpeg about a JPEG's compressed data, and whether it may be harmless; None: no warning.

    Damage that prevents decoding is reported by the decoders, Pillow's or the pipeline's.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY")
    except ValueError as error:
        if _JPEG_SURPLUS.search(str(error)):
            return f"may be damaged: {error}", True
        if _JPEG_DAMAGE.search(str(error)):
            return f"decodes with made-up pixels: {error}", False
    return None


def verify_png(data: bytes) -> None:
    """Checks every chunk, up to the last.

    Raises:
        RejectedImageError: one is missing, or its checksum is wrong.
    """
    try:
        open_image(data).verify()
    except (OSError, SyntaxError) as error:
        raise RejectedImageError(f"PNG is cut off or damaged: {error}") from error


def _is_16_bit_png(data, kind):
    return kind == "PNG" and data[24] == 16


def orientation(image: Image.Image) -> int:
    """EXIF's: 1 is upright, 2 to 8 are mirrored or rotated."""
    if "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block, for which Pillow has many errors, says nothing about rotation
        return 1
    return value if value in range(1, 9) else 1


def _reencode(image, kind):
    """(bytes, image): upright, 8 bits, grey or RGB; PNG also with transparency. JPEG has none: there, over white."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert("L") would clip at 255
    if kind == "JPEG":
        mode = "L" if image.mode in GREY_MODES else "RGB"
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **({"quality": JPEG_QUALITY, "subsampling": "4:4:4"} if kind == "JPEG" else {}))
    return file.getvalue(), image
