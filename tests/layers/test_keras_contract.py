"""Keras' own test of a layer, over every layer of `tfvt.layers`: the table must name each.

Shapes and dtypes as inferred are those of a call, in float32 and mixed precision; configuration and weights
round-trip; a compiled training step of each layer's first form runs.
"""

import inspect

import keras
import numpy as np
import pytest
from keras.src import testing

from tfvt import layers

# The test trains from a generator, and layers without weights too.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning"),
]

MAP, TOKENS = (2, 6, 5, 8), (2, 5, 8)
MAP_AND_TOKEN = {"x_shape": MAP, "token_shape": (2, 1, 8)}
IN_GROUPS = (2, 4, 4, 64)  # channels that a pixel convolution of the tokenizers takes

# Layer -> (arguments, shape of its input, or a dict or list of several), one row a form with shapes of its own.
ROWS = {
    "ACmix": [
        ({"filters": 8, "num_heads": 2, "attention_kernel_size": 3, "strides": 2}, MAP),
        ({"filters": 8, "num_heads": 2, "attention": "window", "attention_kernel_size": 4, "shift_size": 2}, MAP),
        ({"filters": 16, "num_heads": 8, "attention": "patchwise", "attention_kernel_size": 3}, MAP),
        ({"filters": 8, "num_heads": 2, "attention": "global", "reduction": 4}, MAP_AND_TOKEN),
    ],
    "AdaptivePooling": [({"grid": 2}, MAP)],
    "BatchNormalization": [({}, MAP), ({}, TOKENS)],
    "ClusterTokenizer": [({"num_tokens": 4, "token_dim": 16, "gradient": True}, IN_GROUPS)],
    "ConvolutionPath": [
        ({"filters": 8, "piece_dim": 4}, {"query_shape": MAP, "key_shape": MAP, "value_shape": MAP}),
        (
            {"filters": 8, "piece_dim": 4, "reduction": 2},
            {"query_shape": MAP, "key_shape": (2, 3, 3, 8), "value_shape": (2, 3, 3, 8)},
        ),
    ],
    "DropPath": [({"rate": 0.5}, MAP)],
    "FilterTokenizer": [({"num_tokens": 4, "token_dim": 16}, IN_GROUPS)],
    "FunnelPooling": [({"grid": (2, 2), "window": (2, 1)}, TOKENS)],
    "FunnelUpsampling": [({"grid": (3, 4), "window": (2, 2)}, TOKENS)],
    "GlobalAttention": [
        ({"filters": 8, "num_heads": 2, "reduction": 4}, MAP),
        ({"filters": 8, "num_heads": 2, "returns": "both"}, MAP_AND_TOKEN),
        ({"filters": 8, "num_heads": 2, "returns": "projections"}, MAP),
    ],
    "GroupedDense": [({"units": 6, "groups": 2, "use_bias": True}, TOKENS)],
    "JoinedConvolution": [({"filters": 4}, [MAP, (2, 3, 3, 5)])],
    "LevelOutputs": [({"units": 3, "per_pixel": 2}, [MAP, (2, 3, 3, 8)])],
    "LevelProjector": [({"query_groups": 4}, {"x_shape": MAP, "tokens_shape": TOKENS})],
    "LevelTower": [
        ({"channels": 8, "tower_depth": 2}, [MAP, (2, 3, 3, 8)]),
        ({"channels": 32, "tower_depth": 1, "norm": "group"}, [MAP, (2, 3, 3, 8)]),
    ],
    "LinearNorm": [({"units": 6, "groups": 2}, TOKENS), ({"units": 6, "norm": "layer"}, TOKENS)],
    "LocalAttention": [
        ({"filters": 8, "num_heads": 2, "kernel_size": 3, "strides": 2}, MAP),
        ({"filters": 8, "num_heads": 2, "kernel_size": 3, "returns": "both"}, MAP),
    ],
    "MapPositions": [({}, MAP), ({"class_token": True}, MAP), ({"grid": (3, 4)}, MAP)],
    "MultiHeadAttention": [
        ({"num_heads": 2, "dropout_rate": 0.1}, TOKENS),
        ({"num_heads": 2}, {"x_shape": TOKENS, "context_shape": (2, 7, 8)}),
    ],
    "PVTBlock": [
        ({"num_heads": 2, "reduction": 4}, MAP),
        ({"num_heads": 2, "mixer": "acmix", "drop_path_rate": 0.1}, MAP_AND_TOKEN),
    ],
    "PatchEmbedding": [({"filters": 8, "patch_size": 4}, MAP)],
    "PatchMerging": [({}, MAP)],
    "PoolTokenizer": [({"num_tokens": 4, "token_dim": 16}, MAP)],
    "Projector": [({"output_channels": 16}, {"x_shape": MAP, "tokens_shape": TOKENS})],
    "RecurrentTokenizer": [
        ({"num_tokens": 4, "token_dim": 16}, {"x_shape": IN_GROUPS, "tokens_shape": (2, 6, 16)}),
    ],
    "SANAttention": [
        ({"filters": 8, "share": 4, "kernel_size": 3}, MAP),
        ({"filters": 8, "share": 4, "kernel_size": 3, "returns": "both"}, MAP),
    ],
    "SwinBlock": [
        ({"num_heads": 2, "window_size": 4, "shift_size": 2}, MAP),
        ({"num_heads": 2, "window_size": 4, "mixer": "acmix", "dropout_rate": 0.1}, MAP),
        ({"num_heads": 2, "mixer": "convolution"}, MAP),
    ],
    "TokenEmbedding": [({}, MAP)],
    "TokenGraph": [({"drop_path_rate": 0.1}, TOKENS)],
    "TokenTransformer": [({"key_dim": 8, "mlp_dim": 6, "norm": "layer"}, TOKENS)],
    "TransformerEncoderLayer": [
        ({"num_heads": 2, "mlp_dim": 6, "dropout_rate": 0.1}, TOKENS),
        ({"num_heads": 2, "mlp_dim": 6}, {"x_shape": TOKENS, "context_shape": (2, 7, 8)}),
    ],
    "Upsample": [({"factor": 3}, MAP), ({"interpolation": "nearest"}, MAP)],
    "WindowAttention": [
        ({"filters": 8, "num_heads": 2, "window_size": 4, "shift_size": 2}, MAP),
        ({"filters": 8, "num_heads": 2, "window_size": 4, "returns": "both"}, MAP),
    ],
}


def test_every_layer_has_a_row():
    classes = {n for n in layers.__all__ if inspect.isclass(getattr(layers, n))} - {"Tokenizer"}  # a base class
    assert {n for n in classes if issubclass(getattr(layers, n), keras.layers.Layer)} == set(ROWS)


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, rows in ROWS.items() for form in range(len(rows))])
def test_keras_contract(name, form):
    layer_class, (arguments, shape) = getattr(layers, name), ROWS[name][form]
    several, trained = isinstance(shape, dict | list), form == 0
    # Its training step hands all inputs over as one, which only a layer with one input takes.
    testing.TestCase().run_layer_test(
        layer_class, arguments, input_shape=shape, run_training_check=trained and not several
    )
    if trained and several:
        train(layer_class(**arguments), shape)


def train(layer, shapes):
    """One compiled training step of a layer with several inputs changes its weights."""
    listed = isinstance(shapes, list)
    shapes = {f"map{n}": shape for n, shape in enumerate(shapes)} if listed else shapes
    shapes = {key.removesuffix("_shape"): shape for key, shape in shapes.items()}
    inputs = {key: keras.Input(shape[1:], name=key) for key, shape in shapes.items()}
    outputs = layer(list(inputs.values())) if listed else layer(**inputs)
    model = keras.Model(inputs, [keras.layers.Flatten()(output) for output in keras.tree.flatten(outputs)])
    model.compile("sgd", "mse")
    before = layer.get_weights()
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(size=shape).astype("float32") for key, shape in shapes.items()}
    model.fit(arrays, [np.ones((2, output.shape[1])) for output in model.outputs], verbose=0)
    assert any((old != new).any() for old, new in zip(before, layer.get_weights(), strict=True))
