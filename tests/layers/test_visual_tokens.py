"""Equations (1) to (6) of Visual Transformers, each against a few lines of NumPy with loops over images."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.contracts as contracts
from tfvt import layers
from tfvt.layers.tokenizers import token_grid
from tfvt.layers.visual_tokens import pixel_groups

B, H, W, C, CT, L = 2, 5, 4, 128, 32, 6


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def weights_of(layer):
    """Weights by the end of their path, without norms (the layers below are built with norm='none')."""
    return {w.path.split("/", 1)[1]: keras.ops.convert_to_numpy(w).astype("float64") for w in layer.weights}


def grouped(x, kernel):
    return np.concatenate([part @ k for part, k in zip(np.split(x, len(kernel), -1), kernel, strict=True)], -1)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).normal(size=(B, H, W, C)).astype("float32")


@pytest.fixture
def tokens():
    return np.random.default_rng(1).normal(size=(B, L, CT)).astype("float32")


def run(layer, *inputs):
    return contracts.arrays(layer(*inputs))


def test_filter_tokenizer_is_equation_1(pixels):
    layer = layers.FilterTokenizer(L, CT, norm="none", name="t")
    tokens, attention = run(layer, pixels)
    w = weights_of(layer)
    assert w["value/linear/kernel"].shape == (2, C // 2, C // 2)  # one group per 64 channels
    for b in range(B):
        x = pixels[b].reshape(H * W, C).astype("float64")
        a = softmax(x @ w["w_a"], axis=0)
        np.testing.assert_allclose(attention[b].reshape(H * W, L), a, atol=1e-5)
        expected = grouped(a.T @ grouped(x, w["value/linear/kernel"]), w["lift/linear/kernel"])
        np.testing.assert_allclose(tokens[b], expected, atol=1e-4)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("renewed", [L, 2])
def test_recurrent_tokenizer_is_equation_2(pixels, tokens, scale, renewed):
    layer = layers.RecurrentTokenizer(renewed, CT, scale_logits=scale, norm="none", name="t")
    new_tokens, attention = run(layer, pixels, tokens)
    w = weights_of(layer)
    for b in range(B):
        x = pixels[b].reshape(H * W, C).astype("float64")
        w_r = grouped(tokens[b, :renewed], w["query/linear/kernel"])
        logits = grouped(x, w["key/linear/kernel"]) @ w_r.T * (C**-0.5 if scale else 1)
        a = softmax(logits, axis=0)
        np.testing.assert_allclose(attention[b].reshape(H * W, renewed), a, atol=1e-5)
        expected = grouped(a.T @ grouped(x, w["value/linear/kernel"]), w["lift/linear/kernel"])
        np.testing.assert_allclose(new_tokens[b, :renewed], expected, atol=1e-4)
        np.testing.assert_array_equal(new_tokens[b, renewed:], tokens[b, renewed:])


@pytest.mark.parametrize(("num_heads", "scale"), [(1, True), (1, False), (4, True)])
def test_token_transformer_is_equations_3_and_4(tokens, num_heads, scale):
    layer = layers.TokenTransformer(16, 24, num_heads, scale, norm="none", name="t")
    (actual,) = run(layer, tokens)
    (weights,) = contracts.arrays(layer.attention_weights(keras.ops.convert_to_tensor(tokens)))
    w = weights_of(layer)
    for b in range(B):
        t = tokens[b].astype("float64")
        rows, columns = (grouped(t, w[f"{name}/linear/kernel"]) for name in ("query", "key"))
        heads = []
        for head in range(num_heads):
            k, v = (slice(head * n // num_heads, (head + 1) * n // num_heads) for n in (16, CT))
            logits = rows[:, k] @ columns[:, k].T * ((16 / num_heads) ** -0.5 if scale else 1)
            np.testing.assert_allclose(weights[b, head], softmax(logits, axis=1), atol=1e-5)
            heads.append(softmax(logits, axis=1) @ t[:, v])
        t = t + np.concatenate(heads, axis=-1)
        hidden = np.maximum(grouped(t, w["mlp_in/linear/kernel"]), 0)
        np.testing.assert_allclose(actual[b], t + grouped(hidden, w["mlp_out/linear/kernel"]), atol=1e-4)


@pytest.mark.parametrize(("num_heads", "scale"), [(1, True), (2, False)])
def test_projector_is_equation_5(pixels, tokens, num_heads, scale):
    out = 64
    layer = layers.Projector(out, num_heads, scale, norm="none", name="p")
    (actual,) = run(layer, pixels, tokens)
    w = weights_of(layer)
    for b in range(B):
        x, t = pixels[b].reshape(H * W, C).astype("float64"), tokens[b].astype("float64")
        query, key = grouped(x, w["query/linear/kernel"]), grouped(t, w["key/linear/kernel"])
        value = grouped(t, w["value/linear/kernel"])
        heads = []
        for head in range(num_heads):
            part = slice(head * out // num_heads, (head + 1) * out // num_heads)
            logits = query[:, part] @ key[:, part].T * ((out / num_heads) ** -0.5 if scale else 1)
            heads.append(softmax(logits, axis=1) @ value[:, part])
        expected = grouped(x, w["shortcut/linear/kernel"]) + np.concatenate(heads, axis=-1)
        np.testing.assert_allclose(actual[b].reshape(H * W, out), expected, atol=1e-4)


def test_projector_without_shortcut_and_value_where_channels_agree():
    layer = layers.Projector(CT, norm="none", name="p")
    layer(np.zeros((1, 2, 2, CT), "float32"), np.zeros((1, L, CT), "float32"))
    assert sorted(weights_of(layer)) == ["key/linear/kernel", "query/linear/kernel"]


@pytest.mark.parametrize("adjacency", [True, False])
def test_token_graph(tokens, adjacency):
    layer = layers.TokenGraph(adjacency, norm="none", name="g")
    (actual,) = run(layer, tokens)
    w = weights_of(layer)
    for b in range(B):
        mixed = w["adjacency"] @ tokens[b] if adjacency else tokens[b]
        expected = tokens[b] + np.maximum(grouped(mixed, w["mix/linear/kernel"]), 0)
        np.testing.assert_allclose(actual[b], expected, atol=1e-5)


def lloyd(pixels, centroids, iterations):
    """Listing 1 of the arXiv version for one image, by distances, with a loop over clusters."""
    pixels = pixels / np.linalg.norm(pixels, axis=-1, keepdims=True)
    centroids = centroids / np.linalg.norm(centroids, axis=-1, keepdims=True)
    for _ in range(iterations):
        nearest = np.linalg.norm(pixels[:, None] - centroids[None], axis=-1).argmin(axis=1)
        for k in range(len(centroids)):
            if (nearest == k).any():
                mean = pixels[nearest == k].mean(axis=0)
                centroids[k] = mean / np.linalg.norm(mean)
    return centroids


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), num_pixels=st.integers(1, 30), iterations=st.integers(0, 6))
def test_kmeans_is_listing_1(seed, num_pixels, iterations):
    rng = np.random.default_rng(seed)
    pixels, start = rng.normal(size=(2, num_pixels, 7)), rng.normal(size=(2, 4, 7))
    tensors = [keras.ops.convert_to_tensor(x.astype("float32")) for x in (pixels, start)]
    actual = keras.ops.convert_to_numpy(layers.kmeans(*tensors, iterations))
    for b in range(2):
        np.testing.assert_allclose(actual[b], lloyd(pixels[b], start[b].copy(), iterations), atol=1e-4)


@pytest.mark.parametrize("gradient", [True, False])
def test_kmeans_survives_empty_clusters_and_black_pixels(gradient):
    """One colour and black: at most two clusters have members; neither values nor gradients become NaN."""
    x = np.zeros((1, 4, 4, 64), "float32")
    x[0, :2, :, 0] = 3.0
    inputs = keras.Input((4, 4, 64))
    tokens, attention = layers.ClusterTokenizer(8, 32, gradient=gradient, norm="none")(inputs)
    model = keras.Model(inputs, [tokens, attention])
    tokens, attention = contracts.arrays(model(x))
    assert np.isfinite(tokens).all()
    np.testing.assert_allclose(attention.sum(axis=(1, 2)), 1, atol=1e-5)
    for value in contracts.gradients(model, x).values():
        assert np.isfinite(value).all()


def test_kmeans_in_half_precision():
    """Squares that float16 cannot hold, and a black image."""
    pixels = np.random.default_rng(0).normal(size=(2, 12, 512)) * 100
    pixels[1] = 0
    start = pixels[:, ::3].copy()
    tensors = [keras.ops.convert_to_tensor(x.astype("float16")) for x in (pixels, start)]
    actual = keras.ops.convert_to_numpy(layers.kmeans(*tensors, 3)).astype("float64")
    np.testing.assert_allclose(actual[0], lloyd(pixels[0], start[0], 3), atol=2e-3)
    assert not actual[1].any()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_clusters_of_half_precision_are_those_of_float32(policy):
    """The same pixels in both: no assignment flips, so that tokens differ by rounding alone."""
    x = np.random.default_rng(0).normal(size=(4, 14, 14, 64))
    x = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(x, policy[6:]), "float32"))
    full = layers.ClusterTokenizer(16, 64, norm="none", name="full")
    half = layers.ClusterTokenizer(16, 64, norm="none", name="half", dtype=policy)
    expected = run(full, x)
    half(x)
    half.set_weights(full.get_weights())
    for actual, values, share in zip(half(x), expected, (0.015, 0.005), strict=True):  # tokens, attention
        assert keras.backend.standardize_dtype(actual.dtype) == policy[6:]
        actual = keras.ops.convert_to_numpy(keras.ops.cast(actual, "float32"))
        np.testing.assert_allclose(actual, values, atol=share * np.abs(values).max())


def test_a_map_of_one_pixel_is_its_tokens():
    """All attention falls on it, without a warning of Keras."""
    x = np.random.default_rng(0).normal(size=(2, 1, 1, 64)).astype("float32")
    for tokenizer in (layers.FilterTokenizer(3, 64, norm="none"), layers.ClusterTokenizer(3, 64, norm="none")):
        tokens, attention = run(tokenizer, x)
        np.testing.assert_array_equal(attention, np.ones((2, 1, 1, 3)))
        expected = x[:, 0, 0] @ contracts.arrays(tokenizer.value.linear.kernel)[0][0]
        np.testing.assert_allclose(tokens, np.repeat(expected[:, None], 3, axis=1), atol=1e-5)


def test_cluster_tokenizer_is_equation_6(pixels):
    num_tokens = 8
    layer = layers.ClusterTokenizer(num_tokens, CT, iterations=3, norm="none", name="t")
    tokens, attention = run(layer, pixels)
    w = weights_of(layer)
    start = keras.ops.convert_to_numpy(keras.ops.image.resize(pixels, (2, 4), interpolation="bilinear"))
    for b in range(B):
        x = pixels[b].reshape(H * W, C).astype("float64")
        centroids = lloyd(x, start[b].reshape(num_tokens, C).astype("float64"), 3)
        a = softmax(x @ centroids.T, axis=0)
        np.testing.assert_allclose(attention[b].reshape(H * W, num_tokens), a, atol=1e-4)
        expected = grouped(a.T @ grouped(x, w["value/linear/kernel"]), w["lift/linear/kernel"])
        np.testing.assert_allclose(tokens[b], expected, atol=1e-3)


def test_only_the_gradient_option_lets_gradients_into_the_centroids():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 64)).astype("float32")

    def gradient_of_input(gradient):
        inputs = keras.Input((4, 4, 64))
        scaled = layers.GroupedDense(64, 64, name="scale")(inputs)
        _, attention = layers.ClusterTokenizer(4, 32, iterations=1, gradient=gradient, norm="none")(scaled)
        model = keras.Model(inputs, attention)
        model.get_layer("scale").set_weights([np.ones((64, 1, 1))])
        return contracts.gradients(model, x)["scale/kernel"]

    assert np.abs(gradient_of_input(True) - gradient_of_input(False)).max() > 1e-4


def test_pool_tokenizer_resizes_bilinearly():
    """A linear ramp stays a ramp: 8 rows pooled to 2 lie at rows 1.5 and 5.5 (half-pixel centres)."""
    ramp = np.broadcast_to(np.arange(8.0)[None, :, None, None], (1, 8, 8, CT)).astype("float32")
    tokens, _ = run(layers.PoolTokenizer(4, CT, norm="none"), ramp)
    np.testing.assert_allclose(tokens[0, :, 0], [1.5, 1.5, 5.5, 5.5], atol=1e-5)


@settings(max_examples=15, deadline=None)  # JAX compiles for each size
@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([1, 3, 4, 6, 8]))
def test_attention_of_the_pool_tokenizer_makes_its_tokens(height, width, num_tokens):
    x = np.random.default_rng(0).normal(size=(2, height, width, CT)).astype("float32")
    tokens, attention = run(layers.PoolTokenizer(num_tokens, CT, norm="none"), x)
    np.testing.assert_allclose(np.einsum("bhwl,bhwc->blc", attention, x), tokens, atol=1e-5)
    np.testing.assert_allclose(attention.sum(axis=(1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["filter", "cluster", "pool", "recurrent"])
def test_tokenizers_are_called_alike(kind, pixels, tokens):
    """With the tokens of the module before, and two results; only the recurrent one reads them."""
    layer = LAYERS[kind][0]()
    found, attention = run(layer, pixels, tokens)
    assert attention.shape[:3] == pixels.shape[:3]
    assert found.shape[0] == len(pixels)
    changed = run(layer, pixels, -tokens)
    assert np.allclose(changed[0], found, atol=1e-5) == (kind != "recurrent")


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_pixel_groups(channels_in, channels_out):
    groups = pixel_groups(channels_in, channels_out)
    assert channels_in % groups == channels_out % groups == 0
    if channels_out % 64 == 0 and channels_in % (channels_out // 64) == 0:
        assert groups == channels_out // 64  # the paper's, wherever it is defined


@given(st.integers(1, 200))
def test_token_grid_is_the_most_square(num_tokens):
    rows, columns = token_grid(num_tokens)
    assert rows * columns == num_tokens
    assert rows <= columns
    assert not any(num_tokens % r == 0 for r in range(rows + 1, int(num_tokens**0.5) + 1))


LAYERS = {
    "filter": (lambda **kw: layers.FilterTokenizer(L, CT, **kw), "x"),
    "cluster": (lambda **kw: layers.ClusterTokenizer(L, CT, iterations=0, **kw), "x"),
    "recurrent": (lambda **kw: layers.RecurrentTokenizer(3, CT, norm="layer", **kw), "xt"),
    "pool": (lambda **kw: layers.PoolTokenizer(L, CT, **kw), "x"),
    "transformer": (lambda **kw: layers.TokenTransformer(16, 24, norm="layer", **kw), "t"),
    "graph": (lambda **kw: layers.TokenGraph(**kw), "t"),
    "projector": (lambda **kw: layers.Projector(64, norm="none", **kw), "xt"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_contract(name, pixels, tokens):
    make_layer, inputs = LAYERS[name]
    contracts.check_layer(make_layer, *[{"x": pixels, "t": tokens}[i] for i in inputs])


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="norm='group': expected one of 'batch', 'layer', 'bias', 'none'"):
        layers.LinearNorm(4, norm="group")
    with pytest.raises(ValueError, match="num_tokens=7: only 6 tokens come in"):
        layers.RecurrentTokenizer(7, CT)(np.zeros((1, 2, 2, 64), "float32"), np.zeros((1, 6, CT), "float32"))
