"""Whole detectors: torchvision's RetinaNets and Mask R-CNNs, and mmdetection's over PVT, Swin and ResNet.

PyTorch's layouts. torchvision's have two spellings, before and from its version 0.13, and 91 classes, of which none is
0; mmdetection's have 80. Our deltas have y before x, theirs x before y.
"""

from tfvt.checkpoints import pvt, resnet, swin
from tfvt.checkpoints.formats import Format
from tfvt.checkpoints.layouts import box_deltas, pooled_features
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
    ("backbone.fpn.extra_blocks.p{extra}.*", "neck_p{extra}_output/*"),
)
TORCHVISION_NECK = (
    ("backbone.fpn.inner_blocks.{level}(.0)?.*", "neck_p{level}_lateral/*"),
    ("backbone.fpn.layer_blocks.{level}(.0)?.*", "neck_p{level}_output/*"),
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
_TORCHVISION_SECOND_STAGE = (
    ("rpn.head.conv(.0.0)?.*", "decoder_rpn/conv1/*"),
    ("rpn.head.cls_logits.*", "decoder_rpn_logits/conv/*"),
    ("rpn.head.bbox_pred.*", "decoder_rpn_deltas/conv/*", box_deltas),
    ("roi_heads.box_head.fc6.*", "decoder_box_dense1/*", pooled_features),
    ("roi_heads.box_head.fc7.*", "decoder_box_dense2/*"),
    ("roi_heads.box_predictor.cls_score.*", "head_class/*"),
    ("roi_heads.box_predictor.bbox_pred.*", "head_box/*", box_deltas),
    ("roi_heads.mask_head.{number}.0.*", "decoder_mask_conv{number}/*"),
    *((f"roi_heads.mask_head.mask_fcn{n}.*", f"decoder_mask_conv{n}/*") for n in range(1, 5)),
    ("roi_heads.mask_predictor.conv5_mask.*", "decoder_mask_upsample/*"),
    ("roi_heads.mask_predictor.mask_fcn_logits.*", "head_mask/*"),
)
_MMDETECTION_RPN = (
    ("rpn_head.rpn_conv.*", "decoder_rpn/conv1/*"),
    ("rpn_head.rpn_cls.*", "decoder_rpn_logits/conv/*"),
    ("rpn_head.rpn_reg.*", "decoder_rpn_deltas/conv/*", box_deltas),
)


def _mmdetection_heads(theirs: str, ours: str) -> tuple[tuple, ...]:
    """Rows of the second stage, or of one of a cascade's, whose names hold its number."""
    box, mask = f"roi_head.bbox_head{theirs}", f"roi_head.mask_head{theirs}"
    return (
        (f"{box}.shared_convs.{{number}}.conv.*", f"decoder_box{ours}_conv{{number}}/*"),
        (f"{box}.shared_convs.{{number}}.bn.*", f"decoder_box{ours}_conv{{number}}_norm/*"),
        (f"{box}.shared_fcs.0.*", f"decoder_box{ours}_dense1/*", pooled_features),
        (f"{box}.shared_fcs.1.*", f"decoder_box{ours}_dense2/*"),
        (f"{box}.fc_cls.*", f"head_class{ours}/*"),
        (f"{box}.fc_reg.*", f"head_box{ours}/*", box_deltas),
        (f"{mask}.convs.{{number}}.conv.*", f"decoder_mask{ours}_conv{{number}}/*"),
        (f"{mask}.upsample.*", f"decoder_mask{ours}_upsample/*"),
        (f"{mask}.conv_logits.*", f"head_mask{ours}/*"),
    )


SECOND_LEVEL = {"level": -1}
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
    Format(
        sources=("torchvision",),
        family="Mask R-CNN",
        anchor="roi_heads.mask_predictor.mask_fcn_logits.weight",
        first_weight="head_mask/kernel",
        table=Table(
            (*below("backbone.body.", "", resnet.TORCHVISION), *TORCHVISION_NECK, *_TORCHVISION_SECOND_STAGE),
            first=resnet.TORCHVISION_FIRST | SECOND_LEVEL,
        ),
        training=resnet.training,
        ignored=r".*num_batches_tracked",
    ),
    *(
        Format(
            sources=("mmdetection",),
            family=family,
            anchor=f"roi_head.mask_head{first}.conv_logits.weight",
            first_weight=f"head_mask{our_first}/kernel",
            table=Table(
                (
                    *below("backbone.", "", (*swin.model(swin.ATTENTION), *resnet.TORCHVISION)),
                    ("backbone.norm{level}.*", "neck_p{level}_norm/*"),
                    *NECK,
                    *_MMDETECTION_RPN,
                    *_mmdetection_heads(theirs, ours),
                ),
                first=resnet.TORCHVISION_FIRST | swin.FIRST | SECOND_LEVEL,
            ),
            training=swin.training,
            ignored=r".*(relative_position_index|attn_mask|num_batches_tracked)",
            resample="bicubic",
        )
        for family, first, our_first, theirs, ours in (
            ("Mask R-CNN", "", "", "", ""),
            ("Cascade Mask R-CNN", ".0", "_1", ".{stage_number}", "_{stage_number}"),
        )
    ),
)
