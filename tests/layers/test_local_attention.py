"""Local attention by tiles against plain forms: windows in NumPy, and, for gradients, windows that are copied out."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import tests.contracts as contracts
from tfvt.layers import LocalAttention
from tfvt.layers.convolution import strided_window
from tfvt.layers.local_attention import indexed_attention, local_attention, reflect


def unfolded_attention(query, key, value, num_heads, kernel_size, strides=1):
    """The same with every window copied out: keys and values (B, H, W, k * k, heads, d)."""
    batch, height, width, channels = ops.shape(query)
    heads = (num_heads, channels // num_heads)
    taps = [(p // kernel_size, p % kernel_size) for p in range(kernel_size**2)]
    keys, values = (
        ops.reshape(
            ops.stack([strided_window(x, *tap, kernel_size, strides) for tap in taps], axis=3),
            (batch, height, width, len(taps), *heads),
        )
        for x in (key, value)
    )
    query = ops.reshape(query, (batch, height, width, 1, *heads)) * heads[1] ** -0.5
    weights = ops.softmax(ops.sum(query * keys, axis=-1), axis=3)
    return ops.reshape(ops.sum(weights[..., None] * values, axis=3), (batch, height, width, channels))


def random_maps(height, width, kernel_size, strides, channels=8):
    rng = np.random.default_rng(0)
    outputs = (2, -(-height // strides), -(-width // strides), channels)
    padded = (2, height + kernel_size - 1, width + kernel_size - 1, channels)
    return [rng.normal(size=shape).astype("float32") for shape in (outputs, padded, padded)]


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel_size=st.sampled_from([3, 5, 7]),
    strides=st.sampled_from([1, 2]),
    num_heads=st.sampled_from([1, 2, 4]),
)
def test_tiles_equal_sliding_windows(height, width, kernel_size, strides, num_heads):
    query, key, value = random_maps(height, width, kernel_size, strides)
    tensors = (ops.convert_to_tensor(x) for x in (query, key, value))
    actual = ops.convert_to_numpy(local_attention(*tensors, num_heads, kernel_size, strides))
    keys, values = (
        np.lib.stride_tricks.sliding_window_view(x, (kernel_size, kernel_size), axis=(1, 2))[:, ::strides, ::strides]
        for x in (key, value)
    )
    depth = query.shape[-1] // num_heads
    for head in range(num_heads):
        part = slice(head * depth, (head + 1) * depth)
        logits = np.einsum("bhwc,bhwcij->bhwij", query[..., part], keys[..., part, :, :]) * depth**-0.5
        weights = np.exp(logits - logits.max((-1, -2), keepdims=True))
        weights /= weights.sum((-1, -2), keepdims=True)
        expected = np.einsum("bhwij,bhwcij->bhwc", weights, values[..., part, :, :])
        np.testing.assert_allclose(actual[..., part], expected, atol=1e-5)


@pytest.mark.parametrize("strides", [1, 2])
def test_gradients_equal_those_of_unfolded_windows(strides):
    def gradients(form):
        inputs = keras.Input((9, 10, 8))

        class Model(keras.layers.Layer):
            def build(self, shape):
                self.projections = [keras.layers.Dense(8, kernel_initializer="orthogonal") for _ in range(3)]
                for i, dense in enumerate(self.projections):
                    dense.build(shape)
                    dense.kernel.assign(np.random.default_rng(i).normal(size=(8, 8)) * 0.5)

            def call(self, x):
                query, key, value = (dense(x) for dense in self.projections)
                key, value = (ops.pad(m, [[0, 0], [3, 3], [3, 3], [0, 0]]) for m in (key, value))
                return form(query[:, ::strides, ::strides], key, value, 2, 7, strides)

        model = keras.Model(inputs, Model(name="layer")(inputs))
        return list(contracts.gradients(model, random_maps(9, 10, 1, 1)[0]).values())

    for actual, expected in zip(gradients(local_attention), gradients(unfolded_attention), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a form for TensorFlow alone")
@pytest.mark.parametrize(
    ("size", "kernel_size", "strides"),
    [((4, 5), 7, 1), ((13, 9), 7, 2), ((14, 29), 7, 1), ((33, 30), 5, 1), ((17, 20), 5, 3), ((3, 2), 3, 2)],
)
def test_blocks_by_an_index_equal_reflected_tiles(size, kernel_size, strides):
    """Numbers and gradients, where tiles are whole and where they are not, at borders and away from them."""
    import tensorflow as tf

    def tiles(query, key, value, *options):
        key, value = (reflect(x, kernel_size) for x in (key, value))
        return local_attention(query[:, ::strides, ::strides], key, value, *options)

    rng = np.random.default_rng(0)
    maps = [tf.constant(rng.normal(size=(2, *size, 8)).astype("float32")) for _ in range(3)]
    rows, columns = (-(-side // strides) for side in size)
    direction = rng.normal(size=(2, rows, columns, 8)).astype("float32")
    found = []
    for form in (tiles, indexed_attention):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            outputs = form(*maps, 2, kernel_size, strides)
        found.append([outputs, *tape.gradient(outputs, maps, direction)])
    for expected, actual in zip(*found, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "strides"), [((4, 5), 1), ((9, 8), 2), ((5, 4), 3)])
def test_layer_equals_the_published_logits(size, strides):
    """Logits q (k + p_query - p_key) / sqrt(d), with reflected borders, pixel by pixel."""
    x = np.random.default_rng(0).normal(size=(2, *size, 6)).astype("float32")
    layer = LocalAttention(8, num_heads=2, kernel_size=7, strides=strides)
    (actual,) = contracts.arrays(layer(x))
    for weight in layer.weights:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    (actual,) = contracts.arrays(layer(x))
    q, k, v = contracts.arrays(layer.project(x))
    kernel, bias = (ops.convert_to_numpy(w) for w in (layer.position_kernel, layer.position_bias))
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, size[1]), np.linspace(-1, 1, size[0])), axis=-1)
    p = grid @ kernel + bias
    pad = [(3, 3), (3, 3)]
    for b, head in np.ndindex(2, 2):
        part = slice(4 * head, 4 * head + 4)
        keys, values, places = (
            np.pad(m, [*pad, (0, 0)], mode="reflect") for m in (k[b, ..., part], v[b, ..., part], p)
        )
        for i, j in np.ndindex(*actual.shape[1:3]):
            row, column = i * strides, j * strides
            window = (slice(row, row + 7), slice(column, column + 7))
            logits = (keys[window] + p[row, column] - places[window]) @ q[b, row, column, part] / 2
            weights = np.exp(logits - logits.max())
            expected = np.tensordot(weights / weights.sum(), values[window], axes=2)
            np.testing.assert_allclose(actual[b, i, j, part], expected, rtol=1e-3, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(4, 12), width=st.integers(4, 12), kernel_size=st.sampled_from([1, 3, 5, 7]))
def test_reflection(height, width, kernel_size):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype("float32")
    padding = kernel_size // 2
    expected = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(contracts.arrays(reflect(ops.convert_to_tensor(x), kernel_size))[0], expected)


@pytest.mark.parametrize("strides", [1, 2])
def test_contract(strides):
    x = np.random.default_rng(0).normal(size=(2, 9, 6, 5)).astype("float32")
    contracts.check_layer(lambda **kw: LocalAttention(8, 2, 5, strides, **kw), x)


def test_any_size_in_one_graph():
    inputs = keras.Input((None, None, 4))
    layer = LocalAttention(4, 2)
    model = keras.Model(inputs, layer(inputs))
    for size in ((4, 4), (7, 15), (14, 9)):
        x = np.random.default_rng(0).normal(size=(1, *size, 4)).astype("float32")
        np.testing.assert_allclose(*(contracts.arrays(f(x))[0] for f in (model, layer)), atol=1e-5)
        np.testing.assert_allclose(model.predict(x, verbose=0), contracts.arrays(layer(x))[0], atol=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="map of 9x3 cannot be reflected for windows of 7x7: expected at least 4x4"):
        LocalAttention(8)(np.zeros((1, 9, 3, 4), "float32"))
    with pytest.raises(ValueError, match="num_heads=3: expected a divisor of the 8 channels"):
        LocalAttention(8, num_heads=3)
    with pytest.raises(ValueError, match="kernel_size=4: expected an odd number"):
        LocalAttention(8, kernel_size=4)
    with pytest.raises(ValueError, match="strides=3: expected 1 <= strides < kernel_size=3"):
        LocalAttention(8, kernel_size=3, strides=3)
