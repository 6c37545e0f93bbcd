"""ViT weights under the names of timm and of DeiT, with PyTorch's layouts and one matrix for queries, keys, values."""

from tfvt.checkpoints.files import Checkpoint, read_neighbour
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
    pixels = read_neighbour(source, "config.json").get("pretrained_cfg", {})
    statistics = None
    if {"mean", "std"} <= set(pixels):
        statistics = tuple(tuple(255 * v for v in pixels[key]) for key in ("mean", "std"))
    return Training("erf", 1e-6, statistics)


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
