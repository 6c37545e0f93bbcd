"""Heads that look at every level of a pyramid with the same weights.

Source: RetinaNet (Lin et al. 2017), https://arxiv.org/abs/1708.02002, section 4; the head of a region proposal network
(Ren et al. 2015) is one of them too.
"""

import math
from typing import Any, Literal

import keras
from keras import ops

from tfvt.layers.registration import register_layer

NORM_GROUPS = 32  # of a group norm, as in detectron2


@register_layer
class LevelTower(keras.layers.Layer):
    """3x3 convolutions, each with a ReLU, the same ones for every map.

    Args:
        channels: of each convolution.
        tower_depth: convolutions.
        norm: between a convolution, then without bias, and its ReLU: "group" (32 groups), as torchvision's second
            RetinaNet.

    Shapes: list of maps (B, h, w, any) -> list of maps (B, h, w, channels).
    """

    def __init__(
        self, channels: int = 256, tower_depth: int = 4, norm: Literal["none", "group"] = "none", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if norm == "group" and channels % NORM_GROUPS:
            raise ValueError(f"group norm of {channels} channels: expected a multiple of {NORM_GROUPS}")
        self.convolutions = [
            keras.layers.Conv2D(
                channels,
                3,
                padding="same",
                use_bias=norm == "none",
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                dtype=self.dtype_policy,
                name=f"conv{number + 1}",
            )
            for number in range(tower_depth)
        ]
        normed = range(tower_depth if norm == "group" else 0)
        options = {"groups": NORM_GROUPS, "epsilon": 1e-5, "dtype": self.dtype_policy}
        self.norms = [keras.layers.GroupNormalization(**options, name=f"conv{n + 1}_norm") for n in normed]

    def build(self, shapes):
        shape = (None, None, None, shapes[0][-1])
        for number, convolution in enumerate(self.convolutions):
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            if self.norms:
                self.norms[number].build(shape)

    def call(self, maps):
        return [self._one(x) for x in maps]

    def _one(self, x):
        for number, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = ops.relu(self.norms[number](x) if self.norms else x)
        return x


@register_layer
class LevelOutputs(keras.layers.Layer):
    """A convolution, the same for every map, that gives each pixel's anchors their numbers.

    Args:
        units: numbers of an anchor.
        per_pixel: anchors of a pixel.
        kernel_size: of the convolution.
        prior: what the sigmoid of its numbers is in the beginning.

    Shapes: list of maps (B, h, w, C) -> (B, A, units); the anchors in the order of levels, rows and columns.
    """

    def __init__(self, units: int, per_pixel: int, kernel_size: int = 3, prior: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.per_pixel = units, per_pixel
        self.convolution = keras.layers.Conv2D(
            units * per_pixel,
            kernel_size,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer=keras.initializers.Constant(math.log(prior / (1 - prior))),
            dtype=self.dtype_policy,
            name="conv",
        )

    def build(self, shapes):
        self.convolution.build((None, None, None, shapes[0][-1]))

    def call(self, maps):
        levels = [self.convolution(x) for x in maps]
        return ops.concatenate([ops.reshape(x, (ops.shape(x)[0], -1, self.units)) for x in levels], axis=1)

    def compute_output_shape(self, shapes):
        sides = [side for shape in shapes for side in shape[1:3]]
        pixels = None if None in sides else sum(shape[1] * shape[2] for shape in shapes)
        return (shapes[0][0], pixels and pixels * self.per_pixel, self.units)
