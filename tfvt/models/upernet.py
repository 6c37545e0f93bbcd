"""UPerNet over any backbone with a pyramid of maps.

Sources: Unified Perceptual Parsing (Xiao et al., ECCV 2018), https://arxiv.org/abs/1807.10221, as mmsegmentation's
UPerHead and transformers' UperNetForSemanticSegmentation; over Swin (Liu et al. 2021) each level has a layer norm.
ACmix (Pan et al., CVPR 2022), Table 2. Counts against the papers: docs/fidelity.md.
"""

import itertools
from dataclasses import dataclass

import keras

from tfvt.layers import AdaptivePooling, Upsample
from tfvt.layers.pyramid import Maps, level_number
from tfvt.models.dense import Backbone, BackbonePixels, ConvNorm, neck_maps, pixel_logits
from tfvt.models.options import BatchNorm, Head, Options, spell_out
from tfvt.registry import register

VARIANTS = {
    f"upernet_{backbone}": {"backbone": backbone, "level_norm": True, "dropout_rate": 0.1}
    for backbone in ("swin_tiny", "swin_small", "acmix_swin_tiny", "acmix_swin_small")
}


@dataclass(frozen=True)
class UPerNetOptions(Options):
    """Neck and heads.

    Args:
        level_norm: a layer norm on each map of the backbone.
        neck_channels: of every map of the neck.
        pool_grid: bins in each direction of the pools of the coarsest map.
        auxiliary: also return the logits of a second head, on the second coarsest map, which is for training.
        auxiliary_channels: of its 3x3.
    """

    level_norm: bool = False
    neck_channels: int = 512
    pool_grid: tuple[int, ...] = (1, 2, 3, 6)
    auxiliary: bool = False
    auxiliary_channels: int = 256


@register(VARIANTS, task="segmentation")
@spell_out
def upernet(
    *,
    trunk: Backbone,
    options: UPerNetOptions,
    head: Head,
    pixels: BackbonePixels,
    batch_norm: BatchNorm,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    name: str | None = None,
) -> keras.Model:
    """Build a UPerNet.

    Args:
        num_classes: of a pixel.
        include_top: False returns the map (B, H / 4, W / 4, neck_channels) that the classifier would read.
        features: levels of the neck to return as a dict level -> map (B, H, W, neck_channels), no head.
        dropout_rate: of whole channels, before the classifiers.
        batch_norm_epsilon, batch_norm_momentum: of every batch norm, the backbone's too.
        input_shape: (height, width, channels) in pixels, any that the backbone takes.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits (B, H, W, num_classes), or what else is asked for;
        with `auxiliary` to a dict of logits, "logits" and "auxiliary".
    """
    image, maps = trunk.maps(input_shape, pixels, batch_norm)
    if options.auxiliary and (len(maps) < 2 or head.features is not None or not head.include_top):
        raise ValueError("auxiliary=True: the auxiliary head stands beside the classifier, on a second level")
    if options.level_norm:
        maps = {
            level: keras.layers.LayerNormalization(epsilon=1e-5, name=f"neck_{level.lower()}_norm")(x)
            for level, x in maps.items()
        }
    conv_norm = ConvNorm(batch_norm)
    fused = UPerNeck(options, conv_norm)(maps)
    if head.features is not None:
        return keras.Model(image, neck_maps(fused, head.features), name=name)
    # All levels at the size of the finest, side by side.
    x = conv_norm(list(fused.values()), options.neck_channels, 3, "decoder_fusion")
    if not head.include_top:
        return keras.Model(image, x, name=name)
    stride = 2 ** level_number(next(iter(maps)))
    logits = pixel_logits(x, image, stride, head)
    if not options.auxiliary:
        return keras.Model(image, logits, name=name)
    level = list(maps)[-2]
    x = conv_norm(maps[level], options.auxiliary_channels, 3, "head_auxiliary")
    auxiliary = pixel_logits(x, image, 2 ** level_number(level), head, "head_auxiliary")
    return keras.Model(image, {"logits": logits, "auxiliary": auxiliary}, name=name)


@dataclass(frozen=True)
class UPerNeck:
    """Pyramid pooling on the coarsest map, then a feature pyramid. Called on maps, gives maps of `neck_channels`."""

    options: UPerNetOptions
    conv_norm: ConvNorm

    def __call__(self, maps: Maps) -> dict[str, keras.KerasTensor]:
        names, channels = list(maps), self.options.neck_channels
        laterals = {names[-1]: self.pooled(maps[names[-1]])}
        for level, coarser in reversed(list(itertools.pairwise(names))):
            name = f"neck_{level.lower()}"
            lateral = self.conv_norm(maps[level], channels, 1, f"{name}_lateral")
            factor = 2 ** (level_number(coarser) - level_number(level))
            above = Upsample(factor, name=f"{name}_upsample")(laterals[coarser], lateral)
            laterals[level] = keras.layers.Add(name=f"{name}_add")([lateral, above])
        outputs = {
            level: self.conv_norm(laterals[level], channels, 3, f"neck_{level.lower()}_output") for level in names[:-1]
        }
        return outputs | {names[-1]: laterals[names[-1]]}

    def pooled(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """A map beside its own means over coarse grids, through a 3x3."""
        parts = [x]
        for grid in self.options.pool_grid:
            name = f"neck_pool{grid}"
            pool = AdaptivePooling(grid, name=name)(x)
            parts.append(self.conv_norm(pool, self.options.neck_channels, 1, name))
        return self.conv_norm(parts, self.options.neck_channels, 3, "neck_pools")
