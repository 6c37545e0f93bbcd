"""ViT weights under the names of timm and of DeiT, with PyTorch's layouts and one matrix for queries, keys, values."""

from tfvt.checkpoints import vit
from tfvt.checkpoints.files import read_neighbour, torch_layout
from tfvt.checkpoints.formats import Format, Training

_LAYER = r"blocks\.(?P<layer>\d+)\."
_TENSOR = r"\.(?P<tensor>weight|bias)"
_TABLE = (
    (r"patch_embed\.proj" + _TENSOR, "patch_embedding"),
    (r"cls_token", "embedding/class_token"),
    (r"pos_embed", "positions"),
    (_LAYER + r"norm1" + _TENSOR, "encoder_layer{layer}/attention_norm"),
    (_LAYER + r"attn\.qkv" + _TENSOR, "encoder_layer{layer}/attention/qkv"),
    (_LAYER + r"attn\.proj" + _TENSOR, "encoder_layer{layer}/attention/out"),
    (_LAYER + r"norm2" + _TENSOR, "encoder_layer{layer}/mlp_norm"),
    (_LAYER + r"mlp\.fc1" + _TENSOR, "encoder_layer{layer}/mlp_in"),
    (_LAYER + r"mlp\.fc2" + _TENSOR, "encoder_layer{layer}/mlp_out"),
    (r"norm" + _TENSOR, "encoder_norm"),
    (r"pre_logits\.fc" + _TENSOR, "pre_logits"),
    (r"head" + _TENSOR, "head"),
)


def convert(arrays):
    """{our weight's path: Tensor} for every array whose name is known."""
    return vit.assemble(vit.rename(arrays, _TABLE, torch_layout))


def training(source):
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
        anchor=r"cls_token",
        first_weight=vit.FIRST_WEIGHT,
        convert=convert,
        training=training,
        resample="bicubic_antialias",
    ),
)
