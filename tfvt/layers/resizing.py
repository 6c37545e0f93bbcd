"""Bilinear resizing of maps, whose size may be known only as a graph runs."""

from typing import Any

from keras import ops


def resize_bilinear(x: Any, size: tuple[Any, Any]) -> Any:
    """A map (B, H, W, C) at another size (height, width): half-pixel centres, no antialiasing; its dtype stays.

    In a TensorFlow graph for images of any size, sides are tensors, which `keras.ops.image.resize` does not take.
    """
    if all(isinstance(side, int) for side in size):
        # TensorFlow resizes half precision into float32.
        return ops.cast(ops.image.resize(x, size, interpolation="bilinear"), x.dtype)
    for axis, length in zip((1, 2), size, strict=True):
        x = _resize_axis(x, axis, length)
    return x


def _resize_axis(x, axis, length):
    source = ops.shape(x)[axis]
    # (2 place + 1) / (2 length) of the way through the source, in whole numbers.
    double = ops.maximum((2 * ops.arange(length, dtype="int32") + 1) * source - length, 0)
    low, rest = double // (2 * length), double % (2 * length)
    high = ops.minimum(low + ops.cast(rest > 0, "int32"), source - 1)
    share = ops.cast(rest, "float32") / ops.cast(2 * length, "float32")
    share = ops.cast(ops.reshape(share, (-1, 1, 1) if axis == 1 else (-1, 1)), x.dtype)
    first, second = ops.take(x, low, axis=axis), ops.take(x, high, axis=axis)
    return first + share * (second - first)
