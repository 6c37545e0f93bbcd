"""Panoptic and semantic FPN, and VT-FPN, over any backbone with a pyramid of maps.

Sources: Panoptic Feature Pyramid Networks (Kirillov et al., CVPR 2019), https://arxiv.org/abs/1901.02446, section 3.1,
as detectron2's SemSegFPNHead; Visual Transformers (Wu et al., ICCV 2021), section 4.2 and Tables 9 and 10, for VT-FPN;
PVT (Wang et al. 2021) and ACmix (Pan et al., CVPR 2022, Table 2) for the semantic FPN over PVT, with batch norm in the
head and without a class token in the backbone. Counts against the papers: docs/fidelity.md.
"""

from dataclasses import dataclass
from typing import Literal

import keras

from tfvt.layers import FPN, VTFPN, Upsample
from tfvt.layers.pyramid import Maps, level_number
from tfvt.layers.visual_tokens import Norm
from tfvt.models.dense import Backbone, BackbonePixels, ConvNorm, neck_maps, pixel_logits
from tfvt.models.options import BatchNorm, Head, Options, spell_out
from tfvt.registry import register

_STRIDE_IN_1X1 = {"stride_in_1x1": True}
_NO_TOKEN = {"class_token": False}
VARIANTS = {
    "fpn_resnet50": {"backbone": "resnet50", "backbone_options": _STRIDE_IN_1X1},
    "fpn_resnet101": {"backbone": "resnet101", "backbone_options": _STRIDE_IN_1X1},
    "vt_fpn_resnet50": {"backbone": "resnet50", "backbone_options": _STRIDE_IN_1X1, "neck": "vt_fpn"},
    "vt_fpn_resnet101": {"backbone": "resnet101", "backbone_options": _STRIDE_IN_1X1, "neck": "vt_fpn"},
    "semantic_fpn_pvt_tiny": {"backbone": "pvt_tiny", "backbone_options": _NO_TOKEN, "dropout_rate": 0.1},
    "semantic_fpn_pvt_small": {"backbone": "pvt_small", "backbone_options": _NO_TOKEN, "dropout_rate": 0.1},
    "semantic_fpn_acmix_pvt_tiny": {"backbone": "acmix_pvt_tiny", "backbone_options": _NO_TOKEN, "dropout_rate": 0.1},
    "semantic_fpn_acmix_pvt_small": {"backbone": "acmix_pvt_small", "backbone_options": _NO_TOKEN, "dropout_rate": 0.1},
}


@dataclass(frozen=True)
class FPNOptions(Options):
    """Neck and head.

    Args:
        neck: "fpn", or "vt_fpn" with token modules in place of its four 3x3.
        pyramid_channels: of the neck's maps.
        top_down: add coarser maps to finer ones; the counts of VT-FPN do not show whether it does.
        num_tokens: of "vt_fpn", a level.
        token_dim: of "vt_fpn", channels of a token.
        query_groups: of "vt_fpn", of the projectors' W_Q.
        token_norm: of "vt_fpn", after every linear but W_A and W_Q.
        head_channels: of the semantic head's 3x3.
        head_norm: after them: "batch", as VT and PVT, or "group" (32 groups), as detectron2.
    """

    neck: Literal["fpn", "vt_fpn"] = "fpn"
    pyramid_channels: int = 256
    top_down: bool = True
    num_tokens: int = 8
    token_dim: int = 1024
    query_groups: int = 16
    token_norm: Norm = "batch"
    head_channels: int = 128
    head_norm: Literal["batch", "group"] = "batch"


@register(VARIANTS, task="segmentation")
@spell_out
def panoptic_fpn(
    *,
    trunk: Backbone,
    options: FPNOptions,
    head: Head,
    pixels: BackbonePixels,
    batch_norm: BatchNorm,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    name: str | None = None,
) -> keras.Model:
    """Build a panoptic FPN.

    Args:
        num_classes: of a pixel.
        include_top: False returns the sum (B, H / 4, W / 4, head_channels) that the classifier would read.
        features: levels of the neck to return as a dict level -> map (B, H, W, pyramid_channels), no head.
        dropout_rate: of whole channels, before the classifier.
        batch_norm_epsilon, batch_norm_momentum: of every batch norm, the backbone's too.
        input_shape: (height, width, channels) in pixels, any that the backbone takes.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits (B, H, W, num_classes), or what else is asked for.
    """
    image, maps = trunk.maps(input_shape, pixels, batch_norm)
    maps = neck(options, batch_norm)(maps)
    if head.features is not None:
        return keras.Model(image, neck_maps(maps, head.features), name=name)
    x = semantic_head(maps, options.head_channels, ConvNorm(batch_norm, options.head_norm))
    if head.include_top:
        x = pixel_logits(x, image, 4, head)
    return keras.Model(image, x, name=name)


def neck(options: FPNOptions, batch_norm: BatchNorm) -> FPN:
    """The neck that the options describe."""
    if options.neck == "fpn":
        return FPN(options.pyramid_channels, options.top_down)
    return VTFPN(
        options.pyramid_channels,
        options.top_down,
        num_tokens=options.num_tokens,
        token_dim=options.token_dim,
        query_groups=options.query_groups,
        norm=options.token_norm,
        norm_options=batch_norm.keras_arguments() if options.token_norm == "batch" else {},
    )


def semantic_head(maps: Maps, channels: int, conv_norm: ConvNorm) -> keras.KerasTensor:
    """Each level through a 3x3 and a doubling of its size for each step down to stride 4, then their sum."""
    branches = []
    for level, x in maps.items():
        steps = level_number(level) - 2
        for step in range(max(1, steps)):
            name = f"decoder_{level.lower()}_{step + 1}"
            x = conv_norm(x, channels, 3, name)
            if steps:
                # A level's map is the size to grow to, where there is one: what halving rounded up, doubling cuts.
                finer = maps.get(f"P{level_number(level) - step - 1}")
                like = () if finer is None else (finer,)
                x = Upsample(2, name=f"{name}_upsample")(x, *like)
        branches.append(x)
    return keras.layers.Add(name="decoder_sum")(branches) if len(branches) > 1 else branches[0]
