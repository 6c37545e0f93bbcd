"""Anchors: the boxes that a detector looks at, of several sizes and forms around every pixel of its maps.

Sources: Faster R-CNN (Ren et al. 2015), https://arxiv.org/abs/1506.01497, section 3.1.1, and RetinaNet (Lin et al.
2017), https://arxiv.org/abs/1708.02002, section 4, in the form of mmdetection's AnchorGenerator or, with `whole`, of
torchvision's.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfvt.layers.pyramid import level_number
from tfvt.layers.registration import register_layer

PADDED_TO = 32  # pixels: an image alone is padded until its sides are multiples of this


@register_layer
class Anchors(keras.layers.Layer):
    """Boxes y1, x1, y2, x2 in pixels of the image, whose centres lie at whole multiples of each level's stride.

    In the order of levels, then rows, columns, ratios and scales. They may reach outside the image.

    Args:
        levels: of the maps, "P3" for stride 8 and so on.
        scales: side of the anchor of ratio 1, in strides.
        ratios: height / width of anchors of the same area.
        whole: as torchvision: sides in whole pixels, corners too, and the image's size divided by the map's, rounded
            down, in place of the stride.

    Shapes: image (B, H, W, any) and a list of maps (B, h, w, any), whose sizes alone are read -> (B, A, 4), float32.
    """

    def __init__(
        self,
        levels: tuple[str, ...] = ("P3", "P4", "P5", "P6", "P7"),
        scales: tuple[float, ...] = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)),
        ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        whole: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", "autocast": False} | kwargs)
        self.levels, self.scales, self.ratios, self.whole = tuple(levels), tuple(scales), tuple(ratios), whole

    @property
    def per_pixel(self) -> int:
        """Anchors around one pixel of a map."""
        return len(self.scales) * len(self.ratios)

    def call(self, image, maps):
        batch, *size, _ = ops.shape(image)
        grids = [tuple(ops.shape(x)[1:3]) for x in maps]
        pairs = zip(self.levels, grids, strict=True)
        anchors = ops.concatenate([self._of_level(2 ** level_number(level), grid, size) for level, grid in pairs])
        return ops.broadcast_to(anchors, (batch, *ops.shape(anchors)))

    def _of_level(self, stride, grid, size):
        """(A, 4): the anchors of a map."""
        steps = [side // cells for side, cells in zip(size, grid, strict=True)] if self.whole else [stride, stride]
        y = ops.cast(ops.arange(grid[0]) * steps[0], "float32")[:, None, None]
        x = ops.cast(ops.arange(grid[1]) * steps[1], "float32")[None, :, None]
        y1, x1, y2, x2 = ops.unstack(ops.convert_to_tensor(self._around_zero(stride)), 4, axis=-1)
        shape = (*grid, self.per_pixel)
        sides = [ops.broadcast_to(side, shape) for side in (y + y1, x + x1, y + y2, x + x2)]
        return ops.reshape(ops.stack(sides, axis=-1), (-1, 4))

    def _around_zero(self, stride):
        """(ratios * scales, 4): the anchors whose centre is 0, 0."""
        # In float32 and in this order, as others do, so that halves are rounded alike.
        root = np.sqrt(np.array(self.ratios, "float32"))[:, None]
        scales = np.array([stride * scale for scale in self.scales], "float32")
        scales = np.trunc(scales) if self.whole else scales
        heights, widths = (root * scales).ravel(), (1 / root * scales).ravel()
        corners = np.stack([-heights, -widths, heights, widths], axis=-1) / 2
        return np.round(corners) if self.whole else corners

    def compute_output_shape(self, image_shape, maps_shape):
        sides = [side for shape in maps_shape for side in shape[1:3]]
        pixels = None if None in sides else sum(shape[1] * shape[2] for shape in maps_shape)
        return (image_shape[0], pixels and pixels * self.per_pixel, 4)


def anchors_within(anchors: Any, sizes: Any) -> Any:
    """Whether anchors (B, A, 4) also exist where each image, of `sizes` (B, 2), is padded alone: bool (B, A).

    Their centres lie in the image padded to multiples of 32, as mmdetection's `valid_flags` have it.
    """
    sizes = (ops.cast(sizes, "int32") + PADDED_TO - 1) // PADDED_TO * PADDED_TO
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    return ops.all(centres < ops.cast(sizes, centres.dtype)[:, None], axis=-1)
