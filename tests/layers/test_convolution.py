"""Grouped dense layers against one matrix a group."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.contracts as contracts
from tfvt.layers import GroupedDense


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
    np.testing.assert_allclose(grouped(x), full(x), atol=1e-5)
    of_grouped = contracts.gradients(grouped, x)["grouped/kernel"]
    of_full = contracts.gradients(full, x)["full/kernel"]
    for k in range(4):
        expected = of_full[0, 0, 2 * k : 2 * k + 2, 3 * k : 3 * k + 3]
        np.testing.assert_allclose(of_grouped[k], expected, rtol=1e-4, atol=1e-4)


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
