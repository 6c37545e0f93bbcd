"""From what a detector's network gives to boxes: one function for all families."""

from dataclasses import asdict, dataclass

import keras

from tfvt.layers.detections import LevelDetections


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
    size = keras.Input((2,), dtype="int32", name="size")
    maps, per_pixel = model.get_layer("decoder_class").input, model.get_layer("anchors").per_pixel
    found = LevelDetections(per_pixel, **asdict(settings), name="detections")(maps, size, **model.output)
    return keras.Model({"image": model.inputs[0], "size": size}, found, name=f"{model.name}_detector")
