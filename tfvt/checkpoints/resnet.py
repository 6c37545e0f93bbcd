"""ResNet weights under the names of torchvision and timm, and of transformers.

Both keep PyTorch's layouts: convolutions (C_out, C_in, H, W), dense (C_out, C_in).
"""

import re

import numpy as np

from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD

PIXEL_STATISTICS = (IMAGENET_MEAN, IMAGENET_STD)  # what these weights were trained with

_NORM_WEIGHTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}

# A source name as (pattern, our layer); the last group is the tensor of that layer.
_TORCHVISION_BLOCK = r"layer(?P<stage>\d+)\.(?P<block>\d+)\."
_TORCHVISION = (
    (r"conv1\.(weight)", "stem_conv"),
    (r"bn1\.(\w+)", "stem_norm"),
    (_TORCHVISION_BLOCK + r"conv(?P<conv>\d+)\.(weight)", "stage{stage}_block{block}_{conv}_conv"),
    (_TORCHVISION_BLOCK + r"bn(?P<conv>\d+)\.(\w+)", "stage{stage}_block{block}_{conv}_norm"),
    (_TORCHVISION_BLOCK + r"downsample\.0\.(weight)", "stage{stage}_block{block}_shortcut_conv"),
    (_TORCHVISION_BLOCK + r"downsample\.1\.(\w+)", "stage{stage}_block{block}_shortcut_norm"),
    (r"fc\.(weight|bias)", "head"),
)
_HUGGINGFACE_BLOCK = r"(?:resnet\.)?encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\."
_HUGGINGFACE = (
    (r"(?:resnet\.)?embedder\.embedder\.convolution\.(weight)", "stem_conv"),
    (r"(?:resnet\.)?embedder\.embedder\.normalization\.(\w+)", "stem_norm"),
    (_HUGGINGFACE_BLOCK + r"layer\.(?P<conv>\d+)\.convolution\.(weight)", "stage{stage}_block{block}_{conv}_conv"),
    (_HUGGINGFACE_BLOCK + r"layer\.(?P<conv>\d+)\.normalization\.(\w+)", "stage{stage}_block{block}_{conv}_norm"),
    (_HUGGINGFACE_BLOCK + r"shortcut\.convolution\.(weight)", "stage{stage}_block{block}_shortcut_conv"),
    (_HUGGINGFACE_BLOCK + r"shortcut\.normalization\.(\w+)", "stage{stage}_block{block}_shortcut_norm"),
    (r"classifier\.1\.(weight|bias)", "head"),
)
NAMES = {"torchvision": _TORCHVISION, "timm": _TORCHVISION, "huggingface": _HUGGINGFACE}

# Where each source starts to count; ours count from 1.
_FIRST = {
    "torchvision": {"stage": 1, "block": 0, "conv": 1},
    "timm": {"stage": 1, "block": 0, "conv": 1},
    "huggingface": {"stage": 0, "block": 0, "conv": 0},
}


def matches(source, names):
    """Whether `names` are a ResNet's in the naming of `source`: its stem convolution is there."""
    return any(re.fullmatch(NAMES[source][0][0], name) for name in names)


def convert(source, arrays):
    """{our weight's path: (source name, array in our layout)} for every array whose name is known."""
    converted = {}
    for name, array in arrays.items():
        for pattern, layer in NAMES[source]:
            match = re.fullmatch(pattern, name)
            if match:
                numbers = {key: int(n) + 1 - _FIRST[source][key] for key, n in match.groupdict().items()}
                layer = layer.format(**numbers)
                weight = _weight(layer, match.groups()[-1])
                if weight:
                    converted[f"{layer}/{weight}"] = (name, _layout(array))
    return converted


def is_ignored(name):
    """Counters of PyTorch's batch norms: state that no model needs."""
    return name.endswith("num_batches_tracked")


def _weight(layer, torch_name):
    if layer.endswith("_norm"):
        return _NORM_WEIGHTS.get(torch_name)
    return {"weight": "kernel", "bias": "bias"}[torch_name]


def _layout(array):
    if array.ndim == 4:
        return np.transpose(array, (2, 3, 1, 0))
    return array.T
