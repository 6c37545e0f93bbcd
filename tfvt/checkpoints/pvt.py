"""PVT weights under the authors' names, and under those of transformers' `PvtForImageClassification`.

PyTorch's layouts. Two norms of the authors' code, that of the patches and that of the reduced map, have an epsilon of
1e-5 where the others, and all of ours, have 1e-6.
"""

import re

import numpy as np

from tfvt.checkpoints.files import read_neighbour, torch_layout
from tfvt.checkpoints.formats import Format, Tensor, Training
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD

# The authors' modules of a block, and of a stage's patch embedding.
_BLOCK = {
    "norm1": "mixer_norm",
    "attn.q": "mixer/query",
    "attn.kv": "mixer/key_value",
    "attn.sr": "mixer/reduce",
    "attn.norm": "mixer/reduce_norm",
    "attn.proj": "mixer/out",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}
_EMBEDDING = {"norm": "norm", "proj": "projection"}
_NORM = {"weight": "gamma", "bias": "beta"}
_DENSE = {"weight": "kernel", "bias": "bias"}

# transformers' names as the authors'. Stages count from 0 there; keys and values are joined afterwards.
_HUGGINGFACE = (
    (r"^pvt\.", ""),
    (r"^encoder\.layer_norm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"^encoder\.patch_embeddings\.\d+\.cls_token", "cls_token"),
    (r"^encoder\.patch_embeddings\.(\d+)\.position_embeddings", lambda m: f"pos_embed{int(m[1]) + 1}"),
    (r"^encoder\.patch_embeddings\.(\d+)\.layer_norm", lambda m: f"patch_embed{int(m[1]) + 1}.norm"),
    (r"^encoder\.patch_embeddings\.(\d+)\.projection", lambda m: f"patch_embed{int(m[1]) + 1}.proj"),
    (r"^encoder\.block\.(\d+)\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"\.layer_norm_(\d)\.", r".norm\1."),
    (r"\.attention\.self\.query\.", ".attn.q."),
    (r"\.attention\.self\.(key|value)\.", r".attn.\1."),
    (r"\.attention\.self\.sequence_reduction\.", ".attn.sr."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
)


def convert(arrays):
    """Under the authors' names: {our weight's path: Tensor} for every array whose name is known."""
    return _convert({name: Tensor((name,), array) for name, array in arrays.items()})


def convert_huggingface(arrays):
    """Under transformers' names: {our weight's path: Tensor} for every array whose name is known."""
    tensors = {}
    for name, array in arrays.items():
        translated = name
        for pattern, replacement in _HUGGINGFACE:
            translated = re.sub(pattern, replacement, translated)
        tensors[translated] = Tensor((name,), array)
    for name in [name for name in tensors if ".attn.key." in name]:
        key, value = tensors[name], tensors.get(name.replace(".key.", ".value."))
        if value is not None:
            joined = Tensor(key.names + value.names, np.concatenate([key.array, value.array]))
            tensors[name.replace(".key.", ".kv.")] = joined
    return _convert(tensors)


def _convert(tensors):
    converted = {}
    last_stage = max((int(name[-1]) for name in tensors if re.fullmatch(r"pos_embed\d", name)), default=0)
    for name, (names, array) in tensors.items():
        if name == "cls_token":
            converted[f"stage{last_stage}_positions/token"] = Tensor(names, array)
        elif re.fullmatch(r"pos_embed\d", name):
            layer, table = f"stage{name[-1]}_positions", array[0]  # (N, C)
            if name[-1] == str(last_stage):  # the class token's position is the first row
                converted[f"{layer}/token_position"] = Tensor(names, table[None, :1])
                table = table[1:]
            converted[f"{layer}/patch_positions"] = Tensor(names, table)
        else:
            path = _our_path(name)
            if path is not None:
                converted[path] = Tensor(names, torch_layout(array))
    return converted


def _our_path(name):
    module, _, tensor = name.rpartition(".")
    block = re.fullmatch(r"block(\d)\.(\d+)\.(.+)", module)
    embedding = re.fullmatch(r"patch_embed(\d)\.(.+)", module)
    if block and block[3] in _BLOCK:
        layer = f"stage{block[1]}_block{int(block[2]) + 1}/{_BLOCK[block[3]]}"
    elif embedding and embedding[2] in _EMBEDDING:
        layer = f"stage{embedding[1]}_embedding/{_EMBEDDING[embedding[2]]}"
    elif module in ("norm", "head"):
        layer = module
    else:
        return None
    return f"{layer}/{(_NORM if layer.endswith('norm') else _DENSE)[tensor]}"


def training(source):
    """ImageNet's statistics; the epsilon of transformers' `config.json` if it is there."""
    epsilon = read_neighbour(source, "config.json").get("layer_norm_eps")
    return Training("erf", epsilon, (IMAGENET_MEAN, IMAGENET_STD))


FORMATS = (
    Format(
        sources=("pvt",),
        family="PVT",
        anchor=r"patch_embed1\.proj\.weight",
        first_weight="stage1_positions/patch_positions",
        convert=convert,
        training=training,
    ),
    Format(
        sources=("huggingface",),
        family="PVT",
        anchor=r"(pvt\.)?encoder\.patch_embeddings\.\d+\.cls_token",
        first_weight="stage1_positions/patch_positions",
        convert=convert_huggingface,
        training=training,
    ),
)
