"""ACmix weights under the authors' names: one layer, and a ResNet that has it for its second convolution.

PyTorch's layouts; 1x1 convolutions (C_out, C_in, 1, 1) are dense kernels here.
"""

import functools
import re

from tfvt.checkpoints import resnet
from tfvt.checkpoints.files import torch_layout
from tfvt.checkpoints.formats import Format, Tensor, Training

_LAYER = {
    "rate1": "alpha",
    "rate2": "beta",
    "conv1.weight": "attention/query/kernel",
    "conv1.bias": "attention/query/bias",
    "conv2.weight": "attention/key/kernel",
    "conv2.bias": "attention/key/bias",
    "conv3.weight": "attention/value/kernel",
    "conv3.bias": "attention/value/bias",
    "conv_p.weight": "attention/position_kernel",
    "conv_p.bias": "attention/position_bias",
    "fc.weight": "convolution/mixing_kernel",
    "dep_conv.weight": "convolution/kernel",
}
_BLOCK = r"layer(\d+)\.(\d+)\.conv2\.(.+)"


def convert_layer(arrays):
    """One ACmix layer: {path below the layer: Tensor}."""
    return {_LAYER[name]: Tensor((name,), layout(name, a)) for name, a in arrays.items() if name in _LAYER}


def convert_resnet(arrays):
    """A whole ACmix-ResNet: every bottleneck's second convolution is an ACmix layer."""
    converted = resnet.convert_torchvision(arrays)
    for name, array in arrays.items():
        match = re.fullmatch(_BLOCK, name)
        if match and match[3] in _LAYER:
            layer = f"stage{match[1]}_block{int(match[2]) + 1}_2_acmix"
            converted[f"{layer}/{_LAYER[match[3]]}"] = Tensor((name,), layout(name, array))
    return converted


def layout(name, array):
    """Rates are scalars, 1x1 convolutions matrices."""
    if re.search(r"rate[12]$", name):
        return array.reshape(())
    array = torch_layout(array)
    return array[0, 0] if array.ndim == 4 and array.shape[:2] == (1, 1) else array


_format = functools.partial(Format, sources=("acmix",), ignored=r".*num_batches_tracked")
FORMATS = (
    _format(
        family="ACmix-ResNet",
        anchor=r"layer1\.0\.conv2\.conv_p\.weight",
        first_weight="stage1_block1_2_acmix/attention/query/kernel",
        convert=convert_resnet,
        training=resnet.training,
    ),
    _format(
        family="ACmix layer",
        anchor=r"conv_p\.weight",
        first_weight="attention/position_kernel",
        convert=convert_layer,
        training=lambda source: Training(),
    ),
)
