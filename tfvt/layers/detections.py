"""The boxes that a detector finds, of what its head gives for anchors.

Source: RetinaNet (Lin et al. 2017), https://arxiv.org/abs/1708.02002, section 4.1, in the form of mmdetection.
"""

from typing import Any

import keras
from keras import ops

from tfvt.layers.boxes import box_area, clip_boxes, decode_boxes
from tfvt.layers.nms import class_nms, take_rows, top_k
from tfvt.layers.registration import register_layer


@register_layer
class LevelDetections(keras.layers.Layer):
    """The best boxes of what a RetinaNet gives.

    Args:
        per_pixel: anchors of a pixel.
        candidates, score_threshold, iou_threshold, max_detections: see `tfvt.models.detection.DetectionSettings`.

    Shapes: list of maps (B, h, w, any), whose sizes alone are read, true sizes of the images (B, 2), class_logits
    (B, A, K), box_deltas (B, A, 4) and anchors (B, A, 4) -> a dict, see `tfvt.models.detection.detector`.
    """

    def __init__(
        self,
        per_pixel: int,
        candidates: int = 1000,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", "autocast": False} | kwargs)
        self.per_pixel, self.candidates = per_pixel, candidates
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_detections = max_detections

    def call(self, maps, size, class_logits, box_deltas, anchors):
        scores, boxes, first = [], [], 0
        for x in maps:
            count = ops.shape(x)[1] * ops.shape(x)[2] * self.per_pixel
            level = [of_all[:, first : first + count] for of_all in (class_logits, box_deltas, anchors)]
            best, rows = top_k(ops.max(level[0], axis=-1), self.candidates)
            logits, deltas, around = (take_rows(values, rows) for values in level)
            boxes.append(clip_boxes(decode_boxes(deltas, around), size))
            # Not what fills up a level with fewer anchors, nor a box that lies in the padding alone.
            real = ops.logical_and(best > -float("inf"), box_area(boxes[-1]) > 0)
            scores.append(ops.where(real[..., None], ops.sigmoid(logits), 0.0))
            first = first + count
        found = class_nms(
            ops.concatenate(boxes, axis=1),
            ops.concatenate(scores, axis=1),
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            candidates=self.candidates * len(maps),
            max_detections=self.max_detections,
        )
        return {name: found[name] for name in ("boxes", "scores", "labels")}

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> dict[str, keras.KerasTensor]:
        """Keras' shapes and types, which differ."""
        shape = (args[1].shape[0], self.max_detections)
        shapes = {"boxes": ((*shape, 4), "float32"), "scores": (shape, "float32"), "labels": (shape, "int32")}
        return {name: keras.KerasTensor(*spec) for name, spec in shapes.items()}
