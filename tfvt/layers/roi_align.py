"""RoIAlign: what the maps of a pyramid hold within boxes, at one size for all boxes.

Sources: Mask R-CNN (He et al. 2017), https://arxiv.org/abs/1703.06870, section 3; Feature Pyramid Networks (Lin et al.
2017), https://arxiv.org/abs/1612.03144, eq. 1, for the level of a box.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfvt.layers.boxes import box_area
from tfvt.layers.nms import take_rows
from tfvt.layers.pyramid import level_number
from tfvt.layers.registration import register_layer

FINEST = 56  # pixels: a box of twice that side, and every larger one, reads a level coarser than the finest


def roi_align(
    maps: Sequence[Any], strides: Sequence[int], boxes: Any, size: int, samples: int = 2, aligned: bool = True
) -> Any:
    """The maps within boxes, each box on the level that fits its size. No gradient reaches the boxes.

    Args:
        maps: (B, h, w, C) each, the finest first.
        strides: of the maps, each twice the one before.
        boxes: (B, N, 4), y1, x1, y2, x2 in pixels of the image; a coordinate that is not finite counts as 0.
        size: cells of a box along a side.
        samples: points in a cell along a side, whose bilinear values are averaged. mmdetection takes as many as a cell
            has pixels of the map along that side, rounded up, which has no static shape. On the level of its size a
            square box has 14 to 28 pixels, so mmdetection takes 2 to 4 for 7 cells and 1 or 2 for 14; smaller boxes of
            the finest level take fewer.
        aligned: pixels lie at half-pixel centres; False: at whole numbers, and boxes have at least the side of one
            pixel, as in torchvision's detectors.

    Returns:
        (B, N, size, size, C).
    """
    boxes = ops.cast(ops.stop_gradient(boxes), "float32")
    boxes = ops.where(ops.isfinite(boxes), boxes, 0.0)  # no number is no pixel's: TensorFlow would stop on CPUs
    sides = [ops.shape(x)[1:3] for x in maps]
    level = box_levels(boxes, len(maps))
    rows, columns = (_of_level([side[axis] for side in sides], level) for axis in range(2))
    ends = [0]
    for height, width in sides:
        ends.append(ends[-1] + height * width)
    first = _of_level(ends[:-1], level)
    scaled = boxes / ops.cast(_of_level(strides, level), "float32")[..., None] - (0.5 if aligned else 0)
    y1, x1, y2, x2 = ops.unstack(scaled, 4, axis=-1)
    y, y_weights = _neighbours(y1, y2, rows, size, samples, aligned)
    x, x_weights = _neighbours(x1, x2, columns, size, samples, aligned)
    # (B, N, cell's row, cell's column, pixel's row, pixel's column)
    places = (first[..., None, None] + y * columns[..., None, None])[:, :, :, None, :, None] + x[:, :, None, :, None]
    weights = y_weights[:, :, :, None, :, None] * x_weights[:, :, None, :, None]
    pixels = (2 * samples) ** 2
    shape = (ops.shape(boxes)[0], ops.shape(boxes)[1] * size**2, pixels)
    flat = [ops.reshape(x, (shape[0], -1, x.shape[-1])) for x in maps]
    values = _weighted(ops.concatenate(flat, axis=1), ops.reshape(places, shape), ops.reshape(weights, shape))
    return ops.reshape(values, (-1, ops.shape(boxes)[1], size, size, maps[0].shape[-1]))


def box_levels(boxes: Any, levels: int) -> Any:
    """int32 (B, N): which of so many maps, the finest with 0, a box (B, N, 4) reads."""
    side = ops.sqrt(ops.maximum(box_area(boxes), 0))
    level = ops.floor(ops.log2(side / FINEST + 1e-6))
    return ops.cast(ops.clip(level, 0, levels - 1), "int32")


def _of_level(values, level):
    return ops.take(ops.stack([ops.convert_to_tensor(value, "int32") for value in values]), level)


def _neighbours(start, end, length, size, samples, aligned):
    """The pixels along one axis that each cell reads, and their weights, both (B, N, size, 2 samples)."""
    extent = end - start if aligned else ops.maximum(end - start, 1.0)
    steps = (ops.arange(size * samples, dtype="float32") + 0.5) / (size * samples)
    at = start[..., None] + extent[..., None] * steps
    length = ops.cast(length, "float32")[..., None]
    inside = ops.logical_and(at >= -1, at <= length)
    at = ops.clip(at, 0, length - 1)
    low = ops.floor(at)
    share = at - low
    places = ops.stack([low, ops.minimum(low + 1, length - 1)], axis=-1)
    weights = ops.where(inside[..., None], ops.stack([1 - share, share], axis=-1), 0.0) / samples
    shape = (*ops.shape(start), size, 2 * samples)
    return ops.cast(ops.reshape(places, shape), "int32"), ops.reshape(weights, shape)


def _weighted(pixels, places, weights):
    """Sums (B, M, C) over the last axis of `places` (B, M, P) of pixels (B, L, C), with their weights (B, M, P)."""
    weights = ops.cast(weights, pixels.dtype)
    if keras.backend.backend() == "jax":  # XLA takes longer for all of them together
        each = zip(ops.unstack(places, axis=-1), ops.unstack(weights, axis=-1), strict=True)
        return sum(take_rows(pixels, place) * weight[..., None] for place, weight in each)
    batch, cells, count = ops.shape(places)
    taken = ops.reshape(take_rows(pixels, ops.reshape(places, (batch, -1))), (batch, cells, count, pixels.shape[-1]))
    return ops.matmul(weights[:, :, None], taken)[:, :, 0]


@register_layer
class RoIAlign(keras.layers.Layer):
    """`roi_align` of the maps of a pyramid.

    Args:
        levels: of the maps, the finest first, such as ("P2", "P3").
        size, samples, aligned: see `roi_align`.

    Shapes: maps [(B, h, w, C), ...], boxes (B, N, 4) -> (B, N, size, size, C).
    """

    def __init__(
        self, levels: tuple[str, ...], size: int, samples: int = 2, aligned: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**{"autocast": False} | kwargs)  # half precision holds no coordinates
        self.levels, self.size, self.samples, self.aligned = tuple(levels), size, samples, aligned

    def call(self, maps, boxes):
        strides = [2 ** level_number(level) for level in self.levels]
        return roi_align(maps, strides, boxes, self.size, self.samples, self.aligned)

    def compute_output_spec(self, maps: list[keras.KerasTensor], boxes: keras.KerasTensor) -> keras.KerasTensor:
        """Keras' shape and type."""
        shape = (*boxes.shape[:2], self.size, self.size, maps[0].shape[-1])
        return keras.KerasTensor(shape, maps[0].dtype)
