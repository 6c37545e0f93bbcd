"""Attention of ViT, Funnel-ViT and Swin on the image: maps, localness and rollout against NumPy with loops."""

import keras
import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tests.layers.test_acmix import randomize
from tfvt.analysis import layer_attention, localness, rollout
from tfvt.analysis.layer_maps import PatchAttention, WindowedAttention
from tfvt.layers import WindowAttention
from tfvt.models.vit import Block

WIDE = {"head_dim": 8, "patch_size": 8, "input_shape": (32, 40, 3), "num_classes": 5}  # 4 x 5 patches
GRID = (4, 5)
FUNNEL = {"blocks": (Block(1, 16, 24), Block(2, 16, 24, stride=3)), **WIDE}
SWIN = {"depths": (2, 2), "width": 16, "head_dim": 8, "window_size": 3, "input_shape": (36, 28, 3)}


def drawn(name, **options):
    """A model whose weights are all drawn, so that attention is far from uniform."""
    model = tfvt.create_model(name, **options)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(keras.ops.convert_to_numpy(weight) + rng.normal(0, 0.4, weight.shape))
    return model


def inputs_of(model, name, images):
    """What the layer `name` was called on."""
    return contracts.arrays(keras.Model(model.inputs[0], model.get_layer(name).input)(images))


def test_a_vit_attends_as_numpy_says():
    model = drawn("vit_tiny16", blocks=(Block(2, 16, 24),), **WIDE)
    images = contracts.random_images((3, 32, 40, 3))
    found = layer_attention(model, images, batch_size=2)
    assert [part.name for part in found] == ["encoder_layer1", "encoder_layer2"]
    (states,) = inputs_of(model, "encoder_layer2", images)
    layer = model.get_layer("encoder_layer2")
    gamma, beta, kernel, bias = (
        keras.ops.convert_to_numpy(w)
        for w in (*layer.attention_norm.weights, layer.attention.qkv_kernel, layer.attention.qkv_bias)
    )
    normed = (states - states.mean(-1, keepdims=True)) / np.sqrt(states.var(-1, keepdims=True) + 1e-6) * gamma + beta
    query, key = (normed @ kernel[:, part] + bias[part] for part in (slice(0, 16), slice(16, 32)))
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        logits = np.einsum("bqd,bkd->bqk", query[..., part], key[..., part]) / 8**0.5
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        np.testing.assert_allclose(found[1].weights[:, head], weights, atol=1e-4)
        np.testing.assert_allclose(found[1].maps()[:, head], weights[:, 0, 1:].reshape(3, *GRID), atol=1e-4)
        expected = weights[:, 1 + 2 * 5 + 3, 1:].reshape(3, *GRID)
        np.testing.assert_allclose(found[1].maps((2, 3))[:, head], expected, atol=1e-4)


def test_pooled_tokens_share_their_attention_among_their_patches():
    """The first layer of the second block has pooled queries: 20 patches in a row become 7 tokens of 3 or 2."""
    model = drawn("funnel_vit_base16_6_6", **FUNNEL)
    images = contracts.random_images((2, 32, 40, 3))
    first, second, third = layer_attention(model, images)
    assert [part.weights.shape[-2:] for part in (first, second, third)] == [(21, 21), (8, 21), (8, 8)]
    place, token = (3, 3), 1 + (3 * 5 + 3) // 3
    np.testing.assert_allclose(second.maps(place), second.weights[:, :, token, 1:].reshape(2, 2, *GRID), rtol=1e-6)
    for patch in range(20):
        share = third.weights[:, :, token, 1 + patch // 3] / (2 if patch // 3 == 6 else 3)
        np.testing.assert_allclose(third.maps(place).reshape(2, 2, 20)[..., patch], share, rtol=1e-6)


def localness_by_hand(weights, patches, groups):
    """Loops over queries and their neighbours; `groups` are those of queries and keys, `patches` one to a row."""
    queries, keys = groups
    rows, columns = patches
    shares = np.zeros(weights.shape[:2])
    for row, column in np.ndindex(rows, columns):
        attention = weights[:, :, 1 + queries[row * columns + column], 1:]
        for r, c in np.ndindex(rows, columns):
            if abs(r - row) <= 1 and abs(c - column) <= 1:
                key = keys[r * columns + c]
                shares += attention[..., key] / list(keys).count(key) / attention.sum(-1)
    return shares / (rows * columns)


@pytest.mark.parametrize("pool_over", ["sequence", "grid"])
def test_localness_of_patches_and_pooled_tokens(pool_over):
    options = FUNNEL | {"blocks": (Block(1, 16, 24), Block(2, 16, 24, stride=4)), "pool_over": pool_over}
    model = drawn("funnel_vit_base16_6_6", **options)
    images = contracts.random_images((3, 32, 40, 3))
    found, uniform = localness(model, images, batch_size=2)
    single = list(range(20))
    pooled = [p // 4 for p in single] if pool_over == "sequence" else [p // 5 // 2 * 3 + p % 5 // 2 for p in single]
    for part, groups in zip(
        layer_attention(model, images), ((single, single), (pooled, single), (pooled, pooled)), strict=True
    ):
        expected = localness_by_hand(part.weights, GRID, groups).mean(axis=0)
        np.testing.assert_allclose(found[part.name], expected, rtol=1e-5)
        even = localness_by_hand(np.ones_like(part.weights), GRID, groups).mean()
        np.testing.assert_allclose(uniform[int(part.name[-1]) - 1], even, rtol=1e-5)


def test_attention_to_neighbours_alone_is_all_local():
    patches = np.arange(20)
    near = np.zeros((1, 1, 21, 21))
    near[..., 1:, 1:] = np.eye(20)  # each patch to itself
    assert PatchAttention("one", near, GRID, patches, patches).localness() == 1
    near[..., 1:, 1:] = np.roll(np.eye(20), 10, axis=1)
    assert PatchAttention("far", near, GRID, patches, patches).localness() == 0


@pytest.mark.parametrize(("shape", "shift"), [((6, 9), 0), ((6, 9), 1), ((5, 8), 1), ((3, 9), 1)])
def test_windows_lie_on_the_image(shape, shift):
    """A query's map times the values, summed, is what the layer gives there: at every pixel, over all borders."""
    x = np.random.default_rng(0).normal(size=(2, *shape, 5)).astype("float32")
    layer = WindowAttention(8, 2, 3, shift)
    layer(x)
    randomize(layer)
    layer.qkv.bias.assign(np.zeros(layer.qkv.bias.shape))  # so that the values of the padding are 0
    layer.out.kernel.assign(np.eye(8))
    layer.out.bias.assign(np.zeros(8))
    weights, outputs = (contracts.arrays(value)[0] for value in (layer.attention_weights(x), layer(x)))
    arranged = [n * 3 for n in weights.shape[1:3]]
    part = WindowedAttention("one", weights, shape, layer.shift_of(*arranged))
    values = (x @ keras.ops.convert_to_numpy(layer.qkv.kernel))[..., 16:].reshape(*x.shape[:3], 2, 4)
    local, relevance = np.zeros((2, 2)), np.random.default_rng(1).uniform(size=(2, *shape))
    back = np.zeros((2, *shape))
    for row, column in np.ndindex(shape):
        maps = part.maps((row, column))
        expected = np.einsum("bhrc,brchd->bhd", maps, values).reshape(2, 8)
        np.testing.assert_allclose(outputs[:, row, column], expected, rtol=1e-3, atol=1e-4)
        near = maps[:, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].sum(axis=(2, 3))
        local += near / maps.sum(axis=(2, 3))
        back += relevance[:, row, column, None, None] * maps.mean(axis=1)
    if shape == (6, 9):  # without padding, which gets attention that lies on no pixel
        np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(part.localness(), local / np.prod(shape), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(part.back(relevance), back, rtol=1e-4, atol=1e-6)


def test_rollout_of_a_vit_is_the_product_of_its_layers():
    images = contracts.random_images((2, 32, 40, 3))
    for classify, row in (("token", 0), ("mean", slice(1, None))):
        model = drawn("vit_tiny16", blocks=(Block(3, 16, 24),), classify=classify, **WIDE)
        product = np.eye(21)
        for part in layer_attention(model, images):
            product = (part.weights.mean(axis=1) / 2 + np.eye(21) / 2) @ product
        expected = product[:, row].reshape(2, -1, 21).mean(axis=1)[:, 1:]
        expected = (expected / expected.sum(axis=1, keepdims=True)).reshape(2, *GRID)
        np.testing.assert_allclose(rollout(model, images, batch_size=1), expected, rtol=1e-4)


@pytest.mark.parametrize("pool_query_only", [True, False])
def test_rollout_goes_through_pooling(pool_query_only):
    """As products of matrices from image to head; pooling is one too, the residual of a pooled query another."""
    model = drawn("funnel_vit_base16_6_6", pool_query_only=pool_query_only, **FUNNEL)
    images = contracts.random_images((2, 32, 40, 3))
    pool = np.zeros((8, 21))
    pool[0, 0] = 1
    for patch in range(20):
        pool[1 + patch // 3, 1 + patch] = 1 / (2 if patch // 3 == 6 else 3)
    first, second, third = (part.weights.mean(axis=1) for part in layer_attention(model, images))
    product = (first + np.eye(21)) / 2
    attended = second if pool_query_only else second @ pool
    product = (third + np.eye(8)) / 2 @ ((attended + pool) / 2) @ product
    expected = product[:, 0, 1:].reshape(2, *GRID)
    expected /= expected.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(rollout(model, images), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["swin_tiny", "acmix_swin_tiny"])
def test_rollout_of_a_swin_goes_through_windows_and_merging(name):
    model = drawn(name, **SWIN)
    images = contracts.random_images((2, 36, 28, 3))
    parts = layer_attention(model, images)
    assert [(part.grid, part.shift) for part in parts] == [((9, 7), 0), ((9, 7), 1), ((5, 4), 0), ((5, 4), 1)]
    fields = np.ones((2, 1, 20)) / 20  # what the mean of the last map reads
    merge = np.zeros((20, 63))  # a pixel of the second map from those of the first
    for row, column in np.ndindex(9, 7):
        merge[row // 2 * 4 + column // 2, row * 7 + column] = 1
    merge /= merge.sum(axis=1, keepdims=True)
    for number in (3, 2, 1, 0):
        grid = parts[number].grid
        matrix = np.stack([parts[number].maps(place).mean(axis=1).reshape(2, -1) for place in np.ndindex(grid)], 1)
        fields = fields @ ((matrix + np.eye(len(matrix[0]))) / 2)
        fields = fields @ merge if number == 2 else fields
    expected = fields.reshape(2, 9, 7) / fields.sum(axis=(1, 2))[:, None, None]
    np.testing.assert_allclose(rollout(model, images, batch_size=1), expected, rtol=1e-4)


def test_a_model_without_such_attention_is_refused():
    images = np.zeros((1, 32, 32, 3))
    for name, options in (("resnet18", {"width": 8}), ("conv_swin_tiny", SWIN)):
        model = tfvt.create_model(name, **options | {"depths": (1,), "input_shape": (32, 32, 3)})
        with pytest.raises(ValueError, match=f"{name} has no attention of patches or windows"):
            rollout(model, images)
    with pytest.raises(ValueError, match=r"vit_tiny16 takes images \(B, 32, 40, 3\), not \(1, 32, 32, 3\)"):
        localness(tfvt.create_model("vit_tiny16", blocks=(Block(1, 16, 24),), **WIDE), images)
