"""Masks of objects at their image's own size: from a mask head's probabilities, from records, and as COCO's codes."""

import io
import math

import numpy as np
from PIL import Image

from tfvt.errors import UsageError

THRESHOLD = 0.5  # from this probability on, a pixel is the object's


def pasted(probabilities: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels of an object, bool (H, W): bilinear interpolation with zeros around, cut at one half.

    This is what Detectron2 and mmdetection compute (`paste_masks_in_image`, `_do_paste_mask`), on the box's pixels
    alone: further outside, no probability reaches one half.

    Args:
        probabilities: of an object within its box, float (h, w).
        box: y1, x1, y2, x2 in pixels of the image.
        size: (height, width) of the image.
    """
    first, end, weights = [], [], []
    for axis in range(2):
        begin, stop, cells = float(box[axis]), float(box[axis + 2]), probabilities.shape[axis]
        first.append(min(max(math.floor(begin), 0), size[axis]))
        end.append(max(min(math.ceil(stop), size[axis]), first[axis]))
        middles = np.arange(first[axis], end[axis]) + 0.5
        places = (middles - begin) / max(stop - begin, 1e-6) * cells + 0.5  # a row of zeros comes first
        weights.append(np.maximum(1 - np.abs(places[:, None] - np.arange(1, cells + 1)), 0).astype(np.float32))
    pixels = np.zeros(size, bool)
    found = weights[0] @ probabilities.astype(np.float32) @ weights[1].T
    pixels[first[0] : end[0], first[1] : end[1]] = found >= THRESHOLD
    return pixels


def opened(encoded: bytes) -> np.ndarray:
    """The pixels of an object, bool (H, W), from the PNG that a record holds."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("L")) > 0


def run_lengths(pixels: np.ndarray) -> bytes:
    """COCO's code, "counts", of the pixels of an object, bool (H, W).

    Raises:
        UsageError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UsageError(f"COCO's code of masks needs pycocotools: pip install 'tfvt[detection]' ({error})") from error
    return mask.encode(np.asfortranarray(pixels, np.uint8))["counts"]
