"""ViT weights as Google publishes them: `.npz` files of vit_jax (ViT, augreg) and of big_vision.

Kernels have Keras' layout, with an axis for the heads. big_vision adds its positions to the patches only and folds
the class token's into `cls`.
"""

from tfvt.checkpoints.files import Checkpoint
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import as_is, from_heads, patches_alone, to_heads, token_and_patches
from tfvt.checkpoints.renaming import Table, below

_POSITIONS = ("embedding/class_position", "embedding/patch_positions")
_ATTENTION = (
    (("query/*", "key/*", "value/*"), "qkv_*", from_heads),
    ("out/kernel", "out/kernel", to_heads),
    ("out/bias", "out/bias"),
)
_LAYER = (
    ("LayerNorm_0/*", "attention_norm/*"),
    *below("(MultiHeadDotProductAttention_1|MHDPA_0)/", "attention/", _ATTENTION),
    ("(LayerNorm_2|LayerNorm_1)/*", "mlp_norm/*"),
    ("(MlpBlock_3|MlpBlock_0)/Dense_0/*", "mlp_in/*"),
    ("(MlpBlock_3|MlpBlock_0)/Dense_1/*", "mlp_out/*"),
)
VIT = (
    ("embedding/*", "patch_embedding/*"),
    ("cls", "embedding/class_token"),
    ("Transformer/posembed_input/pos_embedding", _POSITIONS, token_and_patches),
    ("pos_embedding", _POSITIONS, patches_alone),
    *below("Transformer/encoderblock_{layer}/", "encoder_layer{layer}/", _LAYER),
    ("Transformer/encoder_norm/*", "encoder_norm/*"),
    ("pre_logits/*", "pre_logits/*"),
    ("head/*", "head/*"),
)


def training(source: Checkpoint) -> Training:
    """Both projects train with the tanh form and pixels in -1..1."""
    return Training("tanh", 1e-6, ((127.5,) * 3, (127.5,) * 3))


FORMATS = (
    Format(
        sources=("google",),
        family="ViT",
        anchor="embedding/kernel",
        first_weight="patch_embedding/kernel",
        table=Table(VIT, layout=as_is, prefix="(params/)?"),
        training=training,
        resample="zoom",
    ),
)
