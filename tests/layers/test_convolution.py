"""Grouped dense layers and convolutions against one matrix a group."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.contracts as contracts
from tfvt.layers import GroupedDense, convolution
from tfvt.layers.convolution import grouped_conv2d


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 4),
    group_in=st.integers(1, 5),
    group_out=st.integers(1, 5),
    positions=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    use_bias=st.booleans(),
)
def test_each_group_is_a_matrix_of_its_own(groups, group_in, group_out, positions, use_bias):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*positions, groups * group_in)).astype("float32")
    layer = GroupedDense(groups * group_out, groups, use_bias)
    layer.build(x.shape)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    parts = [part @ kernel[k] for k, part in enumerate(np.split(x, groups, axis=-1))]
    expected = np.concatenate(parts, axis=-1)
    if use_bias:
        expected = expected + keras.ops.convert_to_numpy(layer.bias)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-5)


def test_equals_a_grouped_convolution_and_its_gradient():
    """Against the definition with a block-diagonal kernel, forward and backward."""
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype("float32")
    inputs = keras.Input((3, 5, 8))
    grouped = keras.Model(inputs, GroupedDense(12, 4, name="grouped")(inputs))
    full = keras.Model(inputs, keras.layers.Conv2D(12, 1, use_bias=False, name="full")(inputs))
    kernel = grouped.get_layer("grouped").get_weights()[0]
    block_diagonal = np.zeros((1, 1, 8, 12), "float32")
    for k in range(4):
        block_diagonal[0, 0, 2 * k : 2 * k + 2, 3 * k : 3 * k + 3] = kernel[k]
    full.set_weights([block_diagonal])
    np.testing.assert_allclose(contracts.arrays(grouped(x))[0], contracts.arrays(full(x))[0], atol=1e-5)
    of_grouped = contracts.gradients(grouped, x)["grouped/kernel"]
    of_full = contracts.gradients(full, x)["full/kernel"]
    for k in range(4):
        expected = of_full[0, 0, 2 * k : 2 * k + 2, 3 * k : 3 * k + 3]
        np.testing.assert_allclose(of_grouped[k], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs")
def test_one_group_multiplies_its_kernel_as_it_is():
    """Without a copy, and without the copy of its gradient that is wider by zeros."""
    import tensorflow as tf

    layer = GroupedDense(3)
    layer.build((2, 4))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            outputs = layer(x)
        return tape.gradient(outputs, layer.kernel.value)

    kinds = {operation.type for operation in step.get_concrete_function(tf.TensorSpec((2, 4))).graph.get_operations()}
    assert "MatMul" in kinds
    assert not kinds & {"StridedSlice", "StridedSliceGrad", "GatherV2"}


@pytest.mark.parametrize(("groups", "use_bias"), [(1, True), (4, False), (2, True)])
def test_contract(groups, use_bias):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype("float32")
    contracts.check_layer(lambda **kw: GroupedDense(12, groups, use_bias, **kw), x)


def test_the_start_has_the_variance_of_its_group():
    layer = GroupedDense(1024, 16)
    layer.build((None, 1024))
    kernel = layer.get_weights()[0]
    assert kernel.shape == (16, 64, 64)
    assert abs(kernel.std() / np.sqrt(2 / (64 + 1024)) - 1) < 0.02  # Glorot, with all outputs as fan out


def test_channels_that_the_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="units=10: expected a multiple of groups=4"):
        GroupedDense(10, 4)
    with pytest.raises(ValueError, match="6 input channels: expected a multiple of groups=4"):
        GroupedDense(8, 4).build((None, 6))


def grouped_by_hand(x, kernel, strides):
    """A loop over output pixels and groups."""
    size, _, group_in, units = kernel.shape
    groups = x.shape[-1] // group_in
    group_out = units // groups
    rows, columns = ((n - size) // strides + 1 for n in x.shape[1:3])
    outputs = np.zeros((x.shape[0], rows, columns, units))
    for i, j, g in np.ndindex(rows, columns, groups):
        window = x[:, i * strides :, j * strides :][:, :size, :size, g * group_in : (g + 1) * group_in]
        part = slice(g * group_out, (g + 1) * group_out)
        outputs[:, i, j, part] = np.tensordot(window, kernel[..., part], axes=3)
    return outputs


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(3, 8),
    width=st.integers(3, 8),
    groups=st.integers(1, 3),
    group_in=st.integers(1, 3),
    group_out=st.integers(1, 3),
    size=st.sampled_from([1, 3]),
    strides=st.integers(1, 2),
)
def test_grouped_convolution_equals_the_sum_over_windows(height, width, groups, group_in, group_out, size, strides):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, groups * group_in)).astype("float32")
    kernel = rng.normal(size=(size, size, group_in, groups * group_out)).astype("float32")
    actual = keras.ops.convert_to_numpy(grouped_conv2d(x, kernel, strides))
    np.testing.assert_allclose(actual, grouped_by_hand(x, kernel, strides), atol=1e-4)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("missing", [False, True])
def test_gradients_of_a_grouped_convolution(strides, missing, monkeypatch):
    """Linear in input and kernel: the gradient's product with a direction is the convolution of that direction."""
    if missing:  # as on a processor for which TensorFlow leaves oneDNN off
        monkeypatch.setattr(convolution, "_has_gradient", lambda dtype: False)
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 7, 6, 12)), rng.normal(size=(3, 3, 4, 6))

    @keras.saving.register_keras_serializable(package="tests")
    class Both(keras.layers.Layer):
        def build(self, shape):
            self.x = self.add_weight(shape=x.shape, initializer=lambda *_, **__: x.astype("float32"), name="x")
            self.k = self.add_weight(
                shape=kernel.shape, initializer=lambda *_, **__: kernel.astype("float32"), name="k"
            )

        def call(self, _):
            return grouped_conv2d(self.x, self.k, strides)

    inputs = keras.Input((1,))
    layer = Both(name="both")
    model = keras.Model(inputs, layer(inputs))
    found = contracts.gradients(model, np.ones((2, 1), "float32"))
    factors = np.random.default_rng(1).normal(size=grouped_by_hand(x, kernel, strides).shape)
    for name, direction, other in (("x", x, kernel), ("k", kernel, x)):
        step = rng.normal(size=direction.shape)
        pair = (step, other) if name == "x" else (other, step)
        expected = (grouped_by_hand(*pair, strides) * factors).sum()
        assert abs((found[f"both/{name}"] * step).sum() / expected - 1) < 1e-3
