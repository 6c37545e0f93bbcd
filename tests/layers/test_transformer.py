"""The encoder layer and its attention against NumPy with loops over images and heads."""

import math

import keras
import numpy as np
import pytest

import tests.contracts as contracts
from tfvt import layers

B, L, K, C, HEADS = 2, 5, 9, 12, 3


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x, gamma, beta, epsilon=1e-6):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * gamma + beta


def gelu_by_hand(x, form):
    if form == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def attend(x, context, w, prefix=""):
    """Attention of one image's tokens x (L, C) to the context (K, C)."""
    kernel, bias = w[f"{prefix}qkv_kernel"], w[f"{prefix}qkv_bias"]
    query, key, value = (
        tokens @ kernel[:, i * C : (i + 1) * C] + bias[i * C : (i + 1) * C]
        for i, tokens in enumerate((x, context, context))
    )
    width, heads = C // HEADS, []
    for h in range(HEADS):
        part = slice(h * width, (h + 1) * width)
        heads.append(softmax(query[:, part] @ key[:, part].T / math.sqrt(width)) @ value[:, part])
    return np.concatenate(heads, -1) @ w[f"{prefix}out/kernel"] + w[f"{prefix}out/bias"]


def randomize(layer, *inputs):
    """Every weight drawn, so that a bias or a scale at its start cannot hide; by the end of their paths."""
    layer(*inputs)
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(0.3, 0.5, weight.shape))
    return {w.path.split("/", 1)[1]: keras.ops.convert_to_numpy(w).astype("float64") for w in layer.trainable_weights}


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(B, L, C)).astype("float32")


@pytest.fixture
def context():
    return np.random.default_rng(1).normal(size=(B, K, C)).astype("float32")


@pytest.mark.parametrize("pooled", [False, True])
def test_attention(x, context, pooled):
    inputs = (x, context) if pooled else (x,)
    layer = layers.MultiHeadAttention(HEADS, name="a")
    w = randomize(layer, *inputs)
    (actual,) = contracts.arrays(layer(*inputs))
    for b in range(B):
        np.testing.assert_allclose(actual[b], attend(x[b], inputs[-1][b], w), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooled", [False, True])
def test_attention_weights_are_those_of_the_call(x, context, pooled):
    inputs = (x, context) if pooled else (x,)
    layer = layers.TransformerEncoderLayer(HEADS, 7, name="t")
    w = randomize(layer, *inputs)
    (weights,) = contracts.arrays(layer.attention_weights(*inputs))
    assert weights.shape == (B, HEADS, L, K if pooled else L)
    kernel, bias = w["attention/qkv_kernel"], w["attention/qkv_bias"]
    for b in range(B):
        q, kv = (
            layer_norm(t[b].astype("float64"), w["attention_norm/gamma"], w["attention_norm/beta"])
            for t in (x, inputs[-1])
        )
        query, key = q @ kernel[:, :C] + bias[:C], kv @ kernel[:, C : 2 * C] + bias[C : 2 * C]
        for h, part in enumerate(np.split(np.arange(C), HEADS)):
            expected = softmax(query[:, part] @ key[:, part].T / math.sqrt(C // HEADS))
            np.testing.assert_allclose(weights[b, h], expected, atol=1e-5)


def test_attention_to_itself_as_the_context_is_self_attention(x):
    layer = layers.MultiHeadAttention(HEADS)
    np.testing.assert_allclose(*(contracts.arrays(layer(*inputs))[0] for inputs in ((x,), (x, x))), atol=1e-5)


@pytest.mark.parametrize("form", ["erf", "tanh"])
@pytest.mark.parametrize("pooled", [False, True])
def test_encoder_layer_is_equations_2_and_3(x, context, pooled, form):
    inputs = (x, context) if pooled else (x,)
    layer = layers.TransformerEncoderLayer(HEADS, 7, gelu=form, layer_norm_epsilon=0.01, name="t")
    w = randomize(layer, *inputs)
    (actual,) = contracts.arrays(layer(*inputs))
    for b in range(B):
        q, kv = (
            layer_norm(tokens[b].astype("float64"), w["attention_norm/gamma"], w["attention_norm/beta"], 0.01)
            for tokens in (x, inputs[-1])
        )
        y = x[b] + attend(q, kv, w, "attention/")
        hidden = layer_norm(y, w["mlp_norm/gamma"], w["mlp_norm/beta"], 0.01) @ w["mlp_in/kernel"] + w["mlp_in/bias"]
        expected = y + gelu_by_hand(hidden, form) @ w["mlp_out/kernel"] + w["mlp_out/bias"]
        np.testing.assert_allclose(actual[b], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["erf", "tanh"])
def test_gelu_and_its_gradient(form):
    x = np.linspace(-6, 6, 49, dtype="float32")[:, None]
    np.testing.assert_allclose(layers.gelu(keras.ops.convert_to_tensor(x), form), gelu_by_hand(x, form), atol=1e-6)
    inputs = keras.Input((1,))
    scale = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Model(inputs, keras.layers.Lambda(lambda y: layers.gelu(y, form))(scale(inputs)))
    step = 1e-4  # d/dw gelu(w x) at w = 1 is x gelu'(x); the contract sums it with its own factors
    slope = (gelu_by_hand(x * (1.0 + step), form) - gelu_by_hand(x * (1.0 - step), form)) / (2 * step)
    factors = np.random.default_rng(1).normal(size=x.shape)
    (gradient,) = contracts.gradients(model, x).values()
    np.testing.assert_allclose(gradient[0, 0], (factors * slope).sum(), rtol=1e-3)


def test_dropouts_act_in_training_only(x):
    for option in ("dropout_rate", "attention_dropout_rate", "drop_path_rate"):
        layer = layers.TransformerEncoderLayer(HEADS, 8, **{option: 0.5})
        plain = layers.TransformerEncoderLayer(HEADS, 8)
        plain(x)
        (still,) = contracts.arrays(layer(x))
        plain.set_weights([keras.ops.convert_to_numpy(w) for w in layer.trainable_weights])
        np.testing.assert_array_equal(contracts.arrays(plain(x))[0], still)
        first, second = (contracts.arrays(layer(x, training=True))[0] for _ in range(2))
        assert np.abs(first - second).max() > 1e-3, option


def test_attention_dropout_drops_weights_and_keeps_the_mean():
    """With equal values the output is a sum of kept weights: its mean over many queries is the value."""
    tokens = np.ones((1, 400, C), "float32")
    layer = layers.MultiHeadAttention(HEADS, 0.25)
    layer(tokens)
    layer.qkv_bias.assign(np.ones(3 * C))
    layer.qkv_kernel.assign(np.zeros((C, 3 * C)))
    layer.out.kernel.assign(np.eye(C))
    (outputs,) = contracts.arrays(layer(tokens, training=True))
    assert abs(outputs.mean() - 1) < 0.01
    assert 0.01 < outputs.std() < 0.1  # sqrt(0.25 / 0.75 / 400) = 0.029


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_contract(x, context, pooled, rate):
    def make(**kwargs):  # stochastic depth so rare that it never drops both images of the batch
        return layers.TransformerEncoderLayer(HEADS, 8, "tanh", rate, rate, rate / 100, 1e-5, **kwargs)

    contracts.check_layer(make, *((x, context) if pooled else (x,)))


def test_attention_contract(x):
    contracts.check_layer(lambda **kw: layers.MultiHeadAttention(HEADS, 0.1, **kw), x)


def test_the_thirds_of_the_matrix_start_as_glorot_matrices():
    layer = layers.MultiHeadAttention(4)
    layer.build((None, 5, 256))
    kernel = keras.ops.convert_to_numpy(layer.qkv_kernel)
    assert abs(kernel.std() / math.sqrt(2 / 512) - 1) < 0.01


def test_bad_arguments_are_named(x):
    with pytest.raises(ValueError, match="num_heads=5: expected a divisor of the 12 channels"):
        layers.MultiHeadAttention(5)(x)
    with pytest.raises(ValueError, match="gelu='exact': expected one of 'erf', 'tanh'"):
        layers.TransformerEncoderLayer(3, 8, gelu="exact")
