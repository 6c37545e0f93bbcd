"""Convolutions in groups, in the form that is fast on each backend."""

import functools
from typing import Any

import keras
from keras import ops

from tfvt.layers.registration import register_layer


@register_layer
class GroupedDense(keras.layers.Layer):
    """A dense layer whose channels are split into groups; on a map, a grouped 1x1 convolution.

    Output channel block k sees input channel block k only. On TensorFlow, `keras.layers.Conv2D(groups=g)`
    forces XLA, and its gradient on a CPU is orders of magnitude slower than its forward pass; a reshape and
    one batched matmul is fast both ways on every backend.

    Args:
        units: output channels; a multiple of `groups`.
        groups: number of groups; the input channels are a multiple of it.
        use_bias: add a bias of shape (units,).
        kernel_initializer: for the kernel (groups, C_in / groups, units / groups).

    Shapes: (..., C_in) -> (..., units). MACs per position: C_in * units / groups.

    Raises:
        ValueError: channels that the groups do not divide.
    """

    def __init__(
        self,
        units: int,
        groups: int = 1,
        use_bias: bool = False,
        kernel_initializer: str | keras.initializers.Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if units % groups:
            raise ValueError(f"units={units}: expected a multiple of groups={groups}")
        self.units = units
        self.groups = groups
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.groups:
            raise ValueError(f"{channels} input channels: expected a multiple of groups={self.groups}")
        group_in, group_out = channels // self.groups, self.units // self.groups
        self.kernel = self.add_weight(
            name="kernel", shape=(self.groups, group_in, group_out), initializer=self._initialize_groups
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def _initialize_groups(self, shape, dtype=None):
        # An initializer reads its fans off the last two axes of a matrix: draw the groups side by side, as
        # one matrix (C_in / groups, units). Every group then has its own fan in, but the fan out of all groups.
        groups, group_in, group_out = shape
        matrix = self.kernel_initializer((group_in, groups * group_out), dtype=dtype)
        return ops.transpose(ops.reshape(matrix, (group_in, groups, group_out)), (1, 0, 2))  # (groups, in, out)

    def call(self, inputs):
        if self.groups == 1:
            outputs = ops.matmul(inputs, ops.squeeze(self.kernel, 0))  # an index would copy it, and its gradient too
        else:
            shape = ops.shape(inputs)
            grouped = ops.reshape(inputs, (-1, self.groups, shape[-1] // self.groups))  # (N, groups, C_in / groups)
            grouped = ops.matmul(ops.transpose(grouped, (1, 0, 2)), self.kernel)  # (groups, N, units / groups)
            outputs = ops.reshape(ops.transpose(grouped, (1, 0, 2)), (*shape[:-1], self.units))
        return outputs + self.bias if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {
            "units": self.units,
            "groups": self.groups,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),  # not a plain value
        }


def grouped_conv2d(x: Any, kernel: Any, strides: int = 1) -> Any:
    """Convolution in groups, without padding: output channel block g sees input channel block g only.

    Args:
        x: (B, H, W, C_in).
        kernel: (k, k, C_in / groups, C_out), as in `keras.layers.Conv2D(groups=groups)`.
        strides: of both axes.

    Returns:
        (B, (H - k) // strides + 1, (W - k) // strides + 1, C_out).

    Forward and backward with 4 maps of 56x56, 16 groups of 9 channels to 4, on two CPU cores: TensorFlow 11 ms, where
    Keras' form, which forces XLA, takes seconds; JAX 116 ms, where its grouped convolution takes 3300 ms. On a CPU,
    TensorFlow has the gradient with oneDNN alone, see `_conv2d`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _conv2d(x, kernel, strides)
    if backend == "jax":
        return _sum_of_taps(x, kernel, strides)
    return ops.conv(x, kernel, strides, "valid")


def _conv2d(x, kernel, strides):
    """TensorFlow's convolution; where it has no gradient, with that of one convolution a group.

    Forward and backward 90 ms of processor time without oneDNN, at the size above; the gradient of shifted maps 810 ms.
    """
    import tensorflow as tf

    x, kernel = tf.convert_to_tensor(x), tf.convert_to_tensor(kernel)
    return tf.nn.conv2d(x, kernel, strides, "VALID") if _has_gradient(x.dtype) else _by_group(strides)(x, kernel)


@functools.cache
def _by_group(strides):
    """`_conv2d` with a gradient group by group, in a graph of its own: TensorFlow keeps graphs with such for ever."""
    import tensorflow as tf

    @tf.custom_gradient
    def convolution(x, kernel):
        def gradient(upstream):
            groups = x.shape[-1] // kernel.shape[2]
            with tf.GradientTape() as tape:
                tape.watch((x, kernel))
                pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
                outputs = tf.concat([tf.nn.conv2d(*pair, strides, "VALID") for pair in pairs], -1)
            return tape.gradient(outputs, (x, kernel), upstream)

        return tf.nn.conv2d(x, kernel, strides, "VALID"), gradient

    return tf.function(convolution, autograph=False)


@functools.cache
def _has_gradient(dtype):
    """Whether TensorFlow differentiates convolutions in groups: on a GPU, or by oneDNN in float32 and bfloat16.

    TensorFlow switches oneDNN on where the processor has AVX-512 VNNI or the like, or TF_ENABLE_ONEDNN_OPTS is 1.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return True
    with tf.init_scope(), tf.device("CPU"):
        kernel, upstream = tf.ones((3, 3, 2, 2), dtype), tf.ones((1, 1, 1, 2), dtype)
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=(1, 3, 3, 4), filter=kernel, out_backprop=upstream, strides=(1, 1, 1, 1), padding="VALID"
            )
        except tf.errors.OpError:
            return False
    return True


def _sum_of_taps(x, kernel, strides):
    """The convolution as one matrix a group and kernel position, applied to the shifted maps and summed."""
    size, _, group_in, units = kernel.shape
    groups = x.shape[-1] // group_in
    kernel = ops.reshape(kernel, (size, size, group_in, groups, units // groups))
    batch, height, width, _ = ops.shape(x)
    x = ops.reshape(x, (batch, height, width, groups, group_in))
    taps = [
        ops.einsum("bhwgi,igo->bhwgo", strided_window(x, row, column, size, strides), kernel[row, column])
        for row in range(size)
        for column in range(size)
    ]
    return ops.reshape(sum(taps), (*ops.shape(taps[0])[:3], units))  # of (..., groups, units / groups)


def strided_window(x: Any, row: int, column: int, size: int, strides: int) -> Any:
    """The pixels of a map (B, H, W, ...) that one position of an unpadded convolution kernel is multiplied with."""
    height, width = ops.shape(x)[1:3]
    return x[:, row : height - size + row + 1 : strides, column : width - size + column + 1 : strides]


def shifted_windows(x: Any, size: int) -> list[Any]:
    """`strided_window` of each position of a size x size kernel, row by row, with a stride of 1."""
    rows = [_shifted(x, row, size, 1) for row in range(size)]
    return [_shifted(row, column, size, 2) for row in rows for column in range(size)]


def _shifted(x, first, size, axis):
    """All but `size` - 1 pixels of a map along an axis, from `first` on."""
    if keras.backend.backend() == "tensorflow" and x.shape[axis] is not None:
        import tensorflow as tf

        # The gradient of a slice takes 10 times as long as that of a split. Keras' split has 20 operations for one.
        sizes = [first, x.shape[axis] - size + 1, size - 1 - first]
        return tf.split(x, [number for number in sizes if number], axis)[min(first, 1)]
    return x[(slice(None),) * axis + (slice(first, first + ops.shape(x)[axis] - size + 1),)]
