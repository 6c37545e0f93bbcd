"""Patchwise and global attention: the authors' numbers, the definitions by hand, class tokens."""

import keras
import numpy as np
import pytest
from keras import ops

import tests.contracts as contracts
import tfvt
from tests.layers.test_acmix import golden, randomize
from tfvt.layers import ACmix, GlobalAttention, MapPositions, PVTBlock, SANAttention


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


@pytest.mark.parametrize("reduction", [1, 2])
def test_global_attention_by_hand(reduction):
    x = draw(2, 5, 4, 6)
    layer = GlobalAttention(6, 2, reduction)
    layer(x)
    randomize(layer)
    reduced = x
    if reduction > 1:
        padded = np.pad(x, [(0, 0), (0, 1), (0, 0), (0, 0)])
        (reduced,) = contracts.arrays(layer.reduce_norm(layer.reduce(padded)))
    q, kv = (
        contracts.arrays(f(y))[0].reshape(2, -1, n) for f, y, n in ((layer.query, x, 6), (layer.key_value, reduced, 12))
    )
    out, bias = contracts.arrays([layer.out.kernel, layer.out.bias])
    (actual,) = contracts.arrays(layer(x))
    for b in range(2):
        expected = attend_by_hand(q[b], kv[b, :, :6], kv[b, :, 6:], 2) @ out + bias
        np.testing.assert_allclose(actual[b].reshape(-1, 6), expected, rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_reduced_maps_are_mixed_before_they_are_repeated(size):
    """The dense layer is linear: the same as repeating keys and values to full size first."""
    x = draw(2, *size, 8)
    layer = ACmix(8, 2, "global", reduction=4, combine="convolution")
    layer(x)
    query, key, value = contracts.arrays(layer.attention_path(x))
    repeated = [m.repeat(4, axis=1).repeat(4, axis=2)[:, : size[0], : size[1]] for m in (key, value)]
    full = ACmix(8, 2, "local", combine="convolution").convolution_path
    full(query, *repeated)
    full.set_weights(layer.convolution_path.get_weights())
    np.testing.assert_allclose(*(contracts.arrays(y)[0] for y in (layer(x), full(query, *repeated))), atol=1e-5)


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
