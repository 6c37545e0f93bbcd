"""The classes of an image's pixels: a PNG of stored ids -> a PNG of classes."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from .images import RejectedImageError, open_image, orientation, verify_png

_UPRIGHT = {  # EXIF orientations that exchange width and height, and what undoes them
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def encode_mask(data: bytes, mask_ids: Mapping[int, int], image_data: bytes) -> bytes:
    """An 8-bit grey PNG of the size of the record's image: classes 0, 1, ..., and 255 where a pixel has none.

    If EXIF says that the image is rotated, the mask is turned like the image if it has the size of the stored pixels,
    and kept if it has the size of the upright image; a size that fits both is ambiguous and rejected.

    Args:
        data: the mask file's bytes, a PNG of one channel; of a palette the indices count, not the colours.
        mask_ids: stored id -> class, 255 for none.
        image_data: bytes of the image file that the mask belongs to, as it is stored.

    Raises:
        RejectedImageError: not such a PNG, not of the image's size, or with ids that have no class.
    """
    image = open_image(image_data)
    try:
        mask = open_image(data, ("PNG",))
        verify_png(data)
        mask.load()
    except Image.UnidentifiedImageError:
        raise RejectedImageError(f"its mask is not a PNG: it begins with {data[:8]!r}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise RejectedImageError(f"its mask: {error}") from error
    except RejectedImageError as error:
        raise RejectedImageError(f"its mask: {error}") from error
    if mask.mode not in ("1", "L", "P") and not mask.mode.startswith("I"):
        raise RejectedImageError(f"its mask has colours ({mask.mode}) instead of one id a pixel")
    if must_turn(mask.size, image, "mask"):
        mask = turned(mask, image)
    ids = np.asarray(mask).astype(np.int64)
    depth = data[24]
    if mask.mode == "L" and depth < 8:  # Pillow stretches the grey of 2 and 4 bits to 0..255
        ids //= 255 // (2**depth - 1)
    stored, inverse = np.unique(ids, return_inverse=True)
    unknown = [str(number) for number in stored.tolist() if number not in mask_ids]
    if unknown:
        raise RejectedImageError(
            f"its mask has ids to which the layout gives no class, {', '.join(unknown[:10])}: add them to its "
            "classes or to void_label"
        )
    classes = np.array([mask_ids[number] for number in stored.tolist()], np.uint8)
    file = io.BytesIO()
    Image.fromarray(classes[inverse].reshape(ids.shape)).save(file, "PNG")
    return file.getvalue()


def must_turn(size: tuple[int, int], image: Image.Image, name: str) -> bool:
    """Whether what describes an image is of its stored pixels, and EXIF says that those are rotated.

    Args:
        size: width and height of the image that it describes.
        image: as it is stored.
        name: what describes it, in messages.

    Raises:
        RejectedImageError: the size fits neither the stored nor the upright image; or both, so that it does not tell.
    """
    turn = orientation(image)
    fits_stored, fits_upright = size == image.size, size == image.size[:: -1 if turn in _UPRIGHT else 1]
    if not (fits_stored or fits_upright):
        raise RejectedImageError(
            f"its {name} has {size[0]}x{size[1]} pixels, the image {image.size[0]}x{image.size[1]}"
        )
    if turn != 1 and fits_stored and fits_upright:
        raise RejectedImageError(
            f"EXIF says that it is rotated, and the size of its {name} does not show whether that is too: turn the "
            "image upright, or remove the tag"
        )
    return turn != 1 and fits_stored


def turned(picture: Image.Image, image: Image.Image) -> Image.Image:
    """A picture of the stored pixels, turned as EXIF says of the image."""
    return picture.transpose(_UPRIGHT[orientation(image)])
