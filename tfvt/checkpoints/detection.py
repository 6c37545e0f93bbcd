"""Whole detectors: torchvision's RetinaNets, and mmdetection's over PVT and ResNet.

PyTorch's layouts. torchvision's have two spellings, before and from its version 0.13, and 91 classes, of which none is
0; mmdetection's have 80. Our deltas have y before x, theirs x before y.
"""

from tfvt.checkpoints import pvt, resnet
from tfvt.checkpoints.formats import Format
from tfvt.checkpoints.layouts import box_deltas
from tfvt.checkpoints.renaming import Table, below

_TORCHVISION_HEADS = (
    *(
        row
        for theirs, ours in (("classification", "class"), ("regression", "box"))
        for row in (
            (f"head.{theirs}_head.conv.{{tower}}.0.*", f"decoder_{ours}/conv{{tower}}/*"),
            (f"head.{theirs}_head.conv.{{tower}}.1.*", f"decoder_{ours}/conv{{tower}}_norm/*"),
            *((f"head.{theirs}_head.conv.{2 * n}.*", f"decoder_{ours}/conv{n + 1}/*") for n in range(4)),
        )
    ),
    ("head.classification_head.cls_logits.*", "head_class/conv/*"),
    ("head.regression_head.bbox_reg.*", "head_box/conv/*", box_deltas),
)
TORCHVISION_NECK = (
    ("backbone.fpn.inner_blocks.{level}(.0)?.*", "neck_p{level}_lateral/*"),
    ("backbone.fpn.layer_blocks.{level}(.0)?.*", "neck_p{level}_output/*"),
    ("backbone.fpn.extra_blocks.p{extra}.*", "neck_p{extra}_output/*"),
)
NECK = (
    ("neck.lateral_convs.{level}.conv.*", "neck_p{level}_lateral/*"),
    ("neck.fpn_convs.{level}.conv.*", "neck_p{level}_output/*"),
)
_MMDETECTION_HEADS = (
    ("bbox_head.cls_convs.{tower}.conv.*", "decoder_class/conv{tower}/*"),
    ("bbox_head.reg_convs.{tower}.conv.*", "decoder_box/conv{tower}/*"),
    ("bbox_head.retina_cls.*", "head_class/conv/*"),
    ("bbox_head.retina_reg.*", "head_box/conv/*", box_deltas),
)
FIRST_LEVEL = {"level": -2}  # both count from 0 what stands for our P3

FORMATS = (
    Format(
        sources=("torchvision",),
        family="RetinaNet",
        anchor="head.classification_head.cls_logits.weight",
        first_weight="head_class/conv/kernel",
        table=Table(
            (*below("backbone.body.", "", resnet.TORCHVISION), *TORCHVISION_NECK, *_TORCHVISION_HEADS),
            first=resnet.TORCHVISION_FIRST | FIRST_LEVEL | {"extra": 1},
        ),
        training=resnet.training,
        ignored=r".*num_batches_tracked",
    ),
    Format(
        sources=("mmdetection",),
        family="RetinaNet",
        anchor="bbox_head.retina_cls.weight",
        first_weight="head_class/conv/kernel",
        table=Table(
            (*below("backbone.", "", (*pvt.AUTHORS, *resnet.TORCHVISION)), *NECK, *_MMDETECTION_HEADS),
            first=resnet.TORCHVISION_FIRST | FIRST_LEVEL,
        ),
        training=pvt.training,
        ignored=r".*num_batches_tracked",
    ),
)
