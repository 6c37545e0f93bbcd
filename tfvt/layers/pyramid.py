"""Necks and parts of heads over a pyramid of maps: level -> map (B, H, W, C), "P2" with stride 4 to "P5" with 32.

Sources: Feature Pyramid Networks (Lin et al. 2017), https://arxiv.org/abs/1612.03144, in the form of detectron2; VT-FPN
(Visual Transformers, Wu et al., ICCV 2021, section 4.2), whose wiring is the one that fits the paper's counts, see
docs/fidelity.md. A map has the image's size divided by its stride, rounded up.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import ops

from tfvt.layers.attention import attention_macs, softmax
from tfvt.layers.registration import register_layer
from tfvt.layers.resizing import resize_bilinear
from tfvt.layers.tokenizers import FilterTokenizer
from tfvt.layers.visual_tokens import Norm, TokenTransformer, VisualTokenLayer, num_pixels, pixel_list

Maps = Mapping[str, keras.KerasTensor]


def level_number(level: str) -> int:
    """The n of level Pn, whose stride is 2**n."""
    return int(level[1:])


@register_layer
class Upsample(keras.layers.Layer):
    """A map, larger by a factor or of the size of another map.

    Args:
        factor: how many times larger. A map that the result must be like may differ from that at the bottom and right,
            by what was rounded up or down.
        interpolation: "bilinear" (half-pixel centres, PyTorch's `align_corners=False`) or "nearest".

    Shapes: map (B, H, W, C) [, like (B, H', W', any)] -> (B, H * factor, W * factor, C) or (B, H', W', C).
    """

    def __init__(
        self, factor: int = 2, interpolation: Literal["bilinear", "nearest"] = "bilinear", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.factor, self.interpolation = factor, interpolation

    def call(self, x, like=None):
        size = ops.shape(x if like is None else like)[1:3]
        if like is None:
            size = tuple(side * self.factor for side in size)
        if self.interpolation == "bilinear":
            return resize_bilinear(x, size)
        for axis in (1, 2):
            x = self._repeat(x, axis, size[axis - 1])
        return x

    def _repeat(self, x, axis, length):
        """Each pixel `factor` times along an axis, and the last as often as the length needs."""
        if isinstance(length, int) and x.shape[axis] is not None and length <= self.factor * x.shape[axis]:
            x = ops.repeat(x, self.factor, axis=axis)  # has a cheaper gradient than the pixels taken one by one
            return x[:, :length] if axis == 1 else x[:, :, :length]
        taken = ops.minimum(ops.arange(length) // self.factor, ops.shape(x)[axis] - 1)
        return ops.take(x, taken, axis=axis)

    def compute_output_shape(self, x_shape, like_shape=None):
        if like_shape is not None:
            return (x_shape[0], *like_shape[1:3], x_shape[-1])
        return (x_shape[0], *(side and side * self.factor for side in x_shape[1:3]), x_shape[-1])


@register_layer
class AdaptivePooling(keras.layers.Layer):
    """Means over a grid of bins that cover the map; bins share pixels where their number does not divide it.

    As PyTorch's `AdaptiveAvgPool2d`: bin i of n over H rows has the rows from floor(i H / n) to ceil((i + 1) H / n).
    `keras.layers.AdaptiveAveragePooling2D` takes no map of unknown size.

    Args:
        grid: bins in each direction; there may be more of them than pixels.

    Shapes: (B, H, W, C) -> (B, grid, grid, C).
    """

    def __init__(self, grid: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = grid

    def call(self, x):
        rows, columns = (ops.cast(self._weights(side), x.dtype) for side in ops.shape(x)[1:3])
        return ops.einsum("biwc,jw->bijc", ops.einsum("bhwc,ih->biwc", x, rows), columns)

    def _weights(self, size):
        """(grid, size): the weight of each of `size` pixels in each bin."""
        number, pixel = ops.arange(self.grid)[:, None], ops.arange(size)[None]
        first, end = number * size // self.grid, -((number + 1) * -size // self.grid)
        inside = ops.cast(ops.logical_and(pixel >= first, pixel < end), "float32")
        return inside / ops.cast(end - first, "float32")

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.grid, self.grid, input_shape[-1])


@register_layer
class LevelProjector(VisualTokenLayer):
    """Projector of VT-FPN: X + softmax over the L tokens of (X W_Q)(T W_K)^T / sqrt(C), times T W_V (eq. 5).

    W_Q has groups and no norm. So it is folded into the keys: X (W_Q (T W_K)^T) gives the same logits with L products a
    pixel and channel in place of C / groups + L. `macs` counts the equation as it stands, as the paper does.

    Args:
        query_groups: of W_Q; a divisor of C.
        norm, norm_options: of W_K and W_V, see `LinearNorm`.

    Shapes: map (B, H, W, C) and tokens (B, L, CT) -> map (B, H, W, C).

    Raises:
        ValueError: groups that do not divide the channels.
    """

    def __init__(self, query_groups: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.query_groups = query_groups

    def build(self, x_shape, tokens_shape):
        channels, groups = x_shape[-1], self.query_groups
        if channels % groups:
            raise ValueError(f"query_groups={groups}: expected a divisor of the {channels} channels")
        self.query_kernel = self.add_weight(
            name="query_kernel",  # (groups, in, out)
            shape=(groups, channels // groups, channels // groups),
            initializer=keras.initializers.RandomNormal(stddev=(groups / channels) ** 0.5),
        )
        self.key, self.value = self.linear(channels, "key"), self.linear(channels, "value")
        self.key.build(tokens_shape)
        self.value.build(tokens_shape)

    def call(self, x, tokens, training=None):
        channels, groups = x.shape[-1], self.query_groups
        key = self.key(tokens, training=training) * channels**-0.5  # (B, L, C)
        key = ops.reshape(key, (-1, tokens.shape[1], groups, channels // groups))
        key = ops.transpose(key, (0, 2, 3, 1))  # (B, groups, out, L)
        query = ops.reshape(ops.matmul(self.query_kernel, key), (-1, channels, tokens.shape[1]))  # (B, C, L)
        weights = softmax(ops.matmul(pixel_list(x), query))  # (B, H * W, L)
        branch = ops.matmul(weights, self.value(tokens, training=training))  # (B, H * W, C)
        return x + ops.reshape(branch, ops.shape(x))

    def compute_output_shape(self, x_shape, tokens_shape):
        return x_shape

    def macs(self, x, tokens):
        channels, pixels = x.shape[-1], num_pixels(x)
        return pixels * channels**2 // self.query_groups + attention_macs(pixels, tokens.shape[1], channels, channels)


@dataclass(frozen=True)
class FPN:
    """Feature pyramid: laterals of 1x1, additions from coarse to fine, and a 3x3 on each level; biases, no norm.

    Called on maps, gives maps of `channels` channels.
    """

    channels: int = 256
    top_down: bool = True

    def __call__(self, maps: Maps) -> dict[str, keras.KerasTensor]:
        return self.outputs(self.laterals(maps))

    def laterals(self, maps: Maps) -> dict[str, keras.KerasTensor]:
        """The maps through their 1x1, each with the next coarser one added, if `top_down`."""
        names = sorted(maps, key=level_number)
        laterals = {level: self._convolution(1, f"neck_{level.lower()}_lateral")(maps[level]) for level in names}
        if self.top_down:
            for level, coarser in reversed(list(itertools.pairwise(names))):
                factor, name = 2 ** (level_number(coarser) - level_number(level)), f"neck_{level.lower()}"
                above = Upsample(factor, "nearest", name=f"{name}_upsample")(laterals[coarser], laterals[level])
                laterals[level] = keras.layers.Add(name=f"{name}_add")([laterals[level], above])
        return laterals

    def outputs(self, laterals: Maps) -> dict[str, keras.KerasTensor]:
        """What becomes of each level in the end."""
        return {level: self._convolution(3, f"neck_{level.lower()}_output")(x) for level, x in laterals.items()}

    def _convolution(self, kernel_size, name):
        return keras.layers.Conv2D(self.channels, kernel_size, padding="same", name=name)


@dataclass(frozen=True)
class VTFPN(FPN):
    """VT-FPN: token modules in place of the 3x3 of an `FPN`.

    Each level makes its own tokens (eq. 1, without a value convolution), one transformer relates those of all levels
    (eq. 3, 4), and each level reads its own back (eq. 5).
    """

    num_tokens: int = 8
    token_dim: int = 1024
    query_groups: int = 16
    norm: Norm = "batch"
    norm_options: dict | None = None

    def outputs(self, laterals: Maps) -> dict[str, keras.KerasTensor]:
        norm = {"norm": self.norm, "norm_options": self.norm_options}
        tokens = []
        for level, x in laterals.items():
            name = f"neck_{level.lower()}_tokenizer"
            tokenizer = FilterTokenizer(self.num_tokens, self.token_dim, pixel_value=False, name=name, **norm)
            tokens.append(tokenizer(x)[0])
        if len(tokens) > 1:
            tokens = keras.layers.Concatenate(axis=1, name="neck_tokens")(tokens)
        else:
            (tokens,) = tokens
        tokens = TokenTransformer(self.token_dim // 2, self.token_dim, name="neck_relation", **norm)(tokens)
        maps = {}
        for number, (level, x) in enumerate(laterals.items()):
            own = tokens[:, number * self.num_tokens : (number + 1) * self.num_tokens]
            name = f"neck_{level.lower()}_projector"
            maps[level] = LevelProjector(self.query_groups, name=name, **norm)(x, own)
        return maps
