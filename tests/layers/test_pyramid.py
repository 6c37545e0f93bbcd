"""Parts of pyramids, and the whole neck of VT-FPN, each against NumPy."""

import keras
import numpy as np
import pytest

import tests.contracts as contracts
from tests.layers.test_visual_tokens import grouped, softmax
from tfvt import layers

LEVELS = {"P2": (7, 5, 12), "P3": (4, 3, 24), "P4": (2, 2, 48)}  # halves, rounded up


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def bilinear(x, size):
    """Half-pixel centres, the edge repeated, one axis after the other: (B, H, W, C) -> (B, *size, C)."""
    for axis, new in enumerate(size, start=1):
        old = x.shape[axis]
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        below = np.floor(place).astype(int)
        above, share = np.minimum(below + 1, old - 1), (place - below).reshape(-1, *[1] * (x.ndim - 1 - axis))
        x = np.take(x, below, axis) * (1 - share) + np.take(x, above, axis) * share
    return x


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (9, 5)])
def test_maps_grow_to_the_size_of_another(size):
    x, like = random((2, 4, 3, 5)), np.zeros((2, *size, 1), "float32")
    (actual,) = contracts.arrays(layers.Upsample(2, "bilinear")(x, like))
    np.testing.assert_allclose(actual, bilinear(x, size), atol=1e-5)
    (actual,) = contracts.arrays(layers.Upsample(2, "nearest")(x, like))
    rows, columns = (np.minimum(np.arange(new) // 2, old - 1) for new, old in zip(size, (4, 3), strict=True))
    np.testing.assert_array_equal(actual, x[:, rows][:, :, columns])


def test_maps_of_unknown_size_grow_alike():
    """Also from a graph that does not know the sizes."""
    x, like = keras.Input((None, None, 5)), keras.Input((None, None, 1))
    model = keras.Model([x, like], layers.Upsample(2, "nearest")(x, like))
    maps = random((2, 4, 3, 5)), np.zeros((2, 7, 6, 1), "float32")
    expected = np.repeat(np.repeat(maps[0], 2, axis=1), 2, axis=2)[:, :7]
    np.testing.assert_array_equal(model.predict_on_batch(list(maps)), expected)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its graphs can leave sizes open")
@pytest.mark.parametrize("size", [(7, 6), (3, 9), (2, 2)])
def test_maps_grow_in_a_graph_for_images_of_any_size(size):
    tf = pytest.importorskip("tensorflow")
    open_map, open_like = (tf.TensorSpec((None, None, None, channels)) for channels in (5, 1))
    x, like = random((2, 4, 3, 5)), np.zeros((2, *size, 1), "float32")
    to_size = tf.function(layers.Upsample(2), input_signature=[open_map, open_like])
    np.testing.assert_allclose(to_size(x, like), bilinear(x, size), atol=1e-5)
    tripled = tf.function(layers.Upsample(3), input_signature=[open_map])
    np.testing.assert_allclose(tripled(x), bilinear(x, (12, 9)), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs")
def test_the_gradient_of_nearest_growth():
    """A pixel's is the sum over its copies, without the gradient of a slice: a third of VT-FPN's training step."""
    import tensorflow as tf

    x, given = random((2, 4, 3, 5)), random((2, 7, 5, 5), seed=1)

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layers.Upsample(2, "nearest")(x, given)
        return tape.gradient(outputs, x, output_gradients=given)

    blocks = np.pad(given, [(0, 0), (0, 1), (0, 1), (0, 0)]).reshape(2, 4, 2, 3, 2, 5)
    np.testing.assert_allclose(gradient(tf.constant(x)), blocks.sum(axis=(2, 4)), atol=1e-5)
    graph = gradient.get_concrete_function(tf.TensorSpec(x.shape)).graph
    assert "StridedSliceGrad" not in {operation.type for operation in graph.get_operations()}


def test_maps_grow_by_a_factor():
    x = random((2, 3, 2, 5))
    np.testing.assert_allclose(contracts.arrays(layers.Upsample(4)(x))[0], bilinear(x, (12, 8)), atol=1e-5)


@pytest.mark.parametrize(("size", "grid"), [((7, 5), 3), ((4, 6), 2), ((2, 3), 6), ((5, 5), 1)])
def test_adaptive_pooling(size, grid):
    """A mean over each bin, with the borders of PyTorch's AdaptiveAvgPool2d."""
    x = random((2, *size, 4))
    rows, columns = ([slice(i * n // grid, -(-(i + 1) * n // grid)) for i in range(grid)] for n in size)
    expected = np.stack([np.stack([x[:, r, c].mean(axis=(1, 2)) for c in columns], 1) for r in rows], 1)
    np.testing.assert_allclose(contracts.arrays(layers.AdaptivePooling(grid)(x))[0], expected, atol=1e-5)


def convolution(x, kernel):
    """3x3, zeros around the map."""
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    height, width = x.shape[1:3]
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def joined(sizes, known):
    """(model, maps): a `JoinedConvolution`, called `joined`, of maps of these sizes, which the model knows or not."""
    maps = [random((2, *size, 3 + number), seed=number) for number, size in enumerate(sizes)]
    inputs = [keras.Input(x.shape[1:] if known else (None, None, x.shape[-1])) for x in maps]
    return keras.Model(inputs, layers.JoinedConvolution(4, name="joined")(inputs)), maps


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("sizes", [[(8, 6), (4, 3), (1, 1)], [(7, 5), (4, 3), (7, 5), (1, 2)], [(3, 4)]])
def test_joined_convolution(sizes, known):
    """Growth, concatenation and convolution, one after the other."""
    model, maps = joined(sizes, known)
    (kernel,) = model.get_weights()
    expected = convolution(np.concatenate([bilinear(x, sizes[0]) for x in maps], axis=-1), kernel)
    np.testing.assert_allclose(model.predict_on_batch(maps), expected, atol=1e-5)


def test_gradients_of_a_joined_convolution():
    """Those of the plain form."""
    model, maps = joined([(7, 5), (4, 3), (1, 2)], known=True)
    grown = [model.inputs[0], *(layers.Upsample()(x, model.inputs[0]) for x in model.inputs[1:])]
    x = keras.layers.Concatenate()(grown)
    plain = keras.Model(model.inputs, keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="joined")(x))
    plain.set_weights(model.get_weights())
    actual, expected = (contracts.gradients(m, maps)["joined/kernel"] for m in (model, plain))
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    contracts.check_save_and_load(model, maps)


def built(neck):
    """(model, images, weights by path) of a neck on `LEVELS`."""
    inputs = {level: keras.Input(shape, name=level) for level, shape in LEVELS.items()}
    model = keras.Model(inputs, neck(inputs))
    for weight in model.trainable_weights:
        if weight.name == "bias":
            weight.assign(random(weight.shape, seed=3))
    maps = {level: random((2, *shape), seed=1) for level, shape in LEVELS.items()}
    return model, maps, {w.path: keras.ops.convert_to_numpy(w).astype("float64") for w in model.weights}


def lateral_maps(maps, weights, top_down):
    """Laterals and, from coarse to fine, nearest additions."""
    laterals = {}
    for level, x in maps.items():
        name = f"neck_{level.lower()}_lateral"
        laterals[level] = x @ weights[f"{name}/kernel"][0, 0] + weights[f"{name}/bias"]
    if top_down:
        for level, coarser in (("P3", "P4"), ("P2", "P3")):
            height, width = laterals[level].shape[1:3]
            above = laterals[coarser].repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
            laterals[level] = laterals[level] + above
    return laterals


@pytest.mark.parametrize("top_down", [True, False])
def test_fpn(top_down):
    model, maps, weights = built(layers.FPN(16, top_down))
    actual = model(maps)
    assert list(actual) == list(LEVELS)
    for level, x in lateral_maps(maps, weights, top_down).items():
        kernel, bias = (weights[f"neck_{level.lower()}_output/{kind}"] for kind in ("kernel", "bias"))
        np.testing.assert_allclose(contracts.arrays(actual[level])[0], convolution(x, kernel) + bias, atol=1e-4)


def test_vt_fpn():
    """Equation (1) on each level, (3) and (4) on the tokens of all, (5) with each level's own."""
    channels, tokens, dim, groups = 32, 3, 40, 4
    neck = layers.VTFPN(channels, num_tokens=tokens, token_dim=dim, query_groups=groups, norm="none")
    model, maps, w = built(neck)
    actual = {level: contracts.arrays(x)[0] for level, x in model(maps).items()}
    laterals = lateral_maps(maps, w, top_down=True)
    for image in range(2):
        pixels = {level: x[image].reshape(-1, channels) for level, x in laterals.items()}
        found = []
        for level, x in pixels.items():
            name = f"neck_{level.lower()}_tokenizer"
            found.append(softmax(x @ w[f"{name}/w_a"], axis=0).T @ x @ w[f"{name}/lift/linear/kernel"][0])
        t = np.concatenate(found)
        query, key = (grouped(t, w[f"neck_relation/{name}/linear/kernel"]) for name in ("query", "key"))
        t = t + softmax(query @ key.T * (dim // 2) ** -0.5, axis=1) @ t
        hidden = np.maximum(t @ w["neck_relation/mlp_in/linear/kernel"][0], 0)
        t = t + hidden @ w["neck_relation/mlp_out/linear/kernel"][0]
        for own, (level, x) in zip(np.split(t, len(LEVELS)), pixels.items(), strict=True):
            name = f"neck_{level.lower()}_projector"
            key, value = (own @ w[f"{name}/{kind}/linear/kernel"][0] for kind in ("key", "value"))
            logits = grouped(x, w[f"{name}/query_kernel"]) @ key.T * channels**-0.5
            expected = x + softmax(logits, axis=1) @ value
            np.testing.assert_allclose(actual[level][image].reshape(-1, channels), expected, atol=1e-3)


LAYERS = {
    "bilinear": (lambda **kw: layers.Upsample(2, **kw), [(4, 3, 5), (7, 6, 2)]),
    "nearest": (lambda **kw: layers.Upsample(4, "nearest", **kw), [(4, 3, 5)]),
    "pooling": (lambda **kw: layers.AdaptivePooling(3, **kw), [(5, 7, 4)]),
    "projector": (lambda **kw: layers.LevelProjector(4, norm="layer", **kw), [(5, 3, 32), (3, 24)]),
    "tokenizer": (lambda **kw: layers.FilterTokenizer(3, 24, pixel_value=False, **kw), [(5, 3, 32)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_contract(name):
    make_layer, shapes = LAYERS[name]
    contracts.check_layer(make_layer, *[random((2, *shape)) for shape in shapes])


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="query_groups=16: expected a divisor of the 24 channels"):
        layers.LevelProjector()(random((1, 2, 2, 24)), random((1, 3, 8)))
