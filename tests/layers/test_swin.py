"""Window attention and the Swin block: the authors' numbers, windows by hand, any size."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import tests.contracts as contracts
import tfvt
from tests.layers.test_acmix import golden, randomize
from tfvt.layers import ACmix, PatchEmbedding, PatchMerging, SwinBlock, WindowAttention


@pytest.mark.parametrize("shift", [0, 3])
def test_acmix_block_equals_the_authors(shift):
    parameters, x, expected = golden(f"acmix_swin_block_shift{shift}")
    block = SwinBlock(3, window_size=7, shift_size=shift, mixer="acmix")
    block.build(x.shape)
    report = tfvt.load_checkpoint(block, parameters, source="swin")
    assert (report.fresh, report.unused) == ((), ())
    np.testing.assert_allclose(contracts.arrays(block(x))[0], expected, atol=1e-5)


def attention_by_hand(layer, x, heads, size, shift):
    """Pixel by pixel: the keys of a pixel are those of its window that were its neighbours before the shift too."""
    height, width = (-(-n // size) * size for n in x.shape[1:3])
    if min(height, width) <= size:
        shift = 0
    padded = np.zeros((x.shape[0], height, width, x.shape[3]))
    padded[:, : x.shape[1], : x.shape[2]] = x
    kernel, bias, table, out, out_bias = (
        ops.convert_to_numpy(w)
        for w in (layer.qkv.kernel, layer.qkv.bias, layer.bias_table, layer.out.kernel, layer.out.bias)
    )
    q, k, v = np.split(padded @ kernel + bias, 3, axis=-1)
    head_dim, outputs = q.shape[-1] // heads, np.zeros_like(q)

    def window(i, j):
        """The window of a pixel after the shift, and whether the pixel came round the border."""
        i, j = (i - shift) % height, (j - shift) % width
        return i // size, j // size, i >= height - shift, j >= width - shift

    pixels = list(np.ndindex(height, width))
    for i, j in pixels:
        group = [p for p in pixels if window(*p) == window(i, j)]
        index = [(i - r + size - 1) * (2 * size - 1) + j - c + size - 1 for r, c in group]
        rows, columns = (np.array(axis) for axis in zip(*group, strict=True))
        for h in range(heads):
            part = slice(h * head_dim, (h + 1) * head_dim)
            logits = np.einsum("bkd,bd->bk", k[:, rows, columns, part], q[:, i, j, part]) / head_dim**0.5
            weights = np.exp(logits + table[index, h])
            weights /= weights.sum(axis=1, keepdims=True)
            outputs[:, i, j, part] = np.einsum("bk,bkd->bd", weights, v[:, rows, columns, part])
    return (outputs @ out + out_bias)[:, : x.shape[1], : x.shape[2]]


@pytest.mark.parametrize(("shape", "size", "shift"), [((6, 9), 3, 1), ((8, 7), 3, 1), ((4, 8), 4, 2), ((5, 9), 4, 2)])
def test_window_attention_by_hand(shape, size, shift):
    x = np.random.default_rng(0).normal(size=(2, *shape, 5)).astype("float32")
    layer = WindowAttention(8, 2, size, shift)
    layer(x)
    randomize(layer)
    expected = attention_by_hand(layer, x, 2, size, shift)
    np.testing.assert_allclose(contracts.arrays(layer(x))[0], expected, rtol=1e-3, atol=1e-3)


def test_a_map_of_one_window_is_not_shifted():
    x = np.random.default_rng(0).normal(size=(2, 4, 9, 8)).astype("float32")
    shifted, still = WindowAttention(8, 2, 4, 2), WindowAttention(8, 2, 4, 0)
    shifted(x), still(x)
    still.set_weights(shifted.get_weights())
    np.testing.assert_array_equal(*(contracts.arrays(layer(x))[0] for layer in (shifted, still)))


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), mixer=st.sampled_from(["attention", "acmix"]))
def test_any_size_in_one_graph(height, width, mixer):
    inputs = keras.Input((None, None, 8))
    block = SwinBlock(2, 4, 2, mixer=mixer)
    model = keras.Model(inputs, block(inputs))
    x = np.random.default_rng(0).normal(size=(1, height, width, 8)).astype("float32")
    (actual,) = contracts.arrays(model(x))
    assert actual.shape == x.shape
    np.testing.assert_allclose(actual, contracts.arrays(block(x))[0], atol=1e-5)


def test_sizes_unknown_until_the_graph_runs():
    inputs = keras.Input((None, None, 8))
    block = SwinBlock(2, 4, 2, mixer="acmix")
    model = keras.Model(inputs, block(inputs))
    for size in ((3, 4), (9, 10)):
        x = np.random.default_rng(0).normal(size=(1, *size, 8)).astype("float32")
        np.testing.assert_allclose(model.predict(x, verbose=0), contracts.arrays(block(x))[0], atol=1e-5)


def test_convolution_reads_the_shifted_map():
    """ACmix in a window block: zeros are beyond the border of the shifted map, not of the map."""
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype("float32")
    layer = ACmix(4, 2, "window", 4, shift_size=2, combine="convolution")
    layer(x)
    randomize(layer)
    rolled = np.roll(x, (-2, -2), axis=(1, 2))
    projections = np.split(contracts.arrays(layer.attention_path.qkv(rolled))[0], 3, axis=-1)
    (expected,) = contracts.arrays(layer.convolution_path(*projections))
    np.testing.assert_allclose(contracts.arrays(layer(x))[0], np.roll(expected, (2, 2), axis=(1, 2)), atol=1e-5)


def test_patch_merging_order():
    """Left column from top to bottom, then the right one; beyond an odd map is zero."""
    x = np.arange(2 * 3 * 3, dtype="float32").reshape(2, 3, 3, 1)
    layer = PatchMerging()
    layer(x)
    randomize(layer)
    padded = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
    corners = [padded[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    expected = layer.reduction(layer.norm(np.concatenate(corners, axis=-1)))
    np.testing.assert_allclose(*(contracts.arrays(y)[0] for y in (layer(x), expected)), atol=1e-6)


@pytest.mark.parametrize("options", [
    {}, {"shift_size": 2}, {"mixer": "acmix", "shift_size": 2}, {"mixer": "convolution", "drop_path_rate": 0.5},
], ids=str)  # fmt: skip
def test_block_contract(options):
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 8)).astype("float32")
    contracts.check_layer(lambda **kw: SwinBlock(2, 4, **options, **kw), x)


@pytest.mark.parametrize("layer", [PatchMerging, lambda **kw: PatchEmbedding(6, 4, **kw)], ids=["merging", "embedding"])
def test_patch_contract(layer):
    x = np.random.default_rng(0).normal(size=(2, 9, 6, 4)).astype("float32")
    contracts.check_layer(layer, x)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="shift_size=7: expected 0 <= shift_size < window_size=7"):
        WindowAttention(8, 2, 7, 7)
    with pytest.raises(ValueError, match="mixer='mlp': expected one of 'attention', 'acmix', 'convolution'"):
        SwinBlock(2, mixer="mlp")
    with pytest.raises(ValueError, match="strides=2 is for attention='local', not 'window'"):
        ACmix(8, attention="window", strides=2)
    with pytest.raises(ValueError, match="shift_size=3 is for attention='window', not 'local'"):
        ACmix(8, shift_size=3)
