"""ViT weights of TensorFlow official models: a TensorFlow checkpoint of `VisionTransformer`, alone or as a backbone.

Kernels have Keras' layout, with an axis for the heads.
"""

from tfvt.checkpoints.files import Checkpoint
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import as_is, from_heads, to_heads, token_and_patches
from tfvt.checkpoints.renaming import Table, below
from tfvt.models.options import IMAGENET_MEAN, IMAGENET_STD

_LAYER = (
    ("_attention_layer_norm/*", "attention_norm/*"),
    (
        ("_attention_layer/_query_dense/*", "_attention_layer/_key_dense/*", "_attention_layer/_value_dense/*"),
        "attention/qkv_*",
        from_heads,
    ),
    ("_attention_layer/_output_dense/kernel", "attention/out/kernel", to_heads),
    ("_attention_layer/_output_dense/bias", "attention/out/bias"),
    ("_output_layer_norm/*", "mlp_norm/*"),
    ("_intermediate_dense/*", "mlp_in/*"),
    ("_output_dense/*", "mlp_out/*"),
)
_ENCODER = (
    ("_pos_embed/pos_embedding", ("embedding/class_position", "embedding/patch_positions"), token_and_patches),
    *below("_encoder_layers/{layer}/", "encoder_layer{layer}/", _LAYER),
    ("_norm/*", "encoder_norm/*"),
)
_BACKBONE = (
    ("layer_with_weights-0/*", "patch_embedding/*"),
    ("layer_with_weights-1/cls", "embedding/class_token"),
    *below("layer_with_weights-2/", "", _ENCODER),
    ("layer_with_weights-3/*", "pre_logits/*"),
)
_PREFIX = "(backbone/|model/layer_with_weights-0/)?"
VIT = (*below(_PREFIX, "", _BACKBONE), ("model/layer_with_weights-1/*", "head/*"))


def training(source: Checkpoint) -> Training:
    """The library's GELU is the tanh form; its pipeline normalises by ImageNet's statistics."""
    return Training("tanh", 1e-6, (IMAGENET_MEAN, IMAGENET_STD))


FORMATS = (
    Format(
        sources=("tfm",),
        family="ViT",
        anchor=f"{_PREFIX}layer_with_weights-1/cls",
        first_weight="patch_embedding/kernel",
        table=Table(VIT, layout=as_is, suffix="(/.ATTRIBUTES/VARIABLE_VALUE)?"),
        training=training,
        ignored=r"(optimizer|save_counter|global_step|_CHECKPOINTABLE_OBJECT_GRAPH)\b.*|.*\.OPTIMIZER_SLOT.*",
        resample="bilinear",
    ),
)
