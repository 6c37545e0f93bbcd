"""Pointwise convolutions in groups."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfvt")
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

    def __init__(self, units, groups=1, use_bias=False, kernel_initializer="glorot_uniform", **kwargs):
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
        # one matrix (C_in / groups, units), and every group has its own fans right but for the output's.
        groups, group_in, group_out = shape
        matrix = self.kernel_initializer((group_in, groups * group_out), dtype=dtype)
        return ops.transpose(ops.reshape(matrix, (group_in, groups, group_out)), (1, 0, 2))

    def call(self, inputs):
        if self.groups == 1:
            outputs = ops.matmul(inputs, self.kernel[0])
        else:
            shape = ops.shape(inputs)
            grouped = ops.reshape(inputs, (-1, self.groups, shape[-1] // self.groups))
            grouped = ops.matmul(ops.transpose(grouped, (1, 0, 2)), self.kernel)
            outputs = ops.reshape(ops.transpose(grouped, (1, 0, 2)), (*shape[:-1], self.units))
        return outputs + self.bias if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {
            "units": self.units,
            "groups": self.groups,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
