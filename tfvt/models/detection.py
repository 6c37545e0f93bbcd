"""From what a detector's network gives to boxes: one function for all families."""

from dataclasses import asdict, dataclass

import keras

from tfvt.layers.detections import LevelDetections
from tfvt.layers.rois import MaskProbabilities, RoIDetections
from tfvt.models.detection_model import DetectionModel


@dataclass(frozen=True)
class DetectionSettings:
    """Which boxes of an image a detector gives, in mmdetection's form.

    Args:
        candidates: anchors of each level that take part: those whose best class has the best scores. Of a Mask R-CNN
            five times as many pairs of a proposal and a class.
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
        scores first. A Mask R-CNN also gives "masks" (B, D, 28, 28), probabilities within the boxes.

    Raises:
        ValueError: a model of another task, or one without its head.
    """
    settings = settings or DetectionSettings()
    if isinstance(model, DetectionModel):
        return _two_stage_detector(model, settings)
    if not isinstance(model.output, dict) or set(model.output) != {"class_logits", "box_deltas", "anchors"}:
        raise ValueError(f"{model.name} is no detection model with a head: it gives {model.output}")
    size = keras.Input((2,), dtype="int32", name="size")
    maps = keras.tree.flatten(model.get_layer("decoder_class").input)  # Keras gives a list of one as its entry
    per_pixel = model.get_layer("anchors").per_pixel
    found = LevelDetections(per_pixel, **asdict(settings), name="detections")(maps, size, **model.output)
    return keras.Model({"image": model.inputs[0], "size": size}, found, name=f"{model.name}_detector")


def _two_stage_detector(model, settings):
    """Its network up to the second stage, detections by these settings, and the mask heads on them."""
    last = list(model.stages)[-1]
    classes = model.get_layer("mean_logits").output if len(model.stages) > 1 else model.output["class_logits"]
    branches = []
    for stage in model.stages:
        regions = model.get_layer(f"mask_regions{stage}").output
        branches.append((model.maps, regions, model.output[f"mask_logits{stage}"]))
    network = DetectionModel(
        model.input,
        {
            "size": model.get_layer("true_sizes").output,
            "proposals": model.output[f"proposals{last}"],
            "states": model.output[f"states{last}"],
            "logits": classes,
            "deltas": model.output[f"box_deltas{last}"],
            "maps": model.maps,
        },
        name="network",
    )
    image = keras.Input(model.input_shape[1:], name="image")
    size = keras.Input((2,), dtype="int32", name="size")
    read = network({"image": image, "size": size})
    layer = model.get_layer("detections")
    found = RoIDetections(
        layer.std,
        layer.background_first,
        settings.score_threshold,
        settings.iou_threshold,
        5 * settings.candidates,
        settings.max_detections,
        name="detections",
    )(*(read[name] for name in ("size", "proposals", "states", "logits", "deltas")))
    masks = []
    for number, (maps, regions, logits) in enumerate(branches):
        branch = keras.Model([*maps, regions], logits, name=f"masks_{number + 1}")
        masks.append(branch([*read["maps"], found["boxes"]]))
    found["masks"] = MaskProbabilities(layer.background_first, name="masks")(masks, found["labels"])
    return keras.Model({"image": image, "size": size}, found, name=f"{model.name}_detector")
