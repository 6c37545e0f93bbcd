"""Token attention: what it is, what falls on the foreground, and the picture of it."""

import keras
import numpy as np
import pytest
from PIL import Image

import tests.contracts as contracts
import tfvt
from tfvt.analysis import draw_token_attention, foreground_attention, token_attention

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
    with pytest.raises(ValueError, match=r"foreground \(1, 7, 8\) does not match attention"):
        foreground_attention(attention, foreground[:, :7])


def test_the_picture_shows_the_attention(tmp_path):
    images = np.full((2, 16, 16, 3), 128.0)
    attention = np.zeros((2, 4, 4, 3))
    attention[0, 1, 1, 0] = 1.0
    draw_token_attention(images, attention, tmp_path / "tokens.png", titles=["one", "two"])
    pixels = np.asarray(Image.open(tmp_path / "tokens.png").convert("RGB")).astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 2] < 100)
    assert 20 < red.sum() < 0.02 * red.size  # one spot, in one of the six maps
    rows, columns = np.nonzero(red)
    assert rows.max() < pixels.shape[0] / 2
    assert columns.min() > pixels.shape[1] / 4
    assert columns.max() < pixels.shape[1] / 2


def test_rows_are_as_high_as_their_images(tmp_path):
    sizes = []
    for height in (16, 32):
        path = tmp_path / f"{height}.png"
        draw_token_attention(np.zeros((6, height, 32, 3)), np.ones((6, 2, 2, 3)), path)
        with Image.open(path) as picture:
            sizes.append(picture.size)
    (width, flat), (same_width, square) = sizes
    assert width == same_width
    assert 0.5 * square < flat < 0.6 * square
