"""Model families, a module each; importing this package registers every name."""

from tfvt.models import (
    acmix_resnet,
    mask_rcnn,
    panoptic_fpn,
    pvt,
    resnet,
    retinanet,
    san,
    swin,
    upernet,
    vit,
    vt_resnet,
)

__all__ = [
    "acmix_resnet",
    "mask_rcnn",
    "panoptic_fpn",
    "pvt",
    "resnet",
    "retinanet",
    "san",
    "swin",
    "upernet",
    "vit",
    "vt_resnet",
]
