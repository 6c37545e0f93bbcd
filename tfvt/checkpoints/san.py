"""SAN weights (patchwise) under the authors' names, whole or one attention layer, in PyTorch's layouts."""

import functools
import re

from tfvt.checkpoints.acmix import layout
from tfvt.checkpoints.formats import Format, Tensor, Training
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD

_ATTENTION = {
    "conv1": "query",
    "conv2": "key",
    "conv3": "value",
    "conv_w.0": "features_norm",
    "conv_w.2": "hidden",
    "conv_w.3": "hidden_norm",
    "conv_w.5": "weights",
}
_BLOCK = {"bn1": "1_norm", "bn2": "2_norm", "conv": "conv"} | {
    f"sam.{theirs}": f"mixer/{ours}" for theirs, ours in _ATTENTION.items()
}
_STEM_AND_HEAD = {"conv_in": "stem_conv", "bn_in": "stem_norm", "fc": "head"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_DENSE = {"weight": "kernel", "bias": "bias"}


def convert(arrays, find_layer):
    """{our weight's path: Tensor} for every array whose module `find_layer` knows."""
    converted = {}
    for name, array in arrays.items():
        module, _, tensor = name.rpartition(".")
        layer = find_layer(module)
        if layer:
            weight = (_NORM if layer.endswith("norm") else _DENSE)[tensor]
            is_convolution = layer.endswith(("_conv", "_transition"))  # of 1x1; the others are dense layers
            array = array.transpose(2, 3, 1, 0) if is_convolution and array.ndim == 4 else layout(name, array)
            converted[f"{layer}/{weight}"] = Tensor((name,), array)
    return converted


def _layer_of_model(module):
    """Ours for a module of a whole SAN, whose stages count from 0."""
    stage = re.fullmatch(r"(conv|bn)(\d+)", module)
    block = re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", module)
    if stage:
        return f"stage{int(stage[2]) + 1}_{'transition' if stage[1] == 'conv' else 'norm'}"
    if block:
        return block[3] in _BLOCK and f"stage{int(block[1]) + 1}_block{int(block[2]) + 1}_{_BLOCK[block[3]]}"
    return _STEM_AND_HEAD.get(module)


_format = functools.partial(Format, sources=("san",), ignored=r".*num_batches_tracked")
FORMATS = (
    _format(
        family="SAN",
        anchor=r"layer0\.0\.sam\.conv_w\.5\.weight",
        first_weight="stage1_block1_mixer/features_norm/gamma",
        convert=functools.partial(convert, find_layer=_layer_of_model),
        training=lambda source: Training(pixel_statistics=(IMAGENET_MEAN, IMAGENET_STD)),
    ),
    _format(
        family="SAN attention layer",
        anchor=r"conv_w\.5\.weight",
        first_weight="features_norm/gamma",
        convert=functools.partial(convert, find_layer=_ATTENTION.get),
        training=lambda source: Training(),
    ),
)
