"""Images of any size -> the boxes that a detector finds, in the image's own pixels. TensorFlow operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfvt.data.detection import DetectionEvaluation, fitted_size
from tfvt.data.geometry import paste
from tfvt.data.segmentation import FILL


@dataclass(frozen=True)
class Detections:
    """The objects in an image. Called on an image, uint8 (H, W, 3), it gives a dict.

    - "boxes": float32 (D, 4), y1, x1, y2, x2 in the image's pixels, within it.
    - "scores": float32 (D,), the best first.
    - "labels": int32 (D,), from 0; -1 where there is no further object.
    - "masks", of a model that gives such: float32 (D, h, w), the probability of the object within its box.

    All of it also works in a graph. D is the evaluation's `max_detections`.

    Attributes:
        forward: a detector (`tfvt.models.detection.detector`), from {"image": float32 (1, h, w, 3) in 0..255, "size":
            int32 (1, 2)} to arrays of any library.
        evaluation: the size in which the detector sees an image.
        canvas: (height, width) of the images that the detector was built for; (None, None): any.
    """

    forward: Callable[[dict[str, tf.Tensor]], Mapping[str, Any]]
    evaluation: DetectionEvaluation
    canvas: tuple[int | None, int | None] = (None, None)

    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """The objects in an image."""
        image = tf.convert_to_tensor(image)
        own = tf.shape(image)[:2]
        shown, size = self.shown(image)
        found = self.forward({"image": shown[None], "size": size[None]})
        found = {name: tf.convert_to_tensor(value)[0] for name, value in found.items()}
        own, size = (tf.cast(tf.tile(sides, (2,)), tf.float32) for sides in (own, size))
        # A product first: an image that is not resized keeps its boxes.
        return found | {"boxes": tf.minimum(found["boxes"] * own / size, own)}

    def shown(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What the detector sees of an image: float32 (h, w, 3), and (height, width) of the part that is no padding.

        Bilinear interpolation without antialiasing, as in training.
        """
        size = fitted_size(tf.shape(image)[:2], self.evaluation.short_side, self.evaluation.max_long_side)
        multiple = self.evaluation.size_multiple
        canvas = self.canvas if None not in self.canvas else (size + multiple - 1) // multiple * multiple
        around = tf.broadcast_to(tf.constant(FILL, tf.float32), tf.concat([canvas, [3]], 0))
        shown = paste(around, tf.image.resize(image, size), 0, 0)
        return tf.ensure_shape(shown, (*self.canvas, 3)), size
