"""Sets of boxes for tests: small whole numbers, so that boxes coincide, touch, and have no area."""

import functools

import keras
import numpy as np
from hypothesis import strategies as st
from keras import ops


@functools.cache
def on_arrays(function, **options):
    """`function` with these options from NumPy arrays to NumPy arrays, traced once for each shape."""
    call = functools.partial(function, **options)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        call = tf.function(call)
    if keras.backend.backend() == "jax":
        import jax

        call = jax.jit(call)

    def run(*arrays):
        outputs = call(*map(ops.convert_to_tensor, arrays))
        return keras.tree.map_structure(ops.convert_to_numpy, outputs)

    return run


def box_sets(shape, side=6):
    """Arrays (*shape, 4), float32, of boxes y1, x1, y2, x2 within 0..side, some without area."""

    def to_boxes(numbers):
        corners = np.sort(np.array(numbers, "float32").reshape(*shape, 2, 2), axis=-2)
        return corners.reshape(*shape, 4)

    count = int(np.prod(shape)) * 4
    return st.lists(st.integers(0, side), min_size=count, max_size=count).map(to_boxes)


def arrays_of(values, shape, dtype):
    """Arrays of this shape whose elements are drawn from `values`."""
    count = int(np.prod(shape))
    elements = st.lists(st.sampled_from(values), min_size=count, max_size=count)
    return elements.map(lambda drawn: np.array(drawn, dtype).reshape(shape))


def iou(a, b):
    """Of two boxes, in float32 as the layers compute it; 0 where both have no area."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(height, 0) * max(width, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return np.float32(shared) / np.float32(union) if union > 0 else np.float32(0)
