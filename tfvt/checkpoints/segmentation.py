"""Whole segmentation models: mmsegmentation's UPerNet and semantic FPN, and transformers' UPerNet.

PyTorch's layouts; of mmsegmentation the names of 0.x, with the authors' Swin and PVT. mmsegmentation 1.x
has a Swin of its own, whose names and order of merged pixels differ.
"""

from tfvt.checkpoints import pvt, swin
from tfvt.checkpoints.formats import Format
from tfvt.checkpoints.renaming import Table, below


def _conv_norm(theirs: str, ours: str) -> tuple[tuple, ...]:
    """Rows of a convolution and its norm; transformers calls it `batch_norm`."""
    return ((f"{theirs}.conv.*", f"{ours}_conv/*"), (f"{theirs}.(bn|batch_norm).*", f"{ours}_norm/*"))


UPERNET = (
    *(
        row
        for number, grid in enumerate((1, 2, 3, 6))
        for row in _conv_norm(f"decode_head.psp_modules.{number}.1", f"neck_pool{grid}")
    ),
    *_conv_norm("decode_head.bottleneck", "neck_pools"),
    *_conv_norm("decode_head.lateral_convs.{level}", "neck_p{level}_lateral"),
    *_conv_norm("decode_head.fpn_convs.{level}", "neck_p{level}_output"),
    *_conv_norm("decode_head.fpn_bottleneck", "decoder_fusion"),
    ("decode_head.(conv_seg|classifier).*", "head/*"),
    *_conv_norm("auxiliary_head.convs.0", "head_auxiliary"),
    ("auxiliary_head.(conv_seg|classifier).*", "head_auxiliary/*"),
)
SEMANTIC_FPN = (
    ("neck.lateral_convs.{level}.conv.*", "neck_p{level}_lateral/*"),
    ("neck.fpn_convs.{level}.conv.*", "neck_p{level}_output/*"),
    *(
        row  # between two convolutions stands an upsampling
        for step in (1, 2, 3)
        for row in _conv_norm(f"decode_head.scale_heads.{{level}}.{2 * step - 2}", f"decoder_p{{level}}_{step}")
    ),
    ("decode_head.conv_seg.*", "head/*"),
)
LEVELS = {"level": -1}  # mmsegmentation counts from 0 what stands for our P2
IGNORED = r".*(relative_position_index|attn_mask|num_batches_tracked)"

FORMATS = (
    Format(
        sources=("mmsegmentation",),
        family="UPerNet",
        anchor="backbone.layers.0.blocks.0.attn.relative_position_bias_table",
        first_weight="neck_pools_conv/kernel",
        table=Table(
            (
                *below("backbone.", "", swin.model(swin.ATTENTION)),
                ("backbone.norm{level}.*", "neck_p{level}_norm/*"),
                *UPERNET,
            ),
            first=swin.FIRST | LEVELS,
        ),
        training=swin.training,
        ignored=IGNORED,
        resample="bicubic",
    ),
    Format(
        sources=("huggingface",),
        family="UPerNet",
        anchor=r"backbone.(swin.)?encoder.layers.0.blocks.0.attention.\w+.relative_position_bias_table",
        first_weight="neck_pools_conv/kernel",
        table=Table(
            (
                *below("backbone.(swin.)?", "", swin.HUGGINGFACE),
                ("backbone.hidden_states_norms.stage{number}.*", "neck_p{number}_norm/*"),  # from 1, as 1 stands for P2
                *UPERNET,
            ),
            first=swin.FIRST | LEVELS,
        ),
        training=swin.training,
        ignored=IGNORED,
        resample="bicubic",
    ),
    Format(
        sources=("mmsegmentation",),
        family="semantic FPN",
        anchor="backbone.patch_embed1.proj.weight",
        first_weight="decoder_p2_1_conv/kernel",
        table=Table((*below("backbone.", "", pvt.AUTHORS), *SEMANTIC_FPN), first={"stage": 1} | LEVELS),
        training=pvt.training,
        ignored=IGNORED,
    ),
)
