"""Token attention: what it is, what falls on the foreground, and the picture of it."""

import keras
import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tfvt.analysis import (
    attention_entropy,
    foreground_attention,
    foreground_sums,
    token_attention,
    token_maps,
    uniform_entropy,
)
from tfvt.analysis.intermediate import cell_index, cell_shares

TINY = {"width": 16, "depths": (1, 1, 1), "output_channels": 128, "token_dim": 96, "input_shape": (64, 96, 3)}


def test_attention_of_every_tokenizer():
    model = tfvt.create_model("vt_resnet34", num_tokens=6, renewed_tokens=4, **TINY)
    images = contracts.random_images((5, 64, 96, 3))
    attention = token_attention(model, images, batch_size=2)
    assert {name: a.shape for name, a in attention.items()} == {
        "vt1_tokenizer": (5, 4, 6, 6),
        "vt2_tokenizer": (5, 4, 6, 4),
        "vt3_tokenizer": (5, 4, 6, 4),
    }
    for maps in attention.values():
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, atol=1e-5)
    whole = token_attention(model, images, batch_size=5)
    np.testing.assert_allclose(whole["vt3_tokenizer"], attention["vt3_tokenizer"], atol=1e-5)


def test_attention_of_every_level_of_a_vt_fpn():
    options = {"backbone": "resnet18", "backbone_options": {"width": 8, "depths": (1, 1, 1, 1)}, "token_dim": 32}
    model = tfvt.create_model("vt_fpn_resnet50", input_shape=(None, None, 3), pyramid_channels=16, **options)
    attention = token_attention(model, contracts.random_images((3, 64, 96, 3)), batch_size=2)
    assert {name: maps.shape for name, maps in attention.items()} == {
        f"neck_p{level}_tokenizer": (3, 64 // 2**level, 96 // 2**level, 8) for level in (2, 3, 4, 5)
    }
    for maps in attention.values():
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, atol=1e-5)


def test_attention_is_the_soft_max_of_the_filter():
    model = tfvt.create_model("vt_resnet18", num_tokens=6, **TINY)
    images = contracts.random_images((2, 64, 96, 3))
    tokenizer = model.get_layer("vt1_tokenizer")
    maps = keras.ops.convert_to_numpy(keras.Model(model.input, tokenizer.input)(images))
    logits = maps.reshape(2, 24, -1) @ keras.ops.convert_to_numpy(tokenizer.w_a)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    actual = token_attention(model, images)["vt1_tokenizer"].reshape(2, 24, 6)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def mixing_by_hand(model, relation, images):
    """W of the token transformer from the tokens that come into it: linears in two groups, without norms."""
    layer = model.get_layer(relation)
    tokens = contracts.arrays(keras.Model(model.inputs[0], layer.input)(images))[0]
    groups = np.split(tokens, 2, axis=-1)
    query, key = (
        np.concatenate([group @ k for group, k in zip(groups, kernel, strict=True)], axis=-1)
        for kernel in (keras.ops.convert_to_numpy(linear.linear.kernel) for linear in (layer.query, layer.key))
    )
    return softmax(query @ key.swapaxes(1, 2) / query.shape[-1] ** 0.5)


def test_attention_as_the_token_transformer_mixes_it():
    model = tfvt.create_model("vt_resnet34", num_tokens=6, renewed_tokens=4, token_norm="none", num_relations=2, **TINY)
    images = contracts.random_images((3, 64, 96, 3))
    maps = token_maps(model, images, batch_size=2)
    for module in (1, 2):
        weights = mixing_by_hand(model, f"vt{module}_relation", images)
        attention = maps[f"vt{module}_tokenizer"].attention
        expected = np.zeros((3, 4, 6, 6))[..., : attention.shape[-1] if module > 1 else 6]
        for token in range(expected.shape[-1]):
            for other in range(attention.shape[-1]):
                expected[..., token] += weights[:, token, other, None, None] * attention[..., other]
        np.testing.assert_allclose(maps[f"vt{module}_tokenizer"].mixed[..., : expected.shape[-1]], expected, atol=1e-5)
    assert maps["vt2_tokenizer"].mixed.shape == (3, 4, 6, 6)  # all six tokens, of which four look at pixels
    assert maps["vt3_tokenizer"].mixed is None


def test_attention_mixed_over_levels_lies_on_the_finest():
    """An odd size: the maps are 17x23, 9x12, 5x6 and 3x3."""
    options = {"backbone": "resnet18", "backbone_options": {"width": 8, "depths": (1, 1, 1, 1)}, "token_dim": 32}
    options |= {"token_norm": "none", "num_tokens": 3, "pyramid_channels": 16, "input_shape": (None, None, 3)}
    model = tfvt.create_model("vt_fpn_resnet50", **options)
    images = contracts.random_images((2, 66, 90, 3))
    maps = token_maps(model, images)
    weights = mixing_by_hand(model, "neck_relation", images)
    fine = []
    for number, (rows, columns) in enumerate(((17, 23), (9, 12), (5, 6), (3, 3))):
        attention = maps[f"neck_p{number + 2}_tokenizer"].attention
        assert attention.shape == (2, rows, columns, 3)
        placed = np.zeros((2, 17, 23, 3))
        for r, c in np.ndindex(17, 23):
            cell = (r >> number, c >> number)
            pixels = sum((a >> number, b >> number) == cell for a, b in np.ndindex(17, 23))
            placed[:, r, c] = attention[:, *cell] / pixels
        fine.append(placed)
    expected = np.einsum("bhwk,blk->bhwl", np.concatenate(fine, axis=-1), weights)
    actual = np.concatenate([part.mixed for part in maps.values()], axis=-1)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_allclose(actual.sum(axis=(1, 2)), 1, atol=1e-5)


def test_entropy_in_nats():
    attention = np.zeros((1, 4, 8, 3))
    attention[0, 1, 2, 0] = 1  # one pixel
    attention[..., 1] = 1 / 32  # all alike
    attention[0, 0, :2, 2] = 0.25, 0.75
    expected = [0, np.log(32), -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))]
    np.testing.assert_allclose(attention_entropy(attention), [expected], atol=1e-12)
    np.testing.assert_allclose(attention_entropy(attention.astype("float32") / 2), [expected], atol=1e-6)


def test_the_papers_uniform_entropy_is_the_natural_logarithm_of_all_pixels():
    assert round(uniform_entropy(473, 473), 3) == 12.318


def test_attention_of_a_foreground_pixel_against_a_background_pixel():
    """Two images, masks of another size than the image, a quarter void."""
    rng = np.random.default_rng(0)
    attention = rng.uniform(size=(2, 3, 5, 4))
    attention /= attention.sum(axis=(1, 2), keepdims=True)
    labels = rng.choice([0, 1, 2, 255], size=(2, 6, 10))  # each cell has four pixels of the mask
    foreground, background = (labels == 1) | (labels == 2), labels == 0
    sums = foreground_sums(attention[:1], foreground[:1], background[:1], size=(48, 80))
    sums += foreground_sums(attention[1:], foreground[1:], background[1:], size=(48, 80))
    on, off, area, other = np.zeros(4), np.zeros(4), 0, 0
    for image, row, column in np.ndindex(2, 6, 10):
        pixel = attention[image, row // 2, column // 2] / 4
        on += pixel * foreground[image, row, column]
        off += pixel * background[image, row, column]
        area += foreground[image, row, column]
        other += background[image, row, column]
    np.testing.assert_allclose(sums.ratio, (on / area) / (off / other))
    np.testing.assert_allclose(sums.mean_ratio, (on.sum() / area) / (off.sum() / other))
    assert sums.images == 2
    np.testing.assert_allclose(foreground_sums(np.full((1, 3, 5, 2), 1 / 15), foreground[:1], background[:1]).ratio, 1)


def test_without_a_foreground_there_is_no_ratio():
    sums = foreground_sums(np.full((1, 2, 2, 3), 0.25), np.zeros((1, 4, 4)), np.ones((1, 4, 4)))
    assert np.isnan(sums.ratio).all()
    assert np.isnan(sums.mean_ratio)


@pytest.mark.parametrize(
    ("pixels", "cells", "stride"), [(473, 119, 4), (473, 15, 32), (64, 4, 16), (5, 1, 8), (30, 10, 3)]
)
def test_cells_of_a_side(pixels, cells, stride):
    index = [min(p // stride, cells - 1) for p in range(pixels)]
    np.testing.assert_array_equal(cell_index(pixels, cells), index)
    shares = cell_shares(np.eye(pixels)[None], (cells, pixels))  # of each row of pixels, the column of its number
    np.testing.assert_allclose(shares[0], np.eye(cells)[index].T / np.bincount(index)[:, None], atol=1e-12)


def test_a_model_without_attention_is_refused():
    with pytest.raises(ValueError, match="resnet18 has no tokenizer"):
        token_attention(tfvt.create_model("resnet18", input_shape=(64, 64, 3), width=8), np.zeros((1, 64, 64, 3)))


def test_share_on_the_foreground():
    foreground = np.zeros((1, 8, 8))
    foreground[0, :4, :2] = 1  # half of the upper left quarter of a 2x2 map
    attention = np.zeros((1, 2, 2, 3))
    attention[0, 0, 0, 0] = 1  # looks at that quarter alone
    attention[0, 1, 1, 1] = 1  # looks at another
    attention[0, :, :, 2] = 0.25  # looks everywhere
    np.testing.assert_allclose(foreground_attention(attention, foreground), [[0.5, 0, foreground.mean()]])
    with pytest.raises(ValueError, match=r"foreground \(0, 8, 8\) does not match attention"):
        foreground_attention(attention, foreground[:0])
