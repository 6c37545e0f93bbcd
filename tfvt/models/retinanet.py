"""RetinaNet over any backbone with a pyramid of maps.

Sources: Focal Loss for Dense Object Detection (Lin et al., ICCV 2017), https://arxiv.org/abs/1708.02002, as
mmdetection's RetinaHead; PVT (Wang et al. 2021) and ACmix (Pan et al., CVPR 2022), Tables 3 to 5, whose detectors
follow mmdetection. Options have what torchvision's two RetinaNets do otherwise. Counts against the papers:
docs/fidelity.md.
"""

from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import ops

from tfvt.layers import FPN, LevelOutputs, LevelTower
from tfvt.layers.anchors import Anchors, anchors_within
from tfvt.layers.boxes import assign_boxes, decode_boxes, encode_boxes
from tfvt.layers.losses import giou_loss, sigmoid_focal_loss, smooth_l1
from tfvt.layers.nms import take_rows
from tfvt.layers.pyramid import Maps, level_number
from tfvt.models.dense import Backbone, BackbonePixels, neck_maps
from tfvt.models.options import BatchNorm, Head, Options, spell_out
from tfvt.registry import register

_LEVELS = ("P3", "P4", "P5")
# As the authors of PVT: tables of positions for the images of the classifier, and no class token.
_PVT = {"class_token": False, "positions_shape": (224, 224)}
VARIANTS = {
    **{
        f"retinanet_{backbone}": {"backbone": backbone, "levels": _LEVELS}
        for backbone in ("resnet50", "sasa_resnet50", "acmix_resnet50", "san19", "acmix_san19")
    },
    **{
        f"retinanet_{backbone}": {"backbone": backbone, "levels": _LEVELS, "backbone_options": _PVT}
        for backbone in ("pvt_tiny", "pvt_small", "pvt_large", "acmix_pvt_tiny", "acmix_pvt_small")
    },
}
SCALES = tuple(4 * 2 ** (octave / 3) for octave in range(3))
RATIOS = (0.5, 1.0, 2.0)
PRIOR = 0.01  # probability of every class in the beginning


@dataclass(frozen=True)
class RetinaNetOptions(Options):
    """Neck, head and anchors.

    Args:
        pyramid_channels: of the neck's maps and the towers.
        extra_levels: coarser maps below the backbone's, each by a 3x3 of stride 2 on the one before.
        extra_source: what the first of them reads: the "backbone"'s last map, or the "neck"'s, as torchvision's first
            RetinaNet.
        extra_relu: a ReLU in front of all of them but the first, as torchvision.
        tower_depth: 3x3 of each tower.
        tower_norm: after them: "group" (32 groups) in torchvision's second RetinaNet.
        whole_anchors: anchors in whole pixels, as torchvision, see `tfvt.layers.Anchors`.
    """

    pyramid_channels: int = 256
    extra_levels: int = 2
    extra_source: Literal["backbone", "neck"] = "backbone"
    extra_relu: bool = False
    tower_depth: int = 4
    tower_norm: Literal["none", "group"] = "none"
    whole_anchors: bool = False


@register(VARIANTS, task="detection")
@spell_out
def retinanet(
    *,
    trunk: Backbone,
    options: RetinaNetOptions,
    head: Head,
    pixels: BackbonePixels,
    batch_norm: BatchNorm,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    name: str | None = None,
) -> keras.Model:
    """Build a RetinaNet. `tfvt.models.detection.detector` makes boxes of its answers, `retinanet_losses` trains it.

    Args:
        num_classes: of a box.
        include_top: False returns the neck's maps, as `features` with all levels.
        features: levels of the neck to return as a dict level -> map (B, H, W, pyramid_channels), no head.
        dropout_rate: of whole channels of the neck's maps, before the towers (the authors have none).
        batch_norm_epsilon, batch_norm_momentum: of every batch norm of the backbone.
        input_shape: (height, width, channels) in pixels, any that the backbone takes; None for any.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to a dict: "class_logits" (B, A, num_classes), "box_deltas"
        (B, A, 4), dy, dx, dh, dw, and "anchors" (B, A, 4), y1, x1, y2, x2 in pixels, all float32; or what else is asked
        for.
    """
    image, maps = trunk.maps(input_shape, pixels, batch_norm)
    maps = with_extra_levels(FPN(options.pyramid_channels)(maps), maps, options)
    if head.features is not None:
        return keras.Model(image, neck_maps(maps, head.features), name=name)
    if not head.include_top:
        return keras.Model(image, maps, name=name)
    if head.dropout_rate:
        maps = {
            level: keras.layers.SpatialDropout2D(head.dropout_rate, name=f"head_dropout_{level.lower()}")(x)
            for level, x in maps.items()
        }
    return keras.Model(image, prediction(image, maps, int(head.num_classes), options), name=name)


def prediction(
    image: keras.KerasTensor, maps: Maps, num_classes: int, options: RetinaNetOptions
) -> dict[str, keras.KerasTensor]:
    """The head's answers and the anchors that they are for."""
    anchors = Anchors(tuple(maps), SCALES, RATIOS, options.whole_anchors, name="anchors")
    maps = list(maps.values())
    outputs = {}
    for key, kind, units, prior in (("class_logits", "class", num_classes, PRIOR), ("box_deltas", "box", 4, 0.5)):
        tower = LevelTower(options.pyramid_channels, options.tower_depth, options.tower_norm, name=f"decoder_{kind}")
        x = LevelOutputs(units, anchors.per_pixel, prior=prior, name=f"head_{kind}")(tower(maps))
        # Computed in half precision where that is the policy; what follows is not.
        outputs[key] = keras.layers.Activation("linear", dtype="float32", name=key)(x)
    return outputs | {"anchors": anchors(image, maps)}


def with_extra_levels(maps: Maps, backbone_maps: Maps, options: RetinaNetOptions) -> dict[str, keras.KerasTensor]:
    """The neck's maps and the coarser ones that follow them."""
    maps = dict(maps)
    last = list(maps)[-1]
    x = maps[last] if options.extra_source == "neck" else backbone_maps[last]
    for number in range(options.extra_levels):
        level = f"P{level_number(last) + number + 1}"
        name = f"neck_{level.lower()}"
        if number and options.extra_relu:
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
        x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)  # alike on both sides, unlike "same"
        x = keras.layers.Conv2D(options.pyramid_channels, 3, strides=2, name=f"{name}_output")(x)
        maps[level] = x
    return maps


def retinanet_losses(
    outputs: dict[str, Any],
    boxes: Any,
    labels: Any,
    crowd: Any,
    box_loss: Literal["l1", "giou"] = "l1",
    reassign_best: bool = True,
    size: Any = None,
) -> dict[str, Any]:
    """Sums over the anchors of each image. The losses are these sums, divided by the positives of the whole batch.

    An anchor is positive from an IoU of 0.5 with a box, or if it is the best one of a box; negative below 0.4, unless
    it lies in a crowd.

    Args:
        outputs: what a model gives of B images.
        boxes: (B, N, 4), the true ones: y1, x1, y2, x2 in pixels.
        labels: (B, N) of the boxes; -1 where there is none.
        crowd: (B, N) bool: what is many objects, and no box to learn.
        box_loss: "l1" of the deltas, or "giou" of the decoded boxes, as torchvision's second RetinaNet.
        reassign_best: see `tfvt.layers.boxes.assign_boxes`; False as torchvision.
        size: (B, 2), of what each image holds: anchors in its padding do not count, see
            `tfvt.layers.anchors.anchors_within`; None: all count, as torchvision.

    Returns:
        "class", focal loss, "box", and "positives", the number of positive anchors, each (B,) float32.
    """
    logits, deltas, anchors = (outputs[key] for key in ("class_logits", "box_deltas", "anchors"))
    matched, state = assign_boxes(anchors, boxes, labels, crowd, reassign_best=reassign_best)
    if size is not None:
        state = ops.where(anchors_within(anchors, size), state, -1)
    positive = state == 1
    own = ops.where(positive, take_rows(ops.cast(labels, "int32"), matched), -1)
    ones = own[..., None] == ops.arange(logits.shape[-1], dtype="int32")
    focal = ops.where((state >= 0)[..., None], sigmoid_focal_loss(logits, ones), 0.0)
    boxes = take_rows(boxes, matched)
    if box_loss == "l1":
        errors = ops.sum(smooth_l1(deltas - encode_boxes(boxes, anchors)), axis=-1)
    else:
        errors = giou_loss(decode_boxes(deltas, anchors), boxes)
    return {
        "class": ops.sum(focal, axis=(1, 2)),
        "box": ops.sum(ops.where(positive, errors, 0.0), axis=1),
        "positives": ops.sum(ops.cast(positive, "float32"), axis=1),
    }
