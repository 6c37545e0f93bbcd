"""Tokens from a map of patches: the class token and learned position embeddings."""

from typing import Any

import keras
from keras import ops

from tfvt.layers.registration import register_layer


@register_layer
class TokenEmbedding(keras.layers.Layer):
    """A class token and the patches as one sequence, plus position embeddings (Dosovitskiy et al. 2021, eq. 1).

    The position embeddings are one table (1 + H * W, C) in the paper. Here those of the patches keep their grid,
    so that a checkpoint records their height and width. They start from a normal distribution of standard
    deviation 0.02.

    Args:
        token_stddev: the same of the class token; 0 (Google's models), or 0.02 (DeiT).

    Shapes: (B, H, W, C) -> (B, 1 + H * W, C), row by row, the class token first. The layer is built for one grid.
    """

    def __init__(self, token_stddev: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.token_stddev = token_stddev

    def build(self, input_shape):
        _, height, width, channels = input_shape
        self.class_token = self._table("class_token", (1, 1, channels), self.token_stddev)
        self.class_position = self._table("class_position", (1, 1, channels), 0.02)
        self.patch_positions = self._table("patch_positions", (height, width, channels), 0.02)

    def _table(self, name, shape, stddev):
        # An initializer of its own for each: one alone gives equal numbers to equal shapes.
        return self.add_weight(name=name, shape=shape, initializer=keras.initializers.RandomNormal(stddev=stddev))

    def call(self, patches):
        batch_size, (height, width, channels) = ops.shape(patches)[0], self.patch_positions.shape
        # Not -1 for the length: beside an unknown batch size it would be unknown as well, inside an exported model.
        tokens = ops.reshape(patches + self.patch_positions, (batch_size, height * width, channels))
        first = ops.broadcast_to(self.class_token + self.class_position, (batch_size, 1, channels))  # (B, 1, C)
        return ops.concatenate([ops.cast(first, tokens.dtype), tokens], axis=1)  # (B, 1 + H * W, C)

    def compute_output_shape(self, input_shape):
        batch_size, height, width, channels = input_shape
        return (batch_size, 1 + height * width, channels)

    def macs(self, patches):
        return 0  # its tables are added, not multiplied
