"""One SAN attention layer (patchwise) under the authors' names, in PyTorch's layouts."""

import re

from tfvt.checkpoints.acmix import layout
from tfvt.checkpoints.formats import Format, Tensor, Training

_LAYERS = {
    "conv1": "query",
    "conv2": "key",
    "conv3": "value",
    "conv_w.0": "features_norm",
    "conv_w.2": "hidden",
    "conv_w.3": "hidden_norm",
    "conv_w.5": "weights",
}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_DENSE = {"weight": "kernel", "bias": "bias"}


def convert(arrays):
    """{path below the layer: Tensor} for every array whose name is known."""
    converted = {}
    for name, array in arrays.items():
        module, _, tensor = name.rpartition(".")
        if module in _LAYERS:
            layer = _LAYERS[module]
            weight = (_NORM if layer.endswith("norm") else _DENSE)[tensor]
            converted[f"{layer}/{weight}"] = Tensor((name,), layout(name, array))
    return converted


FORMATS = (
    Format(
        sources=("san",),
        family="SAN attention layer",
        anchor=re.escape("conv_w.5.weight"),
        first_weight="features_norm/gamma",
        convert=convert,
        training=lambda source: Training(),
        ignored=r".*num_batches_tracked",
    ),
)
