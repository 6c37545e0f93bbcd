"""Maps as square blocks of pixels, with the heads apart, and back: what attention within a neighbourhood multiplies.

There are two forms. `PixelIndex` copies rows of channels by a constant index, for maps of known size on TensorFlow.
`cut_blocks` and `join_blocks` reshape and transpose, for any size on any backend.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops

MASKED = -3e4  # as a logit: weight 0 after a soft-max, and finite in half precision, twice as well


def by_index(x: Any) -> bool:
    """Whether a `PixelIndex` cuts the map `x`.

    On TensorFlow's CPU, one gather does in one pass over the memory what padding, splits, concatenations and
    transposes do in several, and gathers by the inverse index give the gradient (`benchmarks.acmix blocks` has the
    times). Windows of 56x56x96 take 2.4 ms in place of 5.4 ms, of 14x14x384 as long as before. Other backends keep
    the other form: this one is not measured there.
    """
    return keras.backend.backend() == "tensorflow" and None not in x.shape[1:]


class PixelIndex:
    """Which rows of d channels, out of all rows of a map, form an array of another order.

    A map (B, H, W, num_heads * d) has H * W * num_heads such rows, in the order of memory.

    Args:
        rows: the number of a row for each place; -1 where it does not matter which. There, no gradient
            may arrive.
        total: rows of the map.
    """

    def __init__(self, rows: np.ndarray, total: int) -> None:
        self.rows = np.maximum(rows, 0).astype("int32")
        places = np.flatnonzero(rows >= 0)
        places = places[np.argsort(rows[places], kind="stable")]  # by the row that they read
        counts = np.bincount(rows[places], minlength=total)
        first = np.cumsum(counts) - counts
        # The places that read each row: (most of one row, total), filled up with a place past the end.
        self.readers = np.full((counts.max(), total), rows.size, "int32")
        self.readers[np.arange(places.size) - first[rows[places]], rows[places]] = places

    def take(self, x: Any, width: int, shape: Sequence[int]) -> Any:
        """`x`, rows of `width` channels whatever its shape, in the other order: (-1, *shape)."""
        x = ops.reshape(x, (-1, self.readers.shape[1], width))
        return ops.reshape(self._gather(x), (-1, *shape))

    @cached_property
    def _gather(self):
        """(B, total, d) -> (B, places, d) on TensorFlow, whose own gradient adds row by row, on one core.

        TensorFlow keeps each graph with a custom gradient for ever. Here that is the graph of a function of its own;
        otherwise it would be the model's, with all weights.
        """
        import tensorflow as tf

        @tf.custom_gradient
        def gather(rows):
            def gradient(upstream):
                if self.readers.max() == self.rows.size:
                    upstream = tf.pad(upstream, [[0, 0], [0, 1], [0, 0]])
                return tf.add_n([tf.gather(upstream, places, axis=1) for places in self.readers])

            return tf.gather(rows, self.rows, axis=1), gradient

        return tf.function(gather, autograph=False)


@lru_cache(maxsize=64)
def windows(height: int, width: int, size: int, num_heads: int) -> tuple[PixelIndex, PixelIndex]:
    """Of a map of whole windows: to (windows, num_heads, size ** 2, d), and from there to (height, width, C)."""
    total = height * width * num_heads
    rows = np.arange(total).reshape(height // size, size, width // size, size, num_heads)
    rows = rows.transpose(0, 2, 4, 1, 3).reshape(-1)
    return PixelIndex(rows, total), PixelIndex(np.argsort(rows), total)


@dataclass(frozen=True)
class Neighbourhoods:
    """Tiles of queries, and the block of keys around each, for windows of kernel_size x kernel_size pixels.

    A block holds each pixel of the map once. Where reflection at a border shows a window the same pixel again, its
    logit counts as often: plus the logarithm of that number.

    Args:
        queries: a map to (tiles * num_heads, pixels of a tile, d).
        keys: a map to (tiles * num_heads, pixels of a block, d).
        outputs: from the order of `queries` to a map (ceil(H / strides), ceil(W / strides), C).
        rows, columns: (tiles, side of a tile, side of a block) along each axis: logarithms, `MASKED` outside a window.
    """

    queries: PixelIndex
    keys: PixelIndex
    outputs: PixelIndex
    rows: np.ndarray
    columns: np.ndarray

    @property
    def block(self) -> int:
        """Pixels of a block."""
        return self.rows.shape[2] * self.columns.shape[2]

    def mask(self, dtype: str) -> Any:
        """(tiles, 1, pixels of a tile * pixels of a block), which the logits of all heads get."""
        # Summed in the graph, the mask of a large map takes little of a file.
        rows = ops.convert_to_tensor(np.repeat(self.rows, self.columns.shape[2], axis=2))
        columns = ops.convert_to_tensor(np.tile(self.columns, (1, 1, self.rows.shape[2])))
        mask = rows[:, None, :, None] + columns[None, :, None, :]
        return ops.cast(ops.reshape(mask, (len(self.rows) * len(self.columns), 1, -1)), dtype)


@lru_cache(maxsize=64)
def neighbourhoods(
    height: int, width: int, num_heads: int, kernel_size: int, strides: int, tile: tuple[int, int]
) -> Neighbourhoods:
    """For tiles of `tile` queries (rows, columns) on a map, and windows around every `strides`-th pixel."""
    rows, key_rows, down = _along(height, tile[0], kernel_size, strides)
    columns, key_columns, across = _along(width, tile[1], kernel_size, strides)
    total = height * width * num_heads
    queries = _numbers(rows, columns, width, num_heads)
    keys = PixelIndex(_numbers(key_rows, key_columns, width, num_heads), total)
    places = np.flatnonzero(queries >= 0)
    outputs = PixelIndex(places[np.argsort(queries[places])], queries.size)
    return Neighbourhoods(PixelIndex(queries, total), keys, outputs, down, across)


def _along(length, tile, kernel_size, strides):
    """Of one axis: pixels of the queries (tiles, tile), -1 past the end, of the keys (tiles, side), and logarithms."""
    count = -(-length // strides)
    query = np.arange(-(-count // tile) * tile).reshape(-1, tile)
    centre = np.minimum(query, count - 1) * strides
    seen = np.abs(centre[..., None] + np.arange(kernel_size) - kernel_size // 2)  # (tiles, tile, k), reflected
    seen = length - 1 - np.abs(length - 1 - seen)
    first, last = seen.min((1, 2)), seen.max((1, 2))
    side = (last - first).max() + 1
    key = np.minimum(first, length - side)[:, None] + np.arange(side)
    times = (seen[..., None] == key[:, None, None, :]).sum(2)  # (tiles, tile, side)
    logarithms = np.log(times, where=times > 0, out=np.full(times.shape, MASKED))
    return np.where(query < count, query * strides, -1), key, logarithms.astype("float32")


def _numbers(rows, columns, width, num_heads):
    """Rows of d channels, of pixels in blocks: tiles down, across, heads, rows and columns of pixels, in one axis."""
    rows, columns = rows[:, None, None, :, None], columns[None, :, None, None, :]
    numbers = (rows * width + columns) * num_heads + np.arange(num_heads)[:, None, None]
    return np.where((rows < 0) | (columns < 0), -1, numbers).reshape(-1)


def cut_windows(x: Any, size: int, num_heads: int) -> Any:
    """A map of whole windows, (B, H, W, num_heads * d), as (B * windows, num_heads, size ** 2, d)."""
    _, height, width, channels = ops.shape(x)
    if not by_index(x):
        return cut_blocks(x, (height // size, width // size), size, 0, num_heads)
    depth = channels // num_heads
    return windows(height, width, size, num_heads)[0].take(x, depth, (num_heads, size**2, depth))


def join_windows(x: Any, like: Any, size: int) -> Any:
    """What `cut_windows` cut of a map of the size of `like`: (B, H, W, num_heads * d)."""
    batch, height, width, _ = ops.shape(like)
    num_heads, depth = x.shape[1], x.shape[3]
    if not by_index(like):
        return join_blocks(x, batch, (height // size, width // size), size)
    return windows(height, width, size, num_heads)[1].take(x, depth, (height, width, num_heads * depth))


def cut_blocks(x: Any, grid: tuple[Any, Any], step: int, halo: int, num_heads: int) -> Any:
    """Blocks of `step` pixels a side, each with `halo` pixels of the next: (B * blocks, num_heads, pixels, d).

    `grid` is how many, (rows, columns): numbers, or scalar tensors for a map (B, H, W, num_heads * d) of unknown size.
    """
    batch, height, width, _ = ops.shape(x)
    (rows, columns), channels, side = grid, x.shape[-1], step + halo
    beyond = 1 if halo else 0  # blocks whose first pixels are the last halo
    total = ((rows + beyond) * step, (columns + beyond) * step)
    x = ops.pad(x, [[0, 0], [0, total[0] - height], [0, total[1] - width], [0, 0]])
    if halo:  # LiteRT slices up to four axes
        x = ops.reshape(x, (batch, rows + 1, step * total[1], channels))
        x = _join_halo(x, rows, halo * total[1])  # (B, rows, side * total width, C)
        x = ops.reshape(x, (batch * rows * side, columns + 1, step * channels))
        x = _join_halo(x, columns, halo * channels)  # (B * rows * side, columns, side * C)
    # Two transposes of four axes: LiteRT has none of seven.
    x = ops.reshape(x, (batch * rows, side, columns, side * channels))
    x = ops.transpose(x, (0, 2, 1, 3))  # (B * rows, columns, side, side * C)
    x = ops.reshape(x, (-1, side * side, num_heads, channels // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))  # (B * blocks, num_heads, pixels, d)


def join_blocks(x: Any, batch: Any, grid: tuple[Any, Any], step: int) -> Any:
    """What `cut_blocks` without a halo cut: (B * blocks, num_heads, pixels, d) -> (B, H, W, num_heads * d)."""
    num_heads, width = x.shape[1], x.shape[3]
    (rows, columns), channels = grid, num_heads * width
    x = ops.transpose(x, (0, 2, 1, 3))  # (B * blocks, pixels, num_heads, d)
    x = ops.reshape(x, (batch * rows, columns, step, step * channels))
    x = ops.transpose(x, (0, 2, 1, 3))  # (B * rows, step, columns, step * C)
    return ops.reshape(x, (batch, rows * step, columns * step, channels))


def _join_halo(x, blocks, halo):
    """`blocks` + 1 blocks along axis 1, their contents along the next: all but the last, each with its halo."""
    own, _ = split_at(x, blocks, 1)
    _, following = split_at(x, 1, 1)
    first, _ = split_at(following, halo, 2)
    return ops.concatenate([own, first], axis=2)


def split_at(x: Any, position: Any, axis: int) -> Sequence[Any]:
    """`x` before and from `position` along `axis`."""
    if x.shape[axis] is not None and isinstance(position, int):
        # On TensorFlow the gradient of a slice takes 10 times as long as that of a split, which needs a known size.
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.split(x, [position, x.shape[axis] - position], axis)  # Keras' own has 20 operations for one
        return ops.split(x, [position], axis=axis)
    before = (slice(None),) * axis
    return x[(*before, slice(None, position))], x[(*before, slice(position, None))]
