"""Local attention: every pixel attends to the k x k pixels around it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tfvt.layers.attention import softmax
from tfvt.layers.blocks import MASKED, by_index, cut_blocks, join_blocks, neighbourhoods, split_at
from tfvt.layers.initializers import torch_start
from tfvt.layers.map_attention import MapAttention
from tfvt.layers.registration import register_layer


def local_attention(query: Any, key: Any, value: Any, num_heads: int, kernel_size: int, strides: int = 1) -> Any:
    """Soft-max attention of each query to a window of keys, by tiles of queries, on any backend and for any size.

    A tile of queries shares one block of keys, its own area and a halo from the neighbouring blocks: two
    batched matrix products a tile, with the keys outside a query's window masked. Unfolding the windows instead
    copies each key k x k times, and takes 13 times as long to train and 5 times the memory (`benchmarks.acmix`).

    Args:
        query: (B, ceil(H / strides), ceil(W / strides), C); the windows of neighbours are `strides` pixels apart.
        key, value: (B, H + kernel_size - 1, W + kernel_size - 1, C), padded alike on all sides.
        num_heads: a divisor of C; the heads share the channels in equal consecutive parts.
        kernel_size: k, odd.
        strides: less than kernel_size.

    Returns:
        (B, ceil(H / strides), ceil(W / strides), C).
    """
    tile = -(-kernel_size // strides)  # the smallest whose keys end inside the next block
    batch, height, width, _ = ops.shape(query)
    channels = query.shape[-1]
    grid = tuple((side + tile - 1) // tile for side in (height, width))  # not -(-side // tile): ONNX rounds to zero
    query = cut_blocks(query * (channels // num_heads) ** -0.5, grid, tile, 0, num_heads)
    key, value = (cut_blocks(x, grid, tile * strides, kernel_size - strides, num_heads) for x in (key, value))
    logits = ops.matmul(query, ops.swapaxes(key, -1, -2))  # (B * blocks, heads, queries, keys of a block)
    weights = ops.softmax(logits + ops.cast(_window_mask(tile, kernel_size, strides), logits.dtype), axis=-1)
    outputs = join_blocks(ops.matmul(weights, value), batch, grid, tile)  # (B, rows * tile, columns * tile, C)
    for axis, size in ((1, height), (2, width)):
        if outputs.shape[axis] != size:
            outputs, _ = split_at(outputs, size, axis)
    return outputs


def indexed_attention(query: Any, key: Any, value: Any, num_heads: int, kernel_size: int, strides: int = 1) -> Any:
    """`local_attention` on whole maps of known size, reflected at the borders, on TensorFlow.

    Args:
        query, key, value: (B, H, W, C), H and W at least kernel_size // 2 + 1.
        num_heads, kernel_size, strides: as of `local_attention`.

    Returns:
        (B, ceil(H / strides), ceil(W / strides), C).
    """
    check_reflection(key.shape, kernel_size)  # again: a layer that was built for any size is called with one
    _, height, width, channels = query.shape
    tile = tile_of(-(-height // strides), -(-width // strides), strides)
    plan = neighbourhoods(height, width, num_heads, kernel_size, strides, tile)
    depth = channels // num_heads
    query = plan.queries.take(query * depth**-0.5, depth, (tile[0] * tile[1], depth))  # (B * tiles * heads, pixels, d)
    key, value = (plan.keys.take(x, depth, (plan.block, depth)) for x in (key, value))
    logits = ops.matmul(query, ops.swapaxes(key, -1, -2))  # (B * tiles * heads, pixels of a tile, pixels of a block)
    mask = plan.mask(logits.dtype)
    masked = ops.reshape(logits, (-1, mask.shape[0], num_heads, mask.shape[2])) + mask
    weights = softmax(ops.reshape(masked, (-1, *logits.shape[1:])))
    rows, columns = -(-height // strides), -(-width // strides)
    return plan.outputs.take(ops.matmul(weights, value), depth, (rows, columns, channels))


def _window_mask(tile, kernel_size, strides):
    """(tile ** 2, pixels of a block of keys): 0 inside a query's window, MASKED outside."""
    first = strides * np.arange(tile)[:, None]
    position = np.arange((tile - 1) * strides + kernel_size)[None, :]
    inside = (first <= position) & (position < first + kernel_size)  # (tile, side of a block of keys)
    window = inside[:, None, :, None] & inside[None, :, None, :]  # (tile, tile, side, side)
    return np.where(window, 0, MASKED).reshape(tile * tile, -1).astype("float32")


def tile_of(rows: int, columns: int, strides: int) -> tuple[int, int]:
    """Sides of the tiles of `indexed_attention` for so many queries, by what was fast on two CPU cores.

    Small tiles have few keys outside a query's window, and large ones make large matrix products. On small maps the
    border, which is read once, cuts the blocks of keys.
    """
    if strides > 1:
        side = (4, 4) if max(rows, columns) > 7 else (7, 7)
    else:
        side = (4, 8) if max(rows, columns) > 28 else (7, 14)
    # As few queries beyond the map as may be.
    return tuple(-(-size // -(-size // most)) for size, most in zip((rows, columns), side, strict=True))


@register_layer
class LocalAttention(MapAttention):
    """Attention to the k x k pixels around each pixel, with relative positions (ACmix, eq. 9 and 10).

    Source: ACmix (Pan et al. 2022), section 3.2; keys and values are reflected at the borders. The logits are
    q (k + p_query - p_key) / sqrt(d), p a learned linear map of the pixel's place in the image, shared by the
    heads. q p_query is the same for all keys and cancels in the soft-max, so the layer computes k - p_key.

    Args:
        filters: C', output channels.
        num_heads: a divisor of `filters`.
        kernel_size: k, odd.
        strides: the output has every `strides`-th pixel; less than kernel_size.
        returns: see `MapAttention`; the projections are at the input's resolution.

    Shapes: (B, H, W, C) -> (B, ceil(H / strides), ceil(W / strides), C').

    Raises:
        ValueError: heads that do not divide the channels, or a map that is too small to reflect.
    """

    def __init__(self, filters: int, num_heads: int = 4, kernel_size: int = 7, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_divisor("num_heads", num_heads, filters)
        check_kernel_size("kernel_size", kernel_size)
        if not 1 <= strides < kernel_size:
            raise ValueError(f"strides={strides}: expected 1 <= strides < kernel_size={kernel_size}")
        self.filters, self.num_heads, self.kernel_size, self.strides = filters, num_heads, kernel_size, strides

    def build_projections(self, x_shape: Sequence[int | None]) -> None:
        self.query, self.key, self.value = (
            self.dense(self.filters, name, torch_start(x_shape[-1])) for name in ("query", "key", "value")
        )
        for layer in (self.query, self.key, self.value):
            layer.build(x_shape)

    def build_attention(self, x_shape: Sequence[int | None]) -> None:
        check_reflection(x_shape, self.kernel_size)
        head_dim = self.filters // self.num_heads
        self.position_kernel = self.add_weight(
            name="position_kernel", shape=(2, head_dim), initializer=torch_start(2)["kernel_initializer"]
        )
        # Cancels in the soft-max as well; it stays so that published parameters fit.
        self.position_bias = self.add_weight(name="position_bias", shape=(head_dim,), initializer="zeros")

    def project(self, x: Any) -> tuple[Any, Any, Any]:
        return self.query(x), self.key(x), self.value(x)

    def attend(self, query: Any, key: Any, value: Any) -> Any:
        key = key - ops.tile(self.positions(key), (1, 1, self.num_heads))  # (B, H, W, C')
        if by_index(key):
            return indexed_attention(query, key, value, self.num_heads, self.kernel_size, self.strides)
        key, value = (reflect(x, self.kernel_size) for x in (key, value))  # (B, H + k - 1, W + k - 1, C')
        # Not a slice with steps: behind a convolution, OpenVINO loses them.
        query = ops.average_pool(query, 1, self.strides)  # (B, ceil(H / strides), ceil(W / strides), C')
        return local_attention(query, key, value, self.num_heads, self.kernel_size, self.strides)

    def positions(self, x: Any) -> Any:
        """p, (H, W, d): the linear map of (x, y), each from -1 to 1 across the map."""
        height, width = (ops.cast(size, "float32") for size in ops.shape(x)[1:3])
        row = ops.cast(ops.arange(ops.shape(x)[1]), "float32") * (2 / (height - 1)) - 1
        column = ops.cast(ops.arange(ops.shape(x)[2]), "float32") * (2 / (width - 1)) - 1
        kernel = self.position_kernel
        row, column = (ops.cast(c, kernel.dtype) for c in (row, column))
        return column[None, :, None] * kernel[0] + row[:, None, None] * kernel[1] + self.position_bias

    def compute_output_shape(self, x_shape):
        projected = (*x_shape[:-1], self.filters)
        rows, columns = (None if size is None else -(-size // self.strides) for size in x_shape[1:3])
        outputs = (x_shape[0], rows, columns, self.filters)
        return {"attention": outputs, "both": (outputs, *[projected] * 3), "projections": (projected,) * 3}[
            self.returns
        ]

    def macs(self, x):
        """k^2 keys a query, whatever the tiles compute; the position map does not depend on the image."""
        if self.returns == "projections":
            return 0
        rows, columns = (-(-size // self.strides) for size in x.shape[1:3])
        return 2 * self.kernel_size**2 * self.filters * rows * columns


def reflect(x: Any, kernel_size: int) -> Any:
    """`x` (B, H, W, C) with half a kernel of reflected pixels on each side."""
    check_reflection(x.shape, kernel_size)  # again: a layer that was built for any size is called with one
    padding = kernel_size // 2
    if None in x.shape[1:3]:
        return ops.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]], mode="reflect")
    # TensorFlow's mirror padding takes 2 to 3 times as long on a CPU: where the size is known, do without.
    for axis in (1, 2):
        size = x.shape[axis]
        _, first, _ = ops.split(x, [1, padding + 1], axis=axis)
        _, last, _ = ops.split(x, [size - padding - 1, size - 1], axis=axis)
        x = ops.concatenate([ops.flip(first, axis=axis), x, ops.flip(last, axis=axis)], axis=axis)
    return x


def check_divisor(argument: str, divisor: int, filters: int) -> None:
    if filters % divisor:
        raise ValueError(f"{argument}={divisor}: expected a divisor of the {filters} channels")


def check_kernel_size(argument: str, kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"{argument}={kernel_size}: expected an odd number")


def check_reflection(x_shape: Any, kernel_size: int) -> None:
    """Raise a ValueError where a map of `x_shape`, as any backend says it, is too small to reflect half a kernel."""
    least = kernel_size // 2 + 1
    if any(size is not None and size < least for size in x_shape[1:3]):
        raise ValueError(
            f"a map of {x_shape[1]}x{x_shape[2]} cannot be reflected for windows of {kernel_size}x{kernel_size}: "
            f"expected at least {least}x{least}"
        )
