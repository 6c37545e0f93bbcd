"""ViT and Funnel-ViT: counts, options, weights in common, levels and errors."""

import gc

import keras
import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from benchmarks.counting import profile_of
from tfvt.models.vit import Block

# Parameters and MACs at 224x224 with 1000 classes: plain arithmetic over the layouts, and the papers' own numbers.
COUNTS = [
    ("vit_tiny16", 5_717_416, 1_253_683_200),
    ("vit_small16", 22_050_664, 4_598_882_304),
    ("vit_base16", 86_567_656, 17_563_828_224),
    ("vit_large16", 304_326_632, 61_554_712_576),
    ("vit_base32", 88_224_232, 4_409_186_304),
    ("funnel_vit_base16_6_6", 86_567_656, 13_265_200_128),
    ("funnel_vit_base16_4_4_4", 86_567_656, 10_418_264_064),
    ("funnel_vit_base16_6_6_stride4", 86_567_656, 11_171_205_120),
    ("funnel_vit_base16_6_6_4", 114_919_144, 14_757_703_680),
    ("funnel_vit_base16_6_6_h1024", 127_993_832, 19_600_584_704),
    ("funnel_vit_base16_6_6_m4096", 105_454_312, 16_058_606_592),
    ("funnel_vit_base16_6_6_4_m1536", 105_475_816, 14_285_844_480),
    ("funnel_vit_base16_6_6_2_m1536", 96_021_736, 13_806_305_280),
    ("funnel_vit_base16_m4096_6_6_2_m1536", 105_465_064, 15_665_430_528),
]
# Two blocks of another width, three poolings: what the named layouts do not have.
TINY = {"blocks": [{"layers": 1, "hidden_dim": 16, "mlp_dim": 24}, Block(2, 32, 48, stride=2)], "head_dim": 8}
EQUAL = {"blocks": (Block(1, 16, 24), Block(1, 16, 24, 2), Block(1, 16, 24, 2)), "head_dim": 8}
PLAIN = {"blocks": (Block(3, 16, 24),), "head_dim": 8}
OPTIONS = [
    {},
    {"pooling": "max"},
    {"pool_query_only": False},
    {"pool_over": "grid"},
    {"classify": "mean", "representation_dim": 12},
    {"gelu": "tanh", "patch_size": 32},
    {"blocks": (Block(1, 16, 24), Block(1, 16, 24), Block(1, 16, 24, stride=3)), "pooling": "max"},
    {"blocks": (Block(1, 16, 24), Block(1, 16, 24, stride=4)), "pool_over": "grid"},
    {"dropout_rate": 0.1, "attention_dropout_rate": 0.1, "drop_path_rate": 0.1},
]


def create(**options):
    return tfvt.create_model("funnel_vit_base16_6_6", **{"num_classes": 5, "input_shape": (64, 48, 3)} | options)


def run(model, images):
    return contracts.arrays(model(images))[0]


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [pytest.param(*row, marks=pytest.mark.slow if row[0] == "vit_large16" else []) for row in COUNTS],
)
def test_counts(name, params, macs):
    profile = profile_of(name)
    assert (profile.params, profile.macs) == (params, macs)


@pytest.mark.parametrize(("name", "macs"), [("vit_base16", "55.48"), ("funnel_vit_base16_6_6", "41.42")])
def test_macs_at_384(name, macs):
    assert f"{tfvt.profile(name, input_shape=(384, 384, 3)).macs / 1e9:.2f}" == macs


def test_pooled_keys_and_values_cost_less():
    """Two thirds of the projection and the products of one layer see pooled tokens in place of all."""
    full, pooled = (tfvt.profile(create(pool_query_only=q, **EQUAL)) for q in (True, False))
    difference = sum(2 * 16 * 16 * (k - q) + 2 * 16 * q * (k - q) for k, q in ((13, 7), (7, 4)))
    assert full.macs - pooled.macs == difference
    assert full.params == pooled.params


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options):
    contracts.check_model("funnel_vit_base16_6_6", **TINY | options)


def test_equal_widths_share_every_weight():
    plain, funnel = create(**PLAIN), create(**EQUAL)
    assert {w.path: w.shape for w in plain.weights} == {w.path: w.shape for w in funnel.weights}


def test_the_named_layouts_share_the_weights_of_vit_base16():
    names = ("vit_base16", "funnel_vit_base16_6_6", "funnel_vit_base16_4_4_4", "funnel_vit_base16_6_6_stride4")
    shapes = []
    for name in names:
        shapes.append({w.path: tuple(w.shape) for w in tfvt.create_model(name).weights})
        gc.collect()  # a model is a cycle of 0.3 GB
    assert all(other == shapes[0] for other in shapes[1:])


def test_a_funnel_of_stride_1_is_the_vit():
    images = contracts.random_images((2, 64, 48, 3))
    plain = create(**PLAIN)
    other = create(**EQUAL | {"blocks": (Block(1, 16, 24), Block(2, 16, 24))})
    other.set_weights(plain.get_weights())
    np.testing.assert_array_equal(run(other, images), run(plain, images))


def test_every_pooling_option_changes_the_output():
    images = contracts.random_images((2, 64, 48, 3))
    variants = [{}, {"pooling": "max"}, {"pool_query_only": False}, {"pool_over": "grid"}, {"classify": "mean"}]
    models = [create(**PLAIN), *(create(**EQUAL | options) for options in variants)]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    outputs = [run(model, images) for model in models]
    for first in range(len(outputs)):
        for second in range(first):
            assert np.abs(outputs[first] - outputs[second]).max() > 1e-4, (first, second)


def test_the_funnel_by_its_parts():
    """Pooled queries over un-pooled keys and values, between layers called one by one."""
    images = contracts.random_images((2, 64, 48, 3))
    model = create(**EQUAL)
    parts = {layer.name: layer for layer in model.layers}
    x = parts["embedding"](parts["patch_embedding"](parts["normalize"](images)))
    x = parts["encoder_layer1"](x)
    for number in (2, 3):
        tokens = keras.ops.convert_to_numpy(x)
        pairs = [tokens[:, i : i + 2].mean(1) for i in range(1, tokens.shape[1], 2)]
        pooled = np.concatenate([tokens[:, :1], np.stack(pairs, 1)], 1)
        x = parts[f"encoder_layer{number}"](pooled, x)
    assert x.shape[1] == 1 + 3
    (logits,) = contracts.arrays(parts["head"](parts["encoder_norm"](x)[:, 0]))
    np.testing.assert_allclose(run(model, images), logits, atol=1e-5)


def test_grid_pooling_takes_rows_then_columns():
    layers = {layer.name: layer for layer in create(pool_over="grid", **EQUAL).layers}
    assert (layers["block2_pooling"].grid, layers["block2_pooling"].window) == ((4, 3), (2, 1))
    assert (layers["block3_pooling"].grid, layers["block3_pooling"].window) == ((2, 3), (1, 2))
    lengths = [
        tfvt.profile(create(pool_over=over, input_shape=(224, 224, 3), **EQUAL)).macs for over in ("grid", "sequence")
    ]
    assert lengths[0] == lengths[1]  # 197, 99 and 50 tokens either way


def test_levels():
    contracts.check_features("vit_tiny16", {"P4": 16}, blocks=PLAIN["blocks"], head_dim=8)
    for pool_over in ("sequence", "grid"):
        contracts.check_features("funnel_vit_base16_6_6", {"P4": 16}, pool_over=pool_over, **EQUAL)
    maps = create(features=("P5",), patch_size=32, input_shape=(64, 32, 3), **EQUAL).output
    assert maps["P5"].shape == (None, 2, 1, 16)


def test_the_level_of_a_vit_is_its_normed_patch_tokens():
    images = contracts.random_images((2, 64, 48, 3))
    model = create(**PLAIN | {"classify": "mean", "include_top": False})
    pyramid = create(features=("P4",), **PLAIN)
    pyramid.set_weights(model.get_weights())
    np.testing.assert_allclose(run(pyramid, images).mean((1, 2)), run(model, images), atol=1e-5)


def test_the_level_of_a_funnel_is_its_full_length_decoder():
    images = contracts.random_images((2, 64, 48, 3))
    model = create(features=("P4",), **EQUAL)
    inner = {name: model.get_layer(name).output for name in ("encoder_layer1", "encoder_layer3")}
    states = keras.Model(model.input, inner)(images)
    first, last = (keras.ops.convert_to_numpy(states[name]) for name in inner)
    assert (first.shape[1], last.shape[1]) == (13, 4)
    full = first[:, 1:] + np.repeat(last[:, 1:], 4, axis=1)
    expected = keras.ops.convert_to_numpy(model.get_layer("encoder_norm")(full)).reshape(2, 4, 3, 16)
    np.testing.assert_allclose(run(model, images), expected, atol=1e-4)
    contracts.check_gradients(model, images)


@pytest.mark.parametrize("size", [(16, 16), (80, 48), (112, 48)])
def test_any_grid(size):
    """Odd lengths, non-square grids, and a single patch."""
    for pool_over in ("sequence", "grid"):
        model = create(input_shape=(*size, 3), pool_over=pool_over, **TINY)
        logits = run(model, contracts.random_images((2, *size, 3)))
        assert logits.shape == (2, 5)
        assert np.isfinite(logits).all()


def test_stochastic_depth_rises_over_all_layers():
    model = create(drop_path_rate=0.2, **EQUAL)
    rates = [layer.drop_path_rate for layer in model.layers if layer.name.startswith("encoder_layer")]
    assert rates == pytest.approx([0, 0.1, 0.2])
    images = contracts.random_images((8, 64, 48, 3))
    first, second = (contracts.arrays(model(images, training=True))[0] for _ in range(2))
    assert np.abs(first - second).max() > 1e-4


BAD = [
    ("vit_base17", {}, r"unknown model 'vit_base17'.*did you mean.*vit_base16"),
    ("vit_tiny16", {"pool": "max"}, r"no option 'pool': did you mean pooling"),
    ("vit_tiny16", {"features": ("P3",)}, r"features='P3': expected one of 'P4'"),
    ("vit_tiny16", {"features": ("P4",), "patch_size": 24}, r"patch_size=24: features are named by strides"),
    ("vit_tiny16", {"input_shape": (None, None, 3)}, r"position embeddings for one height and width"),
    ("vit_tiny16", {"input_shape": (15, 64, 3)}, r"height 15 is below 16"),
    ("vit_tiny16", {"input_shape": (230, 224, 3)}, r"16x16 do not divide the height 230: take 224 or 240"),
    ("vit_base32", {"input_shape": (224, 200, 3)}, r"32x32 do not divide the width 200: take 192 or 224"),
    ("funnel_vit_base16_6_6", {"input_shape": (64, 65, 3)}, r"do not divide the width 65: take 64 or 80"),
    ("vit_tiny16", {"gelu": "exact"}, r"gelu='exact': expected one of 'erf', 'tanh'"),
    ("vit_tiny16", {"pooling": "min"}, r"pooling='min': expected one of 'mean', 'max'"),
    ("vit_tiny16", {"pool_over": "map"}, r"pool_over='map': expected one of 'sequence', 'grid'"),
    ("vit_tiny16", {"classify": "cls"}, r"classify='cls': expected one of 'token', 'mean'"),
    ("vit_tiny16", {"representation_dim": 0}, r"representation_dim=0: expected an integer of at least 1"),
    ("vit_tiny16", {"head_dim": 7}, r"blocks\[0\].hidden_dim=192: expected a multiple of head_dim=7"),
    ("vit_tiny16", {"blocks": ()}, r"blocks=\(\): expected at least one block"),
    ("vit_tiny16", {"blocks": (Block(1), Block(0))}, r"blocks\[1\].layers=0: expected an integer of at least 1"),
    ("vit_tiny16", {"blocks": (Block(1, stride=2),)}, r"blocks\[0\].stride=2: expected 1"),
    ("vit_tiny16", {"blocks": [{"layers": 1, "width": 3}]}, r"blocks\[0\].*unexpected.*'width'"),
    ("vit_tiny16", {"blocks": (12,)}, r"blocks\[0\]=12: expected a Block or a dict of layers, hidden_dim"),
    (
        "vit_tiny16",
        {"blocks": (Block(1), Block(1, stride=3)), "pool_over": "grid"},
        r"blocks\[1\].stride \(pooled over the grid\)=3: expected one of 1, 2, 4",
    ),
    (
        "vit_tiny16",
        {"blocks": (Block(1), Block(1, 128)), "features": ("P4",)},
        r"first block \(768 channels\) and of the last \(128\): expected blocks of one hidden_dim",
    ),
    ("vit_tiny16", {"dropout_rate": 1.5}, r"rate"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD, ids=[f"{n}-{a}" for n, a, _ in BAD])
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        tfvt.create_model(name, **arguments)
