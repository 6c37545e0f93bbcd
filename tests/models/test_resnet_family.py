"""What only ResNet and VT-ResNet have: their options, pyramids, sizes and errors."""

import keras
import numpy as np
import pytest

import tests.contracts as contracts
import tfvt

TINY = {"width": 8, "depths": (1, 1, 1, 1)}
TINY_VT = {"width": 16, "depths": (1, 1, 1), "output_channels": 128, "token_dim": 96}
VT_OPTIONS = [
    {},
    {"tokenizer": "cluster"},
    {"tokenizer": "pool"},
    {"recurrent": False},
    {"relation": "graph"},
    {"relation": "none"},
    {"projector": False, "num_modules": 3},
    {"num_tokens": 32},
    {"renewed_tokens": 4},
    {"renewed_tokens": 4, "num_relations": 1},
    {"projector": False, "num_modules": 3, "num_relations": 2},
    {"token_norm": "layer", "num_heads": 4},
    {"token_norm": "none", "scale_logits": False},
    {"tokenizer": "cluster", "kmeans_iterations": 2, "kmeans_gradient": True},
    {"token_dim": 128, "stem_pool": False, "num_modules": 1},
]


@pytest.mark.parametrize("options", VT_OPTIONS, ids=str)
def test_vt_options(options):
    contracts.check_model("vt_resnet18", **TINY_VT | options)


@pytest.mark.parametrize("options", [{"stride_in_1x1": True}, {"zero_init_last_norm": True}], ids=str)
def test_resnet_options(options):
    options |= {"block": "bottleneck"}
    if "zero_init_last_norm" in options:
        model = tfvt.create_model("resnet18", input_shape=(64, 64, 3), **TINY, **options)
        scales = {w.path.split("/")[0]: w for w in model.weights if w.name == "gamma"}
        zero = [name for name, gamma in scales.items() if not keras.ops.convert_to_numpy(gamma).any()]
        assert zero == [f"stage{stage}_block1_3_norm" for stage in (1, 2, 3, 4)]
    else:
        contracts.check_model("resnet18", **TINY, **options)


def test_stride_in_1x1_moves_the_stride():
    def strides(**options):
        model = tfvt.create_model("resnet50", input_shape=(64, 64, 3), width=8, **options)
        return [model.get_layer(f"stage2_block1_{i}_conv").strides for i in (1, 2)]

    assert strides() == [(1, 1), (2, 2)]
    assert strides(stride_in_1x1=True) == [(2, 2), (1, 1)]


@pytest.mark.parametrize(("name", "options"), [("resnet18", TINY), ("vt_resnet18", TINY_VT)])
def test_any_size(name, options):
    contracts.check_sizes(name, [(64, 64), (65, 127), (96, 64), (97, 100)], **options)


def test_pyramids():
    contracts.check_features("resnet18", {"P2": 4, "P3": 8, "P4": 16, "P5": 32}, **TINY)
    contracts.check_features("resnet18", {"P5": 32, "P3": 8}, size=(97, 131), **TINY)
    contracts.check_features("vt_resnet18", {"P2": 4, "P3": 8, "P4": 16}, **TINY_VT)
    contracts.check_features("vt_resnet18", {"P4": 16}, projector=False, **TINY_VT)
    contracts.check_features("resnet18", {"P1": 2, "P4": 16}, stem_pool=False, **TINY)


def test_vt_pyramid_ends_in_the_projectors_map():
    model = tfvt.create_model("vt_resnet34", input_shape=(64, 64, 3), features=("P3", "P4"), **TINY_VT)
    layers = {layer.name for layer in model.layers}
    assert {"vt1_projector", "vt2_projector"} <= layers
    assert "vt3_tokenizer" not in layers  # tokens that no map shows are not computed
    assert model.output["P4"].shape[-1] == TINY_VT["output_channels"]
    assert model.output["P3"].shape[-1] == TINY_VT["width"] * 2


def test_pixels_are_normalised_in_the_model():
    images = contracts.random_images((2, 64, 64, 3))
    model = tfvt.create_model("resnet18", input_shape=(64, 64, 3), **TINY)
    bare = tfvt.create_model("resnet18", input_shape=(64, 64, 3), pixel_mean=None, **TINY)
    bare.set_weights(model.get_weights())
    normalised = (images - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    expected = keras.ops.convert_to_numpy(bare(normalised.astype("float32")))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(images)), expected, atol=1e-5)


# An option of VT-ResNet, the layer that it reaches, the attribute there.
REACHED = [
    ({"num_heads": 4}, "vt1_relation", "num_heads", 4),
    ({"num_heads": 4}, "vt1_projector", "num_heads", 4),
    ({"scale_logits": False}, "vt1_relation", "scale_logits", False),
    ({"scale_logits": False}, "vt1_projector", "scale_logits", False),
    ({"scale_logits": False}, "vt2_tokenizer", "scale_logits", False),
    ({"tokenizer": "cluster", "kmeans_iterations": 3}, "vt1_tokenizer", "iterations", 3),
    ({"tokenizer": "cluster", "kmeans_gradient": True}, "vt1_tokenizer", "gradient", True),
    ({"key_dim": 40}, "vt2_relation", "key_dim", 40),
    ({"mlp_dim": 56}, "vt1_relation", "mlp_dim", 56),
    ({"renewed_tokens": 5}, "vt2_tokenizer", "num_tokens", 5),
    ({"token_norm": "layer"}, "vt2_relation", "norm", "layer"),
    ({"batch_norm_epsilon": 1e-3}, "stem_norm", "epsilon", 1e-3),
    ({"batch_norm_momentum": 0.5}, "stage3_block1_1_norm", "momentum", 0.5),
    ({"batch_norm_epsilon": 1e-3}, "vt1_relation", "norm_options", {"epsilon": 1e-3, "momentum": 0.9}),
    ({"dropout_rate": 0.3}, "head_dropout", "rate", 0.3),
    ({"drop_path_rate": 0.4}, "stage3_block1_drop_path", "rate", 0.24),
    ({"drop_path_rate": 0.4}, "vt1_relation", "drop_path_rate", 0.32),
    ({"drop_path_rate": 0.4}, "vt1_projector", "drop_path_rate", 0.32),
    ({"drop_path_rate": 0.4}, "vt2_relation", "drop_path_rate", 0.4),
]


@pytest.mark.parametrize(("options", "layer", "attribute", "value"), REACHED, ids=str)
def test_options_reach_their_layers(options, layer, attribute, value):
    model = tfvt.create_model("vt_resnet18", input_shape=(64, 64, 3), **TINY_VT | options)
    reached = getattr(model.get_layer(layer), attribute)
    assert reached == (pytest.approx(value) if isinstance(value, float) else value)
    default = tfvt.create_model("vt_resnet18", input_shape=(64, 64, 3), **TINY_VT)
    names = [layer.name for layer in default.layers]
    assert layer not in names or getattr(default.get_layer(layer), attribute, None) != value


def test_trunk_options_of_a_vt_resnet():
    model = tfvt.create_model("vt_resnet18", input_shape=(64, 64, 3), zero_init_last_norm=True, **TINY_VT)
    for stage in (1, 2, 3):
        assert not keras.ops.convert_to_numpy(model.get_layer(f"stage{stage}_block1_2_norm").gamma).any()
    if keras.backend.backend() == "tensorflow":  # other backends have no synchronised batch norm
        model = tfvt.create_model("vt_resnet18", input_shape=(64, 64, 3), synchronized_batch_norm=True, **TINY_VT)
        assert model.get_layer("stem_norm").synchronized
        assert model.get_layer("vt2_relation").query.normalize.synchronized


@pytest.mark.parametrize("rates", [{"dropout_rate": 0.5}, {"drop_path_rate": 0.5}], ids=str)
def test_dropout_and_stochastic_depth_act_in_training_only(rates):
    images = contracts.random_images((8, 64, 64, 3))
    for name, tiny in (("resnet18", TINY), ("vt_resnet18", TINY_VT)):
        model = tfvt.create_model(name, input_shape=(64, 64, 3), **rates, **tiny)
        first, second = (contracts.arrays(model(images))[0] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        first, second = (contracts.arrays(model(images, training=True))[0] for _ in range(2))
        assert np.abs(first - second).max() > 0.01 * np.abs(first).max()


def test_stochastic_depth_rises_linearly_over_the_blocks():
    model = tfvt.create_model("resnet18", input_shape=(64, 64, 3), drop_path_rate=0.3, **TINY)
    rates = [layer.rate for layer in model.layers if type(layer).__name__ == "DropPath"]
    assert rates == pytest.approx([0.075, 0.15, 0.225, 0.3])  # the first block too: Huang et al., eq. 4


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("acmix_resnet26", {"depths": (2, 1, 1)}, [0.1, 0.2, 0.3, 0.4]),
        ("san10", {"depths": (2, 1), "kernel_size": 3}, [0.4 / 3, 0.8 / 3, 0.4]),
        ("swin_tiny", {"depths": (2, 1)}, [0, 0.2, 0.4]),
        ("pvt_tiny", {"depths": (1, 2, 1, 1)}, [0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_the_first_block_of_a_transformer_is_not_dropped(name, options, expected):
    """DeiT, PVT and Swin take timm's rates, from 0; the others those of the paper on stochastic depth."""
    model = tfvt.create_model(name, input_shape=(64, 64, 3), drop_path_rate=0.4, **options)
    rates = [layer.rate for layer in model.layers if type(layer).__name__ == "DropPath"]
    rates += [layer.drop_path_rate for layer in model.layers if hasattr(layer, "drop_path_rate")]
    assert rates == pytest.approx(expected)


def test_channels_that_are_no_multiple_of_64():
    contracts.check_model("vt_resnet18", **TINY_VT | {"width": 50, "output_channels": 450, "token_dim": 72})


def test_numpy_integers_are_integers():
    model = tfvt.create_model("resnet18", num_classes=np.int64(3), input_shape=(64, 64, 3), **TINY)
    assert model.output_shape == (None, 3)


BAD = [
    ("resnet", {}, r"unknown model 'resnet'.*did you mean resnet\d\d"),
    ("vt_resnet81", {}, r"unknown model 'vt_resnet81'.*did you mean.*vt_resnet18"),
    ("vt_resnet18", {"num_tokenz": 8}, r"no option 'num_tokenz': did you mean num_tokens"),
    ("vt_resnet18", {"num_relations": 3}, r"num_relations=3: expected at most num_modules=2"),
    ("resnet18", {"num_tokens": 8}, r"resnet18 has no option 'num_tokens'"),
    ("resnet18", {"num_classes": 0}, r"num_classes=0: expected an integer of at least 1"),
    ("resnet18", {"num_classes": 2.5}, r"num_classes=2.5: expected an integer"),
    ("resnet18", {"input_shape": (31, 64, 3)}, r"height 31 is below 32"),
    ("vt_resnet18", {"input_shape": (64, 15, 3)}, r"width 15 is below 16"),
    ("resnet18", {"input_shape": (64, 64, 4)}, r"4 channel\(s\), pixel_mean=.*expected 4 value\(s\)"),
    ("resnet18", {"input_shape": (64, 64)}, r"expected \(height, width, channels\)"),
    (
        "resnet18",
        {"input_shape": (64, 64, 0)},
        r"expected every value to be an integer of at least 1 and",
    ),
    ("resnet18", {"features": ("P1",)}, r"features='P1': expected one of 'P2', 'P3', 'P4', 'P5'"),
    ("vt_resnet18", {"features": ("P5",)}, r"features='P5': expected one of 'P2', 'P3', 'P4'"),
    ("resnet18", {"features": "P4"}, r"features='P4': expected a sequence of levels"),
    ("resnet18", {"features": ()}, r"one or more of P2, P3, P4, P5"),
    ("resnet18", {"block": "basik"}, r"block='basik': expected one of 'basic', 'bottleneck'"),
    ("resnet18", {"depths": (2, 0)}, r"depths=\(2, 0\): expected every value to be an integer of at least 1"),
    ("resnet18", {"depths": 2}, r"depths=2: expected a sequence"),
    ("resnet18", {"drop_path_rate": 1.5}, r"drop_path_rate=1.5: expected a number of at least 0 and below 1"),
    ("resnet18", {"drop_path_rate": -1}, r"drop_path_rate=-1: expected a number of at least 0"),
    ("resnet18", {"dropout_rate": 2}, r"dropout_rate=2: expected a number of at least 0 and below 1"),
    ("resnet18", {"batch_norm_momentum": 7}, r"batch_norm_momentum=7: expected a number of at least 0 and below 1"),
    ("resnet18", {"pixel_mean": 127.5}, r"pixel_mean=127.5: expected a sequence"),
    (
        "resnet18",
        {"pixel_std": (0, 1, 1)},
        r"pixel_std=\(0, 1, 1\): expected every value to be a number",
    ),
    ("resnet18", {"stem_pool": "false"}, r"stem_pool='false': expected True or False"),
    ("vt_resnet18", {"token_dim": 31}, r"token_dim=31: expected an even number"),
    ("vt_resnet18", {"tokenizer": "kmeans"}, r"tokenizer='kmeans': expected one of 'filter', 'cluster', 'pool'"),
    ("vt_resnet18", {"relation": "gcn"}, r"relation='gcn': expected one of 'transformer', 'graph', 'none'"),
    ("vt_resnet18", {"token_norm": "group"}, r"token_norm='group': expected one of"),
    ("vt_resnet18", {"num_tokens": 0}, r"num_tokens=0: expected an integer of at least 1"),
    ("vt_resnet18", {"renewed_tokens": 17}, r"renewed_tokens=17: expected at most num_tokens=16"),
    ("vt_resnet18", {"num_heads": 3}, r"num_heads=3: expected a divisor of token_dim=1024"),
    ("vt_resnet18", {"num_modules": 0}, r"num_modules=0: expected"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD, ids=[f"{n}-{a}" for n, a, _ in BAD])
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        tfvt.create_model(name, **arguments)


def test_more_channels_with_their_statistics():
    model = tfvt.create_model(
        "resnet18", input_shape=(64, 64, 1), pixel_mean=(128.0,), pixel_std=(64.0,), num_classes=3, **TINY
    )
    assert model.output_shape == (None, 3)
