"""Class token and position embeddings."""

import keras
import numpy as np

import tests.contracts as contracts
from tfvt.layers import TokenEmbedding


def test_tokens_are_the_class_token_and_the_patches_row_by_row_with_their_positions():
    patches = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layer = TokenEmbedding()
    layer.build(patches.shape)
    layer.class_token.assign(np.full((1, 1, 5), 2.0))
    (actual,) = contracts.arrays(layer(patches))
    class_position, positions = (keras.ops.convert_to_numpy(w) for w in (layer.class_position, layer.patch_positions))
    assert positions.shape == (3, 4, 5)
    assert 0.01 < positions.std() < 0.03
    for b in range(2):
        np.testing.assert_allclose(actual[b, 0], 2 + class_position[0, 0], atol=1e-6)
        for row in range(3):
            for column in range(4):
                expected = patches[b, row, column] + positions[row, column]
                np.testing.assert_allclose(actual[b, 1 + 4 * row + column], expected, atol=1e-6)


def test_contract():
    contracts.check_layer(lambda **kw: TokenEmbedding(**kw), np.ones((2, 3, 4, 5), "float32"))
