"""PVT weights under the names of transformers' `PvtForImageClassification`, in PyTorch's layouts."""

import re

import numpy as np

from tfvt.checkpoints.files import read_neighbour, torch_layout
from tfvt.checkpoints.formats import Format, Tensor, Training
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD

_EMBEDDING = r"(?:pvt\.)?encoder\.patch_embeddings\.(\d+)\."
_BLOCK = {
    "layer_norm_1": "mixer_norm",
    "attention.self.query": "mixer/query",
    "attention.self.key": "mixer/key",
    "attention.self.value": "mixer/value",
    "attention.self.sequence_reduction": "mixer/reduce",
    "attention.self.layer_norm": "mixer/reduce_norm",
    "attention.output.dense": "mixer/out",
    "layer_norm_2": "mlp_norm",
    "mlp.dense1": "mlp_in",
    "mlp.dense2": "mlp_out",
}
_LAYERS = {
    "layer_norm": "stage{stage}_embedding/norm",
    "projection": "stage{stage}_embedding/projection",
}
_NORM = {"weight": "gamma", "bias": "beta"}
_DENSE = {"weight": "kernel", "bias": "bias"}


def convert(arrays):
    """{our weight's path: Tensor} for every array whose name is known."""
    converted = {}
    for name, array in arrays.items():
        position = re.fullmatch(_EMBEDDING + r"position_embeddings", name)
        token = re.fullmatch(_EMBEDDING + r"cls_token", name)
        if position:
            converted |= _positions(
                name, array[0], int(position[1]) + 1, name.replace("position_embeddings", "cls_token") in arrays
            )
        elif token:
            converted[f"stage{int(token[1]) + 1}_positions/token"] = Tensor((name,), array)
        else:
            path = _our_path(name)
            if path is not None:
                converted[path] = Tensor((name,), torch_layout(array))
    return _join_key_and_value(converted)


def _positions(name, table, stage, has_token):
    """The table (N, C) of a stage; where there is a class token, its position is the first row."""
    layer, converted = f"stage{stage}_positions", {}
    if has_token:
        converted[f"{layer}/token_position"] = Tensor((name,), table[None, :1])
        table = table[1:]
    return converted | {f"{layer}/patch_positions": Tensor((name,), table)}


def _our_path(name):
    module, _, tensor = name.rpartition(".")
    block = re.fullmatch(r"(?:pvt\.)?encoder\.block\.(\d+)\.(\d+)\.(.+)", module)
    embedding = re.fullmatch(_EMBEDDING + r"(.+)", module)
    if block and block[3] in _BLOCK:
        layer = f"stage{int(block[1]) + 1}_block{int(block[2]) + 1}/{_BLOCK[block[3]]}"
    elif embedding and embedding[2] in _LAYERS:
        layer = _LAYERS[embedding[2]].format(stage=int(embedding[1]) + 1)
    else:
        layer = {"pvt.encoder.layer_norm": "norm", "encoder.layer_norm": "norm", "classifier": "head"}.get(module)
    return layer and f"{layer}/{(_NORM if layer.endswith('norm') else _DENSE)[tensor]}"


def _join_key_and_value(converted):
    """Keys and values are one dense layer here."""
    for path in [path for path in converted if "/mixer/key/" in path]:
        key, value = converted.pop(path), converted.pop(path.replace("/key/", "/value/"))
        array = np.concatenate([key.array, value.array], axis=-1)
        converted[path.replace("/key/", "/key_value/")] = Tensor(key.names + value.names, array)
    return converted


def training(source):
    """ImageNet's statistics; the epsilon of `config.json` if it is there."""
    epsilon = read_neighbour(source, "config.json").get("layer_norm_eps")
    return Training("erf", epsilon, (IMAGENET_MEAN, IMAGENET_STD))


FORMATS = (
    Format(
        sources=("huggingface",),
        family="PVT",
        anchor=_EMBEDDING + r"cls_token",
        first_weight="stage1_positions/patch_positions",
        convert=convert,
        training=training,
    ),
)
