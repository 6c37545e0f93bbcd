"""ResNet weights under the names of torchvision and timm, and of transformers.

Both keep PyTorch's layouts: convolutions (C_out, C_in, H, W), dense (C_out, C_in).
"""

import functools
import re

from tfvt.checkpoints.files import torch_layout
from tfvt.checkpoints.formats import Format, Tensor, Training
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD

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

# Where each source starts to count; ours count from 1.
_TORCHVISION_FIRST = {"stage": 1, "block": 0, "conv": 1}
_HUGGINGFACE_FIRST = {"stage": 0, "block": 0, "conv": 0}


def convert(arrays, table, first):
    """{our weight's path: Tensor} for every array whose name is in `table`; `first`: where its numbers start."""
    converted = {}
    for name, array in arrays.items():
        for pattern, layer in table:
            match = re.fullmatch(pattern, name)
            if match:
                numbers = {key: int(n) + 1 - first[key] for key, n in match.groupdict().items()}
                layer = layer.format(**numbers)
                weight = _weight(layer, match.groups()[-1])
                if weight:
                    converted[f"{layer}/{weight}"] = Tensor((name,), torch_layout(array))
    return converted


def training(source):
    """Both normalise pixels by ImageNet's statistics."""
    return Training(pixel_statistics=(IMAGENET_MEAN, IMAGENET_STD))


def _weight(layer, torch_name):
    if layer.endswith("_norm"):
        return _NORM_WEIGHTS.get(torch_name)
    return {"weight": "kernel", "bias": "bias"}[torch_name]


convert_torchvision = functools.partial(convert, table=_TORCHVISION, first=_TORCHVISION_FIRST)

FORMATS = tuple(
    Format(
        sources=sources,
        family="ResNet",
        anchor=table[0][0],
        first_weight="stem_conv/kernel",
        convert=functools.partial(convert, table=table, first=first),
        training=training,
        ignored=r".*num_batches_tracked",  # counters of PyTorch's batch norms
    )
    for sources, table, first in (
        (("torchvision", "timm"), _TORCHVISION, _TORCHVISION_FIRST),
        (("huggingface",), _HUGGINGFACE, _HUGGINGFACE_FIRST),
    )
)
