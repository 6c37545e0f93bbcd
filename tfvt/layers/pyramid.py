"""Necks and parts of heads over a pyramid of maps: level -> map (B, H, W, C), "P2" with stride 4 to "P5" with 32.

Sources: Feature Pyramid Networks (Lin et al. 2017), https://arxiv.org/abs/1612.03144, in the form of detectron2; VT-FPN
(Visual Transformers, Wu et al., ICCV 2021, section 4.2), whose wiring is the one that fits the paper's counts, see
docs/fidelity.md. A map has the image's size divided by its stride, rounded up.
"""

import itertools
import math
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
        return self._nearest(x, *size)

    def _nearest(self, x, height, width):
        """Each pixel `factor` times along both axes, and the last as often as the size needs."""
        batch, rows, columns, _ = ops.shape(x)
        # One pass over the result. On TensorFlow, repeating and cutting took 3 times as long.
        row = ops.minimum(ops.arange(height) // self.factor, rows - 1)
        column = ops.minimum(ops.arange(width) // self.factor, columns - 1)
        taken = ops.reshape(row[:, None] * columns + column, (-1,))
        return ops.reshape(ops.take(pixel_list(x), taken, axis=1), (batch, height, width, x.shape[-1]))

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
        first, end = number * size // self.grid, ((number + 1) * size + self.grid - 1) // self.grid
        inside = ops.cast(ops.logical_and(pixel >= first, pixel < end), "float32")
        return inside / ops.cast(end - first, "float32")

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.grid, self.grid, input_shape[-1])


@register_layer
class JoinedConvolution(keras.layers.Layer):
    """A 3x3 convolution of maps that are side by side at the size of the first.

    Equal to a bilinear `Upsample` of each other map, a concatenation and a convolution, and does none of the three for
    those maps: growth is linear, so that a map can be multiplied with the kernel at its own size first, and the
    products grow and move to their place by two constant matrices. For UPerNet that is less than half of the
    multiply-adds. `macs` counts the convolution as it stands, as papers do.

    Args:
        filters: output channels.
        use_bias: add a bias of shape (filters,).

    Shapes: list of maps [(B, H, W, C), (B, h, w, any), ...] -> (B, H, W, filters).
    """

    def __init__(self, filters: int, use_bias: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.use_bias = filters, use_bias

    def build(self, shapes):
        channels = sum(shape[-1] for shape in shapes)
        start = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        self.kernel = self.add_weight(name="kernel", shape=(3, 3, channels, self.filters), initializer=start)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, maps):
        ends = list(itertools.accumulate(x.shape[-1] for x in maps))
        kernels = ops.split(self.kernel, ends[:-1], axis=2) if len(maps) > 1 else [self.kernel]
        outputs = ops.conv(maps[0], kernels[0], padding="same")
        for x, kernel in zip(maps[1:], kernels[1:], strict=True):
            outputs = outputs + self._grown(x, kernel, ops.shape(outputs)[1:3])
        return outputs + self.bias if self.use_bias else outputs

    def _grown(self, x, kernel, size):
        """(B, *size, filters): the convolution of `x` at another size."""
        batch, height, width, channels = *ops.shape(x)[:3], x.shape[-1]
        rows, columns = (_shifted_growth(old, new) for old, new in zip((height, width), size, strict=True))
        rows = ops.cast(ops.reshape(rows, (-1, 3 * height)), x.dtype)  # (H, 3 h)
        columns = ops.cast(ops.reshape(ops.transpose(columns, (0, 2, 1)), (-1, 3 * width)), x.dtype)  # (W, w 3)
        kernel = ops.reshape(ops.transpose(kernel, (0, 2, 1, 3)), (3, channels, 3 * self.filters))
        x = ops.matmul(ops.reshape(x, (batch, 1, -1, channels)), kernel)  # (B, 3, h w, 3 filters)
        x = ops.matmul(rows, ops.reshape(x, (batch, 3 * height, -1)))  # (B, H, w 3 filters)
        return ops.matmul(columns, ops.reshape(x, (batch, -1, 3 * width, self.filters)))

    def compute_output_shape(self, shapes):
        return (*shapes[0][:-1], self.filters)

    def macs(self, maps):
        return num_pixels(maps[0]) * math.prod(self.kernel.shape)


def _shifted_growth(old, new):
    """(new, 3, old): the weight of each of `old` pixels in the pixels before, at and after each of `new`.

    Bilinear with half-pixel centres; nothing before the first and after the last.
    """
    pixels, last = ops.cast(ops.arange(old), "float32"), ops.cast(old - 1, "float32")
    place = (ops.cast(ops.arange(new), "float32") + 0.5) * ((last + 1) / ops.cast(new, "float32")) - 0.5
    weights = ops.relu(1 - ops.abs(ops.clip(place, 0, last)[:, None] - pixels))  # (new, old)
    weights = ops.pad(weights, [[1, 1], [0, 0]])
    return ops.stack([weights[shift : shift + new] for shift in range(3)], axis=1)


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
