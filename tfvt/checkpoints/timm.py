"""ViT weights under the names of timm and of DeiT, with PyTorch's layouts and one matrix for queries, keys, values."""

from collections.abc import Mapping
from typing import Any

from tfvt.checkpoints.files import Checkpoint, pixel_units, read_neighbour
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import token_and_patches
from tfvt.checkpoints.renaming import Table, below

_LAYER = (
    ("norm1.*", "attention_norm/*"),
    ("attn.qkv.*", "attention/qkv_*"),
    ("attn.proj.*", "attention/out/*"),
    ("norm2.*", "mlp_norm/*"),
    ("mlp.fc1.*", "mlp_in/*"),
    ("mlp.fc2.*", "mlp_out/*"),
)
VIT = (
    ("patch_embed.proj.*", "patch_embedding/*"),
    ("cls_token", "embedding/class_token"),
    ("pos_embed", ("embedding/class_position", "embedding/patch_positions"), token_and_patches),
    *below("blocks.{layer}.", "encoder_layer{layer}/", _LAYER),
    ("norm.*", "encoder_norm/*"),
    ("pre_logits.fc.*", "pre_logits/*"),
    ("head.*", "head/*"),
)


def training(source: Checkpoint) -> Training:
    """Pixel statistics from timm's `config.json` beside the file; DeiT's and timm's own ViTs have different ones."""
    return Training("erf", 1e-6, pixel_statistics(read_neighbour(source, "config.json")))


def pixel_statistics(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, standard deviation) in pixel units of timm's `config.json`; None if it has none.

    Raises:
        ValueError: they are no numbers; the message names the key.
    """
    pixels = config.get("pretrained_cfg", config)  # before timm 0.9, its entries stood in the file itself
    if not isinstance(pixels, dict):
        raise ValueError(f"pretrained_cfg={pixels!r}: expected a JSON object")
    if not {"mean", "std"} <= set(pixels):
        return None
    mean, std = (pixel_units(pixels[key], f"pretrained_cfg.{key}") for key in ("mean", "std"))
    return mean, std


FORMATS = (
    Format(
        sources=("timm",),
        family="ViT",
        anchor="cls_token",
        first_weight="patch_embedding/kernel",
        table=Table(VIT),
        training=training,
        resample="bicubic_antialias",
    ),
)
