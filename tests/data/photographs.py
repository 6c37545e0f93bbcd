"""Photographs of a camera held on its side: the file says in its EXIF header how to turn what it stores."""

import io

from PIL import Image, ImageOps

ORIENTATION = 0x0112  # 1 to 8, as EXIF numbers the turns and mirror images


def photograph_on_its_side(stored: Image.Image, orientation: int, **options) -> bytes:
    """`stored` as a JPEG file that is to be turned."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    stored.save(file, "JPEG", exif=exif, **{"quality": 95, "subsampling": "4:4:4"} | options)
    return file.getvalue()


def as_seen(photograph: bytes) -> Image.Image:
    """The photograph upright, by Pillow."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(photograph)))
