"""From what a detector's network gives to boxes: one function for all families."""

from dataclasses import asdict, dataclass
from typing import Any

import keras
from keras import ops

from tfvt.layers.anchors import anchor_counts
from tfvt.layers.boxes import box_area, clip_boxes, decode_boxes
from tfvt.layers.nms import class_nms, take_rows, top_k
from tfvt.layers.registration import register_layer


@dataclass(frozen=True)
class DetectionSettings:
    """Which boxes of an image a detector gives, in mmdetection's form.

    Args:
        candidates: anchors of each level that take part: those whose best class has the best scores.
        score_threshold: boxes with a higher score take part.
        iou_threshold: a box falls away that overlaps a better one of its class more than that.
        max_detections: boxes of an image, the best ones of all classes.
    """

    candidates: int = 1000
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100


def detector(model: keras.Model, settings: DetectionSettings | None = None) -> keras.Model:
    """The model of boxes over a detection model, with the same weights.

    Args:
        model: of the task "detection", with its head.
        settings: which boxes it gives; None for the defaults.

    Returns:
        A `keras.Model` from {"image": (B, H, W, 3), as `model` takes it, "size": (B, 2) int32, height and width of what
        the image holds in its upper left corner; the rest is padding} to {"boxes": (B, D, 4), y1, x1, y2, x2 in pixels
        of the image, within its size, "scores": (B, D), "labels": (B, D) int32, -1 where there is no box}, the best
        scores first.

    Raises:
        ValueError: a model of another task, or one without its head.
    """
    settings = settings or DetectionSettings()
    if not isinstance(model.output, dict) or set(model.output) != {"class_logits", "box_deltas", "anchors"}:
        raise ValueError(f"{model.name} is no detection model with a head: it gives {model.output}")
    image = keras.Input(model.input_shape[1:], name="image")
    size = keras.Input((2,), dtype="int32", name="size")
    anchors = model.get_layer("anchors")
    layer = LevelDetections(anchors.levels, anchors.per_pixel, **asdict(settings), name="detections")
    return keras.Model(
        {"image": image, "size": size}, layer(image, size, **model(image)), name=f"{model.name}_detector"
    )


@register_layer
class LevelDetections(keras.layers.Layer):
    """The best boxes of what a RetinaNet gives.

    Args:
        levels, per_pixel: of the model's `tfvt.layers.Anchors`.
        candidates, score_threshold, iou_threshold, max_detections: see `DetectionSettings`.

    Shapes: image (B, H, W, any), whose size alone is read, size (B, 2), class_logits (B, A, K), box_deltas (B, A, 4)
    and anchors (B, A, 4) -> a dict, see `detector`.
    """

    def __init__(
        self,
        levels: tuple[str, ...],
        per_pixel: int,
        candidates: int = 1000,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.levels, self.per_pixel, self.candidates = tuple(levels), per_pixel, candidates
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_detections = max_detections

    def call(self, image, size, class_logits, box_deltas, anchors):
        scores, boxes, first = [], [], 0
        for count in anchor_counts(self.levels, self.per_pixel, *ops.shape(image)[1:3]):
            level = [x[:, first : first + count] for x in (class_logits, box_deltas, anchors)]
            best, rows = top_k(ops.max(level[0], axis=-1), self.candidates)
            logits, deltas, around = (take_rows(x, rows) for x in level)
            boxes.append(clip_boxes(decode_boxes(deltas, around), size))
            # Not what fills up a level with fewer anchors, nor a box that lies in the padding alone.
            counts = ops.logical_and(best > -float("inf"), box_area(boxes[-1]) > 0)
            scores.append(ops.where(counts[..., None], ops.sigmoid(logits), 0.0))
            first = first + count
        found = class_nms(
            ops.concatenate(boxes, axis=1),
            ops.concatenate(scores, axis=1),
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            candidates=self.candidates * len(self.levels),
            max_detections=self.max_detections,
        )
        return {name: found[name] for name in ("boxes", "scores", "labels")}

    def compute_output_spec(self, image, size, class_logits, box_deltas, anchors):
        shape = (image.shape[0], self.max_detections)
        return {
            "boxes": keras.KerasTensor((*shape, 4), "float32"),
            "scores": keras.KerasTensor(shape, "float32"),
            "labels": keras.KerasTensor(shape, "int32"),
        }
