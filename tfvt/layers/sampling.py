"""Random samples of anchors and proposals that depend on a seed for each image and on nothing else.

The numbers are a hash in 32-bit arithmetic: the same on every backend, and however a batch is split over devices.
"""

from typing import Any

from keras import ops

from tfvt.layers.nms import take_rows, top_k


def sample(state: Any, seeds: Any, number: int, positive_fraction: float, stream: int = 0) -> tuple[Any, Any]:
    """Draw anchors of each image: positives up to their share, then negatives until there are enough.

    Args:
        state: (B, A): 1 for a positive, 0 for a negative, -1 for what is not drawn, as `assign_boxes` gives it.
        seeds: int32 (B, 2).
        number: of draws of an image.
        positive_fraction: of positives among them at most.
        stream: draws with the same seeds and another number here have nothing to do with these.

    Returns:
        indices: int32 (B, number), of the anchors drawn, positives first.
        drawn: int32 (B, number): their states; -1 where an image has not enough.
    """
    seeds = ops.cast(seeds, "int32")
    key = _hash(_hash(ops.bitwise_xor(_hash(seeds[:, :1]), seeds[:, 1:])) + stream)
    places = ops.arange(ops.shape(state)[1], dtype="int32")
    # 24 bits, which float32 holds.
    priority = ops.cast(ops.bitwise_and(_hash(ops.bitwise_xor(key, places)), 0xFFFFFF), "float32")
    drawn, indices = [], []
    for kind, most in ((1, int(number * positive_fraction)), (0, number)):
        values, rows = top_k(ops.where(state == kind, priority, -1.0), most)
        drawn.append(ops.where(values >= 0, kind, -1))
        indices.append(rows)
    # Those there are, in this order.
    drawn, indices = ops.concatenate(drawn, axis=1), ops.concatenate(indices, axis=1)
    _, order = top_k(ops.cast(drawn >= 0, "float32"), number)
    return take_rows(indices, order), ops.cast(take_rows(drawn, order), "int32")


def _hash(x):
    """Mix the bits of int32 numbers: https://github.com/skeeto/hash-prospector, the function lowbias32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, None)):
        # Logical, not arithmetic, shifts.
        x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, shift), (1 << (32 - shift)) - 1))
        x = x if factor is None else x * factor
    return x
