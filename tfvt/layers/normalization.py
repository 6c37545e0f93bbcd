"""Batch norm in the form that is fast on each backend."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfvt")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, which on TensorFlow is one fused operation.

    Arguments, weights, outputs, gradients and moving averages are Keras'. Keras has an operation, with a map of its
    own, for each step of the formula and of its gradient. The fused one makes no maps between, computes in float32 on
    maps in half precision as they are, and in inference TensorFlow joins it with the convolution before it.

    Keras' form stays on other backends and where the fused operation lacks something: masks, `renorm`, float64, an axis
    other than the last, `synchronized` statistics of several replicas, inference on anything but maps, and the gradient
    of inference, of which GPUs have no deterministic form: in frozen layers, and where a GPU must be deterministic.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, order: Any = None) -> Any:
        """`order`: the place of each channel among the weights, where it is another and the norm `is_fused`."""
        if mask is not None or not self.is_fused(inputs, training):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        def ordered(weights, places=order):
            # Along another axis than the first, the gradient is a tensor, and not sparse.
            return weights if places is None else tf.gather(weights[None], places, axis=1)[0]

        training, is_map = bool(training), len(inputs.shape) == 4
        mean, variance = (ordered(ops.cast(value, "float32")) for value in (self.moving_mean, self.moving_variance))
        # Unlike tf.compat.v1.nn.fused_batch_norm, it takes any epsilon.
        outputs, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs if is_map else tf.reshape(inputs, (-1, 1, 1, inputs.shape[-1])),
            scale=ordered(ops.cast(self.gamma, "float32")) if self.scale else tf.ones_like(mean),
            offset=ordered(ops.cast(self.beta, "float32")) if self.center else tf.zeros_like(mean),
            mean=tf.zeros(0) if training else mean,
            variance=tf.zeros(0) if training else variance,
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            # It estimates the variance of what the batch is a sample of; Keras averages that of the batch itself.
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), "float32")
            batch_variance *= tf.maximum(count - 1, 1) / count
            back = None if order is None else tf.math.invert_permutation(order)
            mean = mean * self.momentum + batch_mean * (1 - self.momentum)
            variance = variance * self.momentum + batch_variance * (1 - self.momentum)
            self.moving_mean.assign(ordered(mean, back))
            self.moving_variance.assign(ordered(variance, back))
        return ops.cast(outputs if is_map else tf.reshape(outputs, ops.shape(inputs)), self.compute_dtype)

    def is_fused(self, inputs: Any, training: bool | None) -> bool:
        """Whether this is TensorFlow, and its operation does all that Keras' layer would do with these inputs."""
        if keras.backend.backend() != "tensorflow":
            return False
        import tensorflow as tf
        from tensorflow.python.framework.config import is_op_determinism_enabled  # Keras reads it there too

        rank = len(inputs.shape)
        if self.renorm or self.axis % rank != rank - 1 or inputs.dtype not in (tf.float16, tf.bfloat16, tf.float32):
            return False
        if training:
            return self.trainable and not (self.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1)
        # Of anything but a map, a convolution does not come before it, and reshaping gains nothing.
        return rank == 4 and not (is_op_determinism_enabled() and tf.config.list_physical_devices("GPU"))
