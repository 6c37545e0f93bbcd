"""Swin weights under the authors' names, whole or one block, with window attention or ACmix, and under transformers'.

PyTorch's layouts. transformers has two spellings: that of files (`save_pretrained`) and, from version 5, that of the
live state dict.
"""

import re

import numpy as np

from tfvt.checkpoints.acmix import layout
from tfvt.checkpoints.files import read_neighbour
from tfvt.checkpoints.formats import Format, Tensor, Training
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD

_NORM = {"weight": "gamma", "bias": "beta"}
_DENSE = {"weight": "kernel", "bias": "bias"}

# What one block holds under the authors' names; {attention} is the mixer, or its attention where it is an ACmix.
_BLOCK = {
    "norm1": "mixer_norm",
    "attn.qkv": "{attention}/qkv",
    "attn.proj": "{attention}/out",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}
_BLOCK_TENSORS = {
    "attn.relative_position_bias_table": "{attention}/bias_table",
    "attn.rate1": "mixer/alpha",
    "attn.rate2": "mixer/beta",
    "attn.fc.weight": "mixer/convolution/mixing_kernel",
    "attn.fc.bias": "mixer/convolution/mixing_bias",
    "attn.dep_conv.weight": "mixer/convolution/kernel",
}
_TRUNK = {
    "patch_embed.proj": "patch_embedding/projection",
    "patch_embed.norm": "patch_embedding/norm",
    "norm": "norm",
    "head": "head",
}

# transformers' names as the authors', in order; queries, keys and values are joined afterwards.
_HUGGINGFACE = (
    (r"^swin\.", ""),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.norm", "patch_embed.norm"),
    (r"^encoder\.", ""),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.(self|relative_position_bias)\.relative_position_bias_table", "attn.relative_position_bias_table"),
    (r"attention\.(self\.query|q_proj)", "attn.query"),
    (r"attention\.(self\.key|k_proj)", "attn.key"),
    (r"attention\.(self\.value|v_proj)", "attn.value"),
    (r"attention\.(output\.dense|o_proj)", "attn.proj"),
    (r"(?<!mlp\.)\b(intermediate\.dense)", "mlp.fc1"),
    (r"(?<!mlp\.)\b(output\.dense)", "mlp.fc2"),
)


def convert_model(arrays):
    """A whole Swin under the authors' names: {our weight's path: Tensor}."""
    return _convert({name: Tensor((name,), array) for name, array in arrays.items()})


def convert_block(arrays):
    """One block under the authors' names: {path below the block: Tensor}."""
    tensors = {f"layers.0.blocks.0.{name}": Tensor((name,), array) for name, array in arrays.items()}
    return {path.removeprefix("stage1_block1/"): tensor for path, tensor in _convert(tensors).items()}


def convert_huggingface(arrays):
    """A whole Swin under transformers' names: {our weight's path: Tensor}."""
    tensors = {}
    for name, array in arrays.items():
        translated = name
        for pattern, replacement in _HUGGINGFACE:
            translated = re.sub(pattern, replacement, translated)
        tensors[translated] = Tensor((name,), array)
    for name in list(tensors):
        if ".attn.query." in name:
            parts = [tensors.get(name.replace("query", part)) for part in ("query", "key", "value")]
            if None not in parts:
                names = sum((part.names for part in parts), ())
                tensors[name.replace("query", "qkv")] = Tensor(names, np.concatenate([part.array for part in parts]))
    return _convert(tensors)


def _convert(tensors):
    """{our weight's path: Tensor} of tensors under the authors' names, in PyTorch's layouts."""
    is_acmix = any(name.endswith("attn.rate1") for name in tensors)
    converted = {}
    for name, (names, array) in tensors.items():
        path = _our_path(name, "mixer/attention" if is_acmix else "mixer")
        if path is not None:
            # The table's rows are relative positions: no kernel, though it has two axes.
            array = array if path.endswith("bias_table") else layout(name, array)
            converted[path] = Tensor(names, array)
    return converted


def _our_path(name, attention):
    module, _, tensor = name.rpartition(".")
    block = re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", name)
    if block:
        prefix, inner = f"stage{int(block[1]) + 1}_block{int(block[2]) + 1}", block[3]
        if inner in _BLOCK_TENSORS:
            return f"{prefix}/{_BLOCK_TENSORS[inner].format(attention=attention)}"
        module, layers = inner.rpartition(".")[0], _BLOCK
    else:
        prefix, layers = "", _TRUNK
    merging = re.fullmatch(r"layers\.(\d+)\.downsample\.(norm|reduction)", module)
    if merging:
        layer = f"stage{int(merging[1]) + 2}_merging/{merging[2]}"
    elif module in layers:
        layer = f"{prefix}/{layers[module].format(attention=attention)}".lstrip("/")
    else:
        return None
    return f"{layer}/{(_NORM if layer.endswith('norm') else _DENSE)[tensor]}"


def training(source):
    """ImageNet's statistics; the epsilon of transformers' `config.json` if it is there."""
    epsilon = read_neighbour(source, "config.json").get("layer_norm_eps")
    return Training("erf", epsilon, (IMAGENET_MEAN, IMAGENET_STD))


_IGNORED = r".*(relative_position_index|attn_mask)"  # buffers that follow from the sizes
FORMATS = (
    Format(
        sources=("swin",),
        family="Swin",
        anchor=r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table",
        first_weight="stage1_block1/mixer_norm/gamma",
        convert=convert_model,
        training=training,
        ignored=_IGNORED,
        resample="bicubic",
    ),
    Format(
        sources=("swin",),
        family="Swin block",
        anchor=r"attn\.relative_position_bias_table",
        first_weight="mixer_norm/gamma",
        convert=convert_block,
        training=lambda source: Training(),
        ignored=_IGNORED,
        resample="bicubic",
    ),
    Format(
        sources=("huggingface",),
        family="Swin",
        anchor=r"(swin\.)?encoder\.layers\.0\.blocks\.0\.attention\.\w+\.relative_position_bias_table",
        first_weight="stage1_block1/mixer_norm/gamma",
        convert=convert_huggingface,
        training=training,
        ignored=_IGNORED,
        resample="bicubic",
    ),
)
