"""Window attention: every pixel attends to the pixels of its own window (Swin Transformer)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tfvt.layers.attention import softmax
from tfvt.layers.blocks import cut_windows, join_windows, split_at
from tfvt.layers.initializers import normal_start
from tfvt.layers.local_attention import check_divisor
from tfvt.layers.map_attention import MapAttention
from tfvt.layers.patches import pad_to_multiple
from tfvt.layers.registration import register_layer

ACROSS = -100.0  # added to the logits of pixels that are neighbours only through the cyclic shift, as the authors do


@register_layer
class WindowAttention(MapAttention):
    """Multi-head attention within windows, with a learned bias for each relative position.

    Source: Swin Transformer (Liu et al. 2021), section 3.2 and eq. 4; eq. (19) of ACmix. The map is padded with
    zeros at the bottom and right to whole windows, and shifted cyclically, up and to the left. Padding takes part in
    the attention, as in the authors' code for sizes other than 224. A map that fits into one window is not shifted.

    Args:
        filters: C, output channels.
        num_heads: a divisor of `filters`.
        window_size: side of a window in pixels.
        shift_size: pixels of the cyclic shift, below window_size; half a window in every other block of a Swin.
        returns: see `MapAttention`; the maps are padded and shifted.

    Shapes: (B, H, W, C') -> (B, H, W, C).

    Raises:
        ValueError: heads that do not divide the channels, or a shift outside 0 <= shift_size < window_size.
    """

    def __init__(self, filters: int, num_heads: int, window_size: int = 7, shift_size: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_divisor("num_heads", num_heads, filters)
        if not 0 <= shift_size < window_size:
            raise ValueError(f"shift_size={shift_size}: expected 0 <= shift_size < window_size={window_size}")
        self.filters, self.num_heads = filters, num_heads
        self.window_size, self.shift_size = window_size, shift_size
        self.qkv = self.dense(3 * filters, "qkv", normal_start())

    def build_projections(self, x_shape: Sequence[int | None]) -> None:
        self.qkv.build(x_shape)

    def build_attention(self, x_shape: Sequence[int | None]) -> None:
        self.bias_table = self.add_weight(
            name="bias_table",
            shape=((2 * self.window_size - 1) ** 2, self.num_heads),
            initializer=normal_start()["kernel_initializer"],
        )
        self.out = self.dense(self.filters, "out", normal_start())
        self.out.build((*x_shape[:-1], self.filters))

    def arrange(self, x: Any) -> Any:
        x = pad_to_multiple(x, self.window_size)
        shift = self._shift(x)
        return x if _is_zero(shift) else _rolled(x, shift, shift)

    def restore(self, y: Any, x: Any) -> Any:
        shift = self._shift(y)
        if not _is_zero(shift):
            y = _rolled(y, *(side - shift for side in ops.shape(y)[1:3]))
        for axis, size in ((1, ops.shape(x)[1]), (2, ops.shape(x)[2])):
            if y.shape[axis] is None or y.shape[axis] != size:
                y, _ = split_at(y, size, axis)
        return y

    def project(self, x: Any) -> tuple[Any, Any, Any]:
        return tuple(ops.split(self.qkv(x), 3, axis=-1))  # (B, H, W, C) each

    def attend(self, query: Any, key: Any, value: Any) -> Any:
        weights = self._weights(query, key)
        outputs = ops.matmul(weights, cut_windows(value, self.window_size, self.num_heads))
        return self.out(join_windows(outputs, query, self.window_size))

    def attention_weights(self, x: Any) -> Any:
        """Of each pixel of a window to each: (B, rows, columns, num_heads, pixels, pixels), sums 1 over the last axis.

        The windows are those of `arrange(x)`, which is padded and, if `shift_of(H, W)` is not 0, shifted by that.
        """
        x = self.arrange(x)
        query, key, _ = self.project(x)
        pixels = self.window_size**2
        return ops.reshape(self._weights(query, key), (-1, *self._grid(x), self.num_heads, pixels, pixels))

    def _grid(self, x):
        """(rows, columns) of windows."""
        _, height, width, _ = ops.shape(x)
        return height // self.window_size, width // self.window_size

    def _weights(self, query, key):
        """(B * windows, heads, pixels, pixels), from maps that are arranged."""
        batch, height, width, _ = ops.shape(query)
        size, grid = self.window_size, self._grid(query)
        query, key = (cut_windows(x, size, self.num_heads) for x in (query, key))
        logits = ops.matmul(query * query.shape[-1] ** -0.5, ops.swapaxes(key, -1, -2))  # (..., heads, pixels, pixels)
        bias = ops.cast(self._bias(height, width, self.shift_of(height, width)), logits.dtype)
        if bias.shape[0] == 1:
            logits = logits + bias
        else:  # one bias for each window of an image
            windows = (batch, grid[0] * grid[1], self.num_heads, size**2, size**2)
            logits = ops.reshape(ops.reshape(logits, windows) + bias, (-1, *windows[2:]))
        return softmax(logits)

    def _shift(self, x):
        return self.shift_of(*ops.shape(x)[1:3])

    def shift_of(self, height: Any, width: Any) -> Any:
        """Pixels of the cyclic shift of an arranged map of that size, up and to the left."""
        if self.shift_size == 0 or (isinstance(height, int) and isinstance(width, int)):
            return self.shift_size if self.shift_size and min(height, width) > self.window_size else 0
        return ops.where(ops.minimum(height, width) > self.window_size, self.shift_size, 0)

    def _bias(self, height, width, shift):
        """(1 or windows, heads, pixels, pixels): by relative position, and the mask of a shifted map."""
        size = self.window_size
        row, column = np.divmod(np.arange(size**2), size)
        rows, columns = (c[:, None] - c[None, :] + size - 1 for c in (row, column))
        bias = ops.take(self.bias_table, rows * (2 * size - 1) + columns, axis=0)  # (pixels, pixels, heads)
        bias = ops.transpose(bias, (2, 0, 1))[None]  # (1, heads, pixels, pixels)
        return bias if _is_zero(shift) else bias + ops.cast(self._mask(height, width, shift), bias.dtype)

    def _mask(self, height, width, shift):
        """(windows, 1, pixels, pixels): ACROSS between pixels of parts of the map that the shift brought together."""
        size = self.window_size
        # The last window of each axis holds the end of the map, followed by what was its beginning.
        row, column = (
            ops.cast(ops.arange(length) >= length - size, "int32")
            + ops.cast(ops.arange(length) >= length - shift, "int32")
            for length in (height, width)
        )
        parts = ops.reshape(row[:, None] * 3 + column[None, :], (height // size, size, width // size, size))
        parts = ops.reshape(ops.transpose(parts, (0, 2, 1, 3)), (-1, size**2))  # (windows, pixels)
        return ops.where(parts[:, None, :, None] != parts[:, None, None, :], ACROSS, 0.0)

    def compute_output_shape(self, x_shape):
        outputs = (*x_shape[:-1], self.filters)
        padded = (None if size is None else -(-size // self.window_size) * self.window_size for size in x_shape[1:3])
        arranged = (x_shape[0], *padded, self.filters)
        return {"attention": outputs, "both": (arranged,) * 4, "projections": (arranged,) * 3}[self.returns]

    def macs(self, x):
        if self.returns == "projections":
            return 0
        rows, columns = (-(-size // self.window_size) for size in x.shape[1:3])
        return 2 * rows * columns * self.window_size**4 * self.filters


def _rolled(x, rows, columns):
    """`x` with its first rows and columns at the end. LiteRT has no cyclic shift."""
    for axis, count in ((1, rows), (2, columns)):
        first, rest = split_at(x, count, axis)
        x = ops.concatenate([rest, first], axis=axis)
    return x


def _is_zero(shift):
    """Whether a map is certain not to be shifted; False for a map of unknown size."""
    return isinstance(shift, int) and shift == 0
