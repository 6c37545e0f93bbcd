"""From pixels to patches, and from patches to larger ones, for maps of any size."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfvt.layers.initializers import normal_start, torch_start
from tfvt.layers.registration import register_layer


def pad_to_multiple(x: Any, multiple: int) -> Any:
    """`x` (B, H, W, C) with zeros at the bottom and at the right, so that `multiple` divides H and W."""
    batch, height, width, _ = ops.shape(x)
    # Not `-height % multiple`: ONNX divides towards zero.
    rows, columns = (_divided(side, multiple) * multiple for side in (height, width))
    is_known = x.shape[1] is not None and x.shape[2] is not None
    if is_known and (rows, columns) == (height, width):
        return x
    x = ops.pad(x, [[0, 0], [0, rows - height], [0, columns - width], [0, 0]])
    # LiteRT forgets the channels of a map that is padded by sizes it does not know.
    return x if is_known else ops.reshape(x, (batch, rows, columns, x.shape[-1]))


def padded_shape(shape: Sequence[int | None], multiple: int) -> tuple[int | None, ...]:
    """The shape of `pad_to_multiple(x, multiple)`, where `x` has `shape`."""
    batch, *sides, channels = shape
    return (batch, *(None if side is None else side + -side % multiple for side in sides), channels)


def _divided(size, divisor):
    return None if size is None else (size + divisor - 1) // divisor


@register_layer
class PatchEmbedding(keras.layers.Layer):
    """Each patch through one linear layer and a layer norm.

    Args:
        filters: output channels.
        patch_size: side of a patch; the map is padded with zeros at the bottom and right to a multiple of it.
        layer_norm_epsilon: of the norm.

    Shapes: (B, H, W, C) -> (B, H / patch_size, W / patch_size, filters), rounded up.
    """

    def __init__(self, filters: int, patch_size: int, layer_norm_epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.patch_size, self.layer_norm_epsilon = filters, patch_size, layer_norm_epsilon

    def build(self, input_shape):
        self.projection = keras.layers.Conv2D(
            self.filters,
            self.patch_size,
            strides=self.patch_size,
            name="projection",
            dtype=self.dtype_policy,
            **torch_start(self.patch_size**2 * input_shape[-1]),
        )
        self.norm = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, name="norm", dtype=self.dtype_policy
        )
        self.projection.build(padded_shape(input_shape, self.patch_size))
        self.norm.build((*input_shape[:-1], self.filters))

    def call(self, x):
        return self.norm(self.projection(pad_to_multiple(x, self.patch_size)))

    def compute_output_shape(self, input_shape):
        rows, columns = (_divided(size, self.patch_size) for size in input_shape[1:3])
        return (input_shape[0], rows, columns, self.filters)


@register_layer
class PatchMerging(keras.layers.Layer):
    """Four neighbours side by side, a layer norm, and a linear layer without bias to twice the channels (Swin).

    Source: Liu et al. 2021, section 3.1. An odd map is padded with zeros at the bottom and right.

    Shapes: (B, H, W, C) -> (B, H / 2, W / 2, 2 C), rounded up.
    """

    def __init__(self, layer_norm_epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.norm = keras.layers.LayerNormalization(epsilon=layer_norm_epsilon, name="norm", dtype=self.dtype_policy)

    def build(self, input_shape):
        channels = input_shape[-1]
        merged = (*input_shape[:-1], 4 * channels)
        self.norm.build(merged)
        self.reduction = keras.layers.Dense(
            2 * channels, use_bias=False, name="reduction", dtype=self.dtype_policy, **normal_start()
        )
        self.reduction.build(merged)

    def call(self, x):
        x = pad_to_multiple(x, 2)
        batch, height, width, _ = ops.shape(x)
        channels = x.shape[-1]
        x = ops.reshape(x, (batch, height // 2, 2, width // 2, 2, channels))
        # The authors' order: left column from top to bottom, then right.
        x = ops.transpose(x, (0, 1, 3, 4, 2, 5))  # (B, H / 2, W / 2, 2 columns, 2 rows, C)
        return self.reduction(self.norm(ops.reshape(x, (batch, height // 2, width // 2, 4 * channels))))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *(_divided(size, 2) for size in input_shape[1:3]), 2 * input_shape[-1])
