"""ViT weights under the names of transformers: `ViTModel` and `ViTForImageClassification`, with PyTorch's layouts.

One model has two spellings: that of files (`save_pretrained`) and, from version 5, that of the live state dict.
"""

from tfvt.checkpoints import vit
from tfvt.checkpoints.files import read_neighbour, torch_layout
from tfvt.checkpoints.formats import Format, Training
from tfvt.checks import check_choice

_LAYER = r"(?:encoder\.layer|layers)\.(?P<layer>\d+)\."
_TENSOR = r"\.(?P<tensor>weight|bias)"
_TABLE = (
    (r"embeddings\.patch_embeddings\.projection" + _TENSOR, "patch_embedding"),
    (r"embeddings\.cls_token", "embedding/class_token"),
    (r"embeddings\.position_embeddings", "positions"),
    (_LAYER + r"layernorm_before" + _TENSOR, "encoder_layer{layer}/attention_norm"),
    (_LAYER + r"attention\.(?:attention\.query|q_proj)" + _TENSOR, "encoder_layer{layer}/attention/query"),
    (_LAYER + r"attention\.(?:attention\.key|k_proj)" + _TENSOR, "encoder_layer{layer}/attention/key"),
    (_LAYER + r"attention\.(?:attention\.value|v_proj)" + _TENSOR, "encoder_layer{layer}/attention/value"),
    (_LAYER + r"attention\.(?:output\.dense|o_proj)" + _TENSOR, "encoder_layer{layer}/attention/out"),
    (_LAYER + r"layernorm_after" + _TENSOR, "encoder_layer{layer}/mlp_norm"),
    (_LAYER + r"(?:intermediate\.dense|mlp\.fc1)" + _TENSOR, "encoder_layer{layer}/mlp_in"),
    (_LAYER + r"(?:output\.dense|mlp\.fc2)" + _TENSOR, "encoder_layer{layer}/mlp_out"),
    (r"layernorm" + _TENSOR, "encoder_norm"),
    (r"pooler\.dense" + _TENSOR, "pre_logits"),
    (r"classifier" + _TENSOR, "head"),
)
_GELUS = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


def convert(arrays):
    """{our weight's path: Tensor} for every array whose name is known."""
    table = [(rf"(?:vit\.)?{pattern}", layer) for pattern, layer in _TABLE]
    return vit.assemble(vit.rename(arrays, table, torch_layout))


def training(source):
    """What `config.json` and `preprocessor_config.json` beside the file say, or the library's defaults."""
    config, pixels = (read_neighbour(source, name) for name in ("config.json", "preprocessor_config.json"))
    activation = config.get("hidden_act", "gelu")
    check_choice("hidden_act in config.json", activation, _GELUS)
    mean, std = (tuple(255 * v for v in pixels.get(key, (0.5,) * 3)) for key in ("image_mean", "image_std"))
    return Training(_GELUS[activation], config.get("layer_norm_eps"), (mean, std))


FORMATS = (
    Format(
        sources=("huggingface",),
        family="ViT",
        anchor=r"(vit\.)?embeddings\.cls_token",
        first_weight=vit.FIRST_WEIGHT,
        convert=convert,
        training=training,
        ignored=r"(vit\.)?embeddings\.mask_token",
        resample="bicubic",
    ),
)
