"""Patchwise and global attention: the authors' numbers, the definitions by hand, class tokens."""

import keras
import numpy as np
import pytest
from keras import ops

import tests.contracts as contracts
import tfvt
from tests.layers.test_acmix import golden, randomize
from tfvt.layers import ACmix, GlobalAttention, MapPositions, PatchEmbedding, PVTBlock, SANAttention


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_patchwise_attention_equals_the_authors():
    parameters, x, expected = golden("san_patchwise_k7")
    layer = SANAttention(16, share=8, kernel_size=7)
    layer.build(x.shape)
    report = tfvt.load_checkpoint(layer, parameters, source="san")
    assert (report.fresh, report.unused) == ((), ())
    np.testing.assert_allclose(contracts.arrays(layer(x))[0], expected, atol=1e-5)


def attend_by_hand(q, k, v, heads):
    """One image: queries (Q, C), keys and values (K, C)."""
    width, outputs = q.shape[-1] // heads, []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights = np.exp(q[:, part] @ k[:, part].T / width**0.5)
        outputs.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part])
    return np.concatenate(outputs, axis=-1)


def reduce_by_hand(x, kernel, bias, gamma, beta, epsilon):
    """One map (H, W, C): zeros at the bottom and right to whole squares, each a pixel of its own, and a layer norm."""
    side = len(kernel)
    rows, columns = (-(-n // side) for n in x.shape[:2])
    padded = np.zeros((rows * side, columns * side, x.shape[2]))
    padded[: x.shape[0], : x.shape[1]] = x
    reduced = np.zeros((rows, columns, kernel.shape[-1]))
    for r in range(rows):
        for c in range(columns):
            square = padded[r * side : (r + 1) * side, c * side : (c + 1) * side]
            reduced[r, c] = np.tensordot(square, kernel, 3) + bias
    centred = reduced - reduced.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + epsilon) * gamma + beta


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_global_attention_by_hand(reduction):
    """At any size, above all below the reduction; built for that size, and for any."""
    layer = GlobalAttention(6, 2, reduction)
    layer.build((None, None, None, 6))
    randomize(layer)
    any_size = keras.Sequential([keras.Input((None, None, 6)), layer])
    w = {v.path.split("/", 1)[1]: contracts.arrays(v)[0].astype("float64") for v in layer.weights}
    for height, width in [(5, 4), (1, 1), (3, 9), (4, 17), (8, 8)]:
        x = draw(2, height, width, 6)
        sized = GlobalAttention(6, 2, reduction)
        sized.build(x.shape)
        sized.set_weights(layer.get_weights())
        for actual in contracts.arrays([sized(x), any_size(x)]):
            for b in range(2):
                reduced = x[b]
                if reduction > 1:
                    names = ("reduce/kernel", "reduce/bias", "reduce_norm/gamma", "reduce_norm/beta")
                    reduced = reduce_by_hand(x[b], *(w[name] for name in names), epsilon=1e-6)
                q = (x[b] @ w["query/kernel"] + w["query/bias"]).reshape(-1, 6)
                k, v = np.split((reduced @ w["key_value/kernel"] + w["key_value/bias"]).reshape(-1, 12), 2, axis=1)
                expected = attend_by_hand(q, k, v, 2) @ w["out/kernel"] + w["out/bias"]
                np.testing.assert_allclose(actual[b].reshape(-1, 6), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 2)])
def test_patches_are_padded_at_the_bottom_and_right(size):
    x = draw(2, *size, 3)
    layer = PatchEmbedding(5, 4)
    any_size = keras.Sequential([keras.Input((None, None, 3)), layer])
    randomize(layer)
    sized = PatchEmbedding(5, 4)
    sized.build(x.shape)
    sized.set_weights(layer.get_weights())
    expected = [reduce_by_hand(image, *(w.astype("float64") for w in layer.get_weights()), epsilon=1e-5) for image in x]
    for actual in contracts.arrays([sized(x), any_size(x)]):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_class_token_is_one_more_pixel():
    """Without reduction, a token beside a map is the first pixel of a row that holds all."""
    x, token = draw(2, 3, 4, 6), draw(2, 1, 6, seed=1)
    layer = GlobalAttention(6, 2)
    outputs, of_token = contracts.arrays(layer(x, token))
    row = np.concatenate([token, x.reshape(2, 12, 6)], axis=1)[:, None]
    (expected,) = contracts.arrays(layer(row))
    np.testing.assert_allclose(np.concatenate([of_token, outputs.reshape(2, 12, 6)], axis=1), expected[:, 0], atol=1e-5)


def test_acmix_leaves_the_token_out_of_the_convolution():
    x, token = draw(2, 3, 4, 8), draw(2, 1, 8, seed=1)
    layer = ACmix(8, 2, "global")
    layer(x, token)
    layer.alpha.assign(0.3), layer.beta.assign(0.9)
    outputs, of_token = contracts.arrays(layer(x, token))
    (attention, attended_token), *projections = layer.attention_path(x, token)
    (convolution,) = contracts.arrays(layer.convolution_path(*projections))
    np.testing.assert_allclose(of_token, 0.3 * contracts.arrays(attended_token)[0], atol=1e-6)
    np.testing.assert_allclose(outputs, 0.3 * contracts.arrays(attention)[0] + 0.9 * convolution, atol=1e-5)
    with pytest.raises(ValueError, match="leaves out a class token"):
        ACmix(8, 2, "global", combine="convolution")(x, token)


@pytest.mark.parametrize("num_heads", [2, 4])  # 6 pieces, folded into the convolution's kernel, and 12, which are not
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (3, 2), (1, 1)])
def test_reduced_maps_are_repeated_to_full_size(size, num_heads):
    """The dense layer is linear: its place before or after the repetition, and before the convolution, is open."""
    x = draw(2, *size, 8)
    layer = ACmix(8, num_heads, "global", reduction=4, combine="convolution")
    layer(x)
    query, key, value = contracts.arrays(layer.attention_path(x))
    repeated = [m.repeat(4, axis=1).repeat(4, axis=2)[:, : size[0], : size[1]] for m in (key, value)]
    path = layer.convolution_path
    path.set_weights([draw(*w.shape, seed=i) for i, w in enumerate(path.get_weights())])
    mixing, kernel = path.get_weights()
    pieces = np.concatenate([query, *repeated], axis=-1).reshape(2, *size, 3 * num_heads, 8 // num_heads)
    maps = np.pad(np.einsum("bhwni,np->bhwip", pieces, mixing), [(0, 0), (1, 1), (1, 1), (0, 0), (0, 0)])
    kernel = kernel.reshape(3, 3, 9, 8 // num_heads, num_heads)  # the channels of a piece are the groups
    expected = sum(
        np.einsum("bhwip,pij->bhwij", maps[:, r : r + size[0], c : c + size[1]], kernel[r, c])
        for r, c in np.ndindex(3, 3)
    ).reshape(2, *size, 8)
    np.testing.assert_allclose(contracts.arrays(layer(x))[0], expected, atol=1e-4)


@pytest.mark.parametrize("combine", ["both", "attention", "convolution"])
def test_patchwise_acmix_contract(combine):
    def make(**kwargs):
        return ACmix(16, 8, "patchwise", 3, combine=combine, **kwargs)

    contracts.check_layer(make, draw(2, 4, 5, 8), atol_half=0.1)


def test_patchwise_norms_learn_in_training():
    layer = ACmix(16, 8, "patchwise", 3)
    x = draw(4, 5, 5, 8)
    layer(x)
    norm = layer.attention_path.features_norm
    (before,) = contracts.arrays(norm.moving_mean)
    layer(x, training=True)
    assert np.abs(contracts.arrays(norm.moving_mean)[0] - before).max() > 1e-3


@pytest.mark.parametrize("mixer", ["attention", "acmix"])
@pytest.mark.parametrize("token", [False, True])
def test_pvt_block_contract(mixer, token):
    inputs = (draw(2, 4, 5, 8), draw(2, 1, 8, seed=1)) if token else (draw(2, 4, 5, 8),)
    reduction = 1 if token else 2
    contracts.check_layer(lambda **kw: PVTBlock(2, reduction, mixer=mixer, drop_path_rate=0.1, **kw), *inputs)


@pytest.mark.parametrize("token", [False, True])
def test_positions_contract(token):
    contracts.check_layer(lambda **kw: MapPositions(token, **kw), draw(2, 4, 5, 8))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others have no graphs for maps of any size")
def test_positions_in_a_graph_for_maps_of_any_size():
    import tensorflow as tf

    layer = MapPositions(grid=(4, 5))
    layer(draw(1, 4, 5, 8))
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 8))])
    for size in ((4, 5), (7, 6), (3, 9), (8, 5)):
        x = draw(2, *size, 8)
        table = tf.image.resize(layer.patch_positions.value[None], size)
        np.testing.assert_allclose(graph(x), x + table, atol=1e-5)


def test_any_size_in_one_graph():
    for layer in (SANAttention(16, 8, 3), ACmix(16, 2, "global", reduction=2)):
        model = keras.Sequential([keras.Input((None, None, 16)), layer])
        for size in ((3, 4), (6, 5)):
            x = draw(1, *size, 16)
            np.testing.assert_allclose(model.predict(x, verbose=0), contracts.arrays(layer(x))[0], atol=1e-4)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="share=8: expected a divisor of the 12 channels"):
        SANAttention(12)
    with pytest.raises(ValueError, match="filters=6: expected a multiple of 4"):
        SANAttention(6, share=2)
    with pytest.raises(ValueError, match="map of 3x9 cannot be reflected for windows of 7x7"):
        SANAttention(16)(ops.zeros((1, 3, 9, 16)))
    with pytest.raises(ValueError, match="reduction=2 is for attention='global', not 'local'"):
        ACmix(8, reduction=2)
