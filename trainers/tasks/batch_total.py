"""Sums over a whole batch, for losses that are divided by what the batch holds, such as its true boxes."""

from typing import Any

import keras
from keras import ops


def batch_total(values: Any) -> Any:
    """The sum of `values` (B,) over the batch on all devices of all processes; no gradient flows through it."""
    total = ops.stop_gradient(ops.sum(values))
    if keras.backend.backend() == "tensorflow":  # on JAX an array is the whole batch's
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
    return total
