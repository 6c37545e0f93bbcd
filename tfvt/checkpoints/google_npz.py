"""ViT weights as Google publishes them: `.npz` files of vit_jax (ViT, augreg) and of big_vision.

Kernels have Keras' layout, with an axis for the heads. big_vision adds its positions to the patches alone: the
class token's is folded into `cls`.
"""

import numpy as np

from tfvt.checkpoints import vit
from tfvt.checkpoints.formats import Format, Tensor, Training

_LAYER = r"Transformer/encoderblock_(?P<layer>\d+)/"
_TENSOR = r"(?P<tensor>\w+)"
_ATTENTION = r"(?:MultiHeadDotProductAttention_1|MHDPA_0)/(?P<part>query|key|value|out)/"
_TABLE = (
    (r"embedding/" + _TENSOR, "patch_embedding"),
    (r"cls", "embedding/class_token"),
    (r"Transformer/posembed_input/pos_embedding", "positions"),
    (r"pos_embedding", "big_vision_positions"),
    (_LAYER + r"LayerNorm_0/" + _TENSOR, "encoder_layer{layer}/attention_norm"),
    (_LAYER + r"(?:LayerNorm_2|LayerNorm_1)/" + _TENSOR, "encoder_layer{layer}/mlp_norm"),
    (_LAYER + _ATTENTION + _TENSOR, "encoder_layer{layer}/attention/{part}"),
    (_LAYER + r"(?:MlpBlock_3|MlpBlock_0)/Dense_0/" + _TENSOR, "encoder_layer{layer}/mlp_in"),
    (_LAYER + r"(?:MlpBlock_3|MlpBlock_0)/Dense_1/" + _TENSOR, "encoder_layer{layer}/mlp_out"),
    (r"Transformer/encoder_norm/" + _TENSOR, "encoder_norm"),
    (r"pre_logits/" + _TENSOR, "pre_logits"),
    (r"head/" + _TENSOR, "head"),
)


def convert(arrays):
    """{our weight's path: Tensor} for every array whose name is known."""
    table = [(f"(?:params/)?{pattern}", layer) for pattern, layer in _TABLE]
    pieces = vit.rename(arrays, table, layout=lambda array: array)
    folded = pieces.pop("big_vision_positions", None)
    weights = vit.assemble(pieces)
    if folded is not None:
        channels = folded.array.shape[-1]
        weights[vit.PATCH_POSITIONS] = Tensor(folded.names, folded.array.reshape(-1, channels))
        weights["embedding/class_position"] = Tensor(folded.names, np.zeros((1, 1, channels), "float32"))
    return weights


def training(source):
    """Both projects train with the tanh form and pixels in -1..1."""
    return Training("tanh", 1e-6, ((127.5,) * 3, (127.5,) * 3))


FORMATS = (
    Format(
        sources=("google",),
        family="ViT",
        anchor=r"(params/)?embedding/kernel",
        first_weight=vit.FIRST_WEIGHT,
        convert=convert,
        training=training,
        resample="zoom",
    ),
)
