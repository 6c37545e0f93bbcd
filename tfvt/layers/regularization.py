"""Stochastic depth."""

from typing import Any

import keras
from keras import ops

from tfvt.layers.registration import register_layer


@register_layer
class DropPath(keras.layers.Layer):
    """Drop the whole residual branch of some samples in training, scale the others up (Huang et al. 2016).

    Args:
        rate: share of samples dropped, 0 <= rate < 1; the survival probability is 1 - rate.
        seed: for the layer's own random stream; None draws one.

    Shapes: (B, ...) -> (B, ...).

    Raises:
        ValueError: a rate outside [0, 1).
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        keep = keras.random.uniform(shape, seed=self.seed_generator) >= self.rate
        return inputs * ops.cast(keep, inputs.dtype) / (1 - self.rate)

    def compute_output_shape(self, input_shape):
        return input_shape


def drop_path_rates(rate: float, num_blocks: int, first_drops: bool) -> list[float]:
    """The rate of every block, rising linearly to `rate` in the last.

    Args:
        rate: of the last block.
        num_blocks: L.
        first_drops: True: rate / L in the first block (Huang et al. 2016, eq. 4, whose l counts blocks from 1; the
            ResNets here). False: 0 in the first block (DeiT, PVT and Swin, after timm).
    """
    if first_drops:
        return [rate * block / num_blocks for block in range(1, num_blocks + 1)]
    return [rate * i / max(1, num_blocks - 1) for i in range(num_blocks)]
