"""ViT weights under the names of transformers: `ViTModel` and `ViTForImageClassification`, with PyTorch's layouts.

One model has two spellings: that of files (`save_pretrained`) and, from version 5, that of the live state dict.
"""

from tfvt.checkpoints.files import Checkpoint, pixel_units, read_neighbour
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import token_and_patches
from tfvt.checkpoints.renaming import Table, below
from tfvt.checks import check_choice

_LAYER = (
    ("layernorm_before.*", "attention_norm/*"),
    (
        (
            "attention.(attention.query|q_proj).*",
            "attention.(attention.key|k_proj).*",
            "attention.(attention.value|v_proj).*",
        ),
        "attention/qkv_*",
    ),
    ("attention.(output.dense|o_proj).*", "attention/out/*"),
    ("layernorm_after.*", "mlp_norm/*"),
    ("(intermediate.dense|mlp.fc1).*", "mlp_in/*"),
    ("(output.dense|mlp.fc2).*", "mlp_out/*"),
)
VIT = (
    ("embeddings.patch_embeddings.projection.*", "patch_embedding/*"),
    ("embeddings.cls_token", "embedding/class_token"),
    (
        "embeddings.position_embeddings",
        ("embedding/class_position", "embedding/patch_positions"),
        token_and_patches,
    ),
    *below("(encoder.layer|layers).{layer}.", "encoder_layer{layer}/", _LAYER),
    ("layernorm.*", "encoder_norm/*"),
    ("pooler.dense.*", "pre_logits/*"),
    ("classifier.*", "head/*"),
)
_GELUS = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def training(source: Checkpoint) -> Training:
    """What `config.json` and `preprocessor_config.json` beside the file say, or the library's defaults."""
    config, pixels = (read_neighbour(source, name) for name in ("config.json", "preprocessor_config.json"))
    activation = config.get("hidden_act", "gelu")
    check_choice("hidden_act in config.json", activation, _GELUS)
    mean, std = (pixel_units(pixels.get(key, (0.5,) * 3), key) for key in ("image_mean", "image_std"))
    return Training(_GELUS[activation], config.get("layer_norm_eps"), (mean, std))


FORMATS = (
    Format(
        sources=("huggingface",),
        family="ViT",
        anchor="embeddings.cls_token",
        first_weight="patch_embedding/kernel",
        table=Table(VIT, prefix="(vit.)?"),
        training=training,
        ignored=r"(vit\.)?embeddings\.mask_token",
        resample="bicubic",
    ),
)
