"""Funnel pooling of patch tokens and its reverse (Funnel-Transformer, Dai et al. 2020; Funnel-ViT, section 3.2)."""

from typing import Any, Literal

import keras
from keras import ops

from tfvt.layers.registration import register_layer

Pooling = Literal["mean", "max"]


def pooled_grid(grid: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) after pooling: rounded up, so that no token is lost."""
    return tuple(-(-side // size) for side, size in zip(grid, window, strict=True))


@register_layer
class FunnelPooling(keras.layers.Layer):
    """Pool patch tokens, never the class token: h' = concat(h[0], pool(h[1:])).

    Pooling along the sequence is pooling of a grid of one row: grid (1, N), window (1, stride). Where the window
    does not divide a side, its last window holds the tokens that remain.

    Args:
        grid: (rows, columns) of the patch tokens.
        window: (rows, columns) pooled into one token.
        pooling: "mean" or "max".

    Shapes: (B, 1 + rows * columns, C) -> (B, 1 + pooled rows * pooled columns, C), sides rounded up.

    Raises:
        ValueError: another pooling, or tokens that are not the grid's.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        window: tuple[int, int],
        pooling: Pooling = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.grid, self.window, self.pooling = tuple(grid), tuple(window), pooling

    def call(self, x):
        _check_tokens(self, x, self.grid)
        patches = ops.reshape(x[:, 1:], (ops.shape(x)[0], *self.grid, x.shape[-1]))  # (B, rows, columns, C)
        # A window at the edge is a rectangle as well, so that the mean of its rows' means is its mean.
        for axis, size in zip((1, 2), self.window, strict=True):
            patches = self._pool_axis(patches, axis, size)  # rows, then columns
        return _with_class_token(x, patches)

    def _pool_axis(self, x, axis, size):
        if size == 1:
            return x
        reduce = ops.mean if self.pooling == "mean" else ops.max
        size = min(size, x.shape[axis])  # a side that is shorter than the window is one window
        whole = x.shape[axis] // size
        full, rest = ops.split(x, [whole * size], axis=axis)  # (..., whole * size, ...), (..., remainder, ...)
        windows = (ops.shape(x)[0], *x.shape[1:axis], whole, size, *x.shape[axis + 1 :])
        pooled = reduce(ops.reshape(full, windows), axis=axis + 1)  # (..., whole, ...)
        if rest.shape[axis] == 0:
            return pooled
        return ops.concatenate([pooled, reduce(rest, axis=axis, keepdims=True)], axis=axis)

    def compute_output_shape(self, input_shape):
        rows, columns = pooled_grid(self.grid, self.window)
        return (input_shape[0], 1 + rows * columns, input_shape[-1])


@register_layer
class FunnelUpsampling(keras.layers.Layer):
    """Repeat every patch token over the window that was pooled into it; the class token passes.

    Several poolings are undone at once: their windows multiplied.

    Args:
        grid: (rows, columns) to reach.
        window: (rows, columns) that one token stands for.

    Shapes: (B, 1 + pooled rows * pooled columns, C) -> (B, 1 + rows * columns, C).

    Raises:
        ValueError: tokens that are not the pooled grid's.
    """

    def __init__(self, grid: tuple[int, int], window: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid, self.window = tuple(grid), tuple(window)

    def call(self, x):
        pooled = pooled_grid(self.grid, self.window)
        _check_tokens(self, x, pooled)
        patches = ops.reshape(x[:, 1:], (ops.shape(x)[0], *pooled, x.shape[-1]))  # (B, pooled rows, pooled columns, C)
        for axis, size in zip((1, 2), self.window, strict=True):
            patches = ops.repeat(patches, size, axis=axis)
        return _with_class_token(x, patches[:, : self.grid[0], : self.grid[1]])

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1 + self.grid[0] * self.grid[1], input_shape[-1])


def _check_tokens(layer, x, grid):
    if x.shape[1] != 1 + grid[0] * grid[1]:
        raise ValueError(f"{layer.name}: {x.shape[1]} tokens, expected a class token and a grid of {grid}")


def _with_class_token(x, patches):
    """The class token of x (B, 1 + N, C) in front of the patches (B, rows, columns, C), row by row."""
    # Not -1 for the length: beside an unknown batch size it would be unknown as well, inside an exported model.
    batch_size, (rows, columns, channels) = ops.shape(x)[0], patches.shape[1:]
    return ops.concatenate([x[:, :1], ops.reshape(patches, (batch_size, rows * columns, channels))], axis=1)
