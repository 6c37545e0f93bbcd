"""ViT weights of TensorFlow official models: a TensorFlow checkpoint of `VisionTransformer`, alone or as a backbone.

Kernels have Keras' layout, with an axis for the heads.
"""

from tfvt.checkpoints import vit
from tfvt.checkpoints.formats import Format, Training
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD

_ENCODER = r"layer_with_weights-2/"
_LAYER = _ENCODER + r"_encoder_layers/(?P<layer>\d+)/"
_TENSOR = r"/(?P<tensor>\w+)"
_BACKBONE = (
    (r"layer_with_weights-0" + _TENSOR, "patch_embedding"),
    (r"layer_with_weights-1/cls", "embedding/class_token"),
    (_ENCODER + r"_pos_embed/pos_embedding", "positions"),
    (_LAYER + r"_attention_layer_norm" + _TENSOR, "encoder_layer{layer}/attention_norm"),
    (
        _LAYER + r"_attention_layer/_(?P<part>query|key|value)_dense" + _TENSOR,
        "encoder_layer{layer}/attention/{part}",
    ),
    (_LAYER + r"_attention_layer/_output_dense" + _TENSOR, "encoder_layer{layer}/attention/out"),
    (_LAYER + r"_output_layer_norm" + _TENSOR, "encoder_layer{layer}/mlp_norm"),
    (_LAYER + r"_intermediate_dense" + _TENSOR, "encoder_layer{layer}/mlp_in"),
    (_LAYER + r"_output_dense" + _TENSOR, "encoder_layer{layer}/mlp_out"),
    (_ENCODER + r"_norm" + _TENSOR, "encoder_norm"),
    (r"layer_with_weights-3" + _TENSOR, "pre_logits"),
)
_PREFIX = r"(?:backbone/|model/layer_with_weights-0/)?"
_SUFFIX = r"(?:/\.ATTRIBUTES/VARIABLE_VALUE)?"


def convert(arrays):
    """{our weight's path: Tensor} for every array whose name is known."""
    table = [(_PREFIX + pattern + _SUFFIX, layer) for pattern, layer in _BACKBONE]
    table.append((r"model/layer_with_weights-1" + _TENSOR + _SUFFIX, "head"))
    return vit.assemble(vit.rename(arrays, table, layout=lambda array: array))


def training(source):
    """The library's GELU is the tanh form; its pipeline normalises by ImageNet's statistics."""
    return Training("tanh", 1e-6, (IMAGENET_MEAN, IMAGENET_STD))


FORMATS = (
    Format(
        sources=("tfm",),
        family="ViT",
        anchor=_PREFIX + r"layer_with_weights-1/cls" + _SUFFIX,
        first_weight=vit.FIRST_WEIGHT,
        convert=convert,
        training=training,
        ignored=r"(optimizer|save_counter|global_step|_CHECKPOINTABLE_OBJECT_GRAPH)\b.*|.*\.OPTIMIZER_SLOT.*",
        resample="bilinear",
    ),
)
