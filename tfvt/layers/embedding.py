"""Tokens from a map of patches: the class token and learned position embeddings."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfvt")
class TokenEmbedding(keras.layers.Layer):
    """Patches as a sequence behind a class token, plus position embeddings (Dosovitskiy et al. 2021, eq. 1).

    The position embeddings are one table (1 + H * W, C) in the paper. Here those of the patches keep their grid,
    so that a checkpoint says which height and width they stand for.

    Shapes: (B, H, W, C) -> (B, 1 + H * W, C), row by row, the class token first. The layer is built for one grid.
    """

    def build(self, input_shape):
        _, height, width, channels = input_shape
        positions = keras.initializers.RandomNormal(stddev=0.02)
        self.class_token = self.add_weight(name="class_token", shape=(1, 1, channels), initializer="zeros")
        self.class_position = self.add_weight(name="class_position", shape=(1, 1, channels), initializer=positions)
        self.patch_positions = self.add_weight(
            name="patch_positions", shape=(height, width, channels), initializer=positions
        )

    def call(self, patches):
        batch_size, (height, width, channels) = ops.shape(patches)[0], self.patch_positions.shape
        # Not -1 for the length: beside an unknown batch size it would be unknown as well, inside an exported model.
        tokens = ops.reshape(patches + self.patch_positions, (batch_size, height * width, channels))
        first = ops.broadcast_to(self.class_token + self.class_position, (batch_size, 1, channels))
        return ops.concatenate([ops.cast(first, tokens.dtype), tokens], axis=1)

    def compute_output_shape(self, input_shape):
        batch_size, height, width, channels = input_shape
        return (batch_size, 1 + height * width, channels)

    def macs(self, patches):
        return 0  # its tables are added, not multiplied
