"""Whole segmentation models under mmsegmentation's names, written out here weight by weight."""

import numpy as np
import pytest

import tests.contracts as contracts
import tfvt
from tests.checkpoints.test_task_layers import weights

SHAPE = (64, 64, 3)
PVT = {"head_dim": 8, "depths": (1, 1, 1, 1), "class_token": False}
RESNET = {"block": "basic", "width": 8, "depths": (1, 1, 1, 1)}
SWIN = {"width": 16, "head_dim": 8, "window_size": 4, "depths": (1, 1, 1, 1)}
UPERNET = {"backbone_options": SWIN, "neck_channels": 16, "auxiliary_channels": 8}
SEMANTIC = {"backbone_options": PVT, "pyramid_channels": 24, "head_channels": 16}
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
# Theirs without the last word -> ours.
UPERNET_MODULES = {
    "backbone.norm0": "neck_p2_norm", "backbone.norm3": "neck_p5_norm",
    "decode_head.psp_modules.0.1": "neck_pool1", "decode_head.psp_modules.1.1": "neck_pool2",
    "decode_head.psp_modules.2.1": "neck_pool3", "decode_head.psp_modules.3.1": "neck_pool6",
    "decode_head.bottleneck": "neck_pools", "decode_head.fpn_bottleneck": "decoder_fusion",
    "decode_head.lateral_convs.0": "neck_p2_lateral", "decode_head.lateral_convs.2": "neck_p4_lateral",
    "decode_head.fpn_convs.0": "neck_p2_output", "decode_head.fpn_convs.2": "neck_p4_output",
    "decode_head.conv_seg": "head", "auxiliary_head.convs.0": "head_auxiliary", "auxiliary_head.conv_seg":
    "head_auxiliary", "backbone.patch_embed.proj": "patch_embedding/projection",
    "backbone.layers.2.blocks.0.attn.proj": "stage3_block1/mixer/out",
    "backbone.layers.0.downsample.norm": "stage2_merging/norm",
}  # fmt: skip
SEMANTIC_MODULES = {
    "neck.lateral_convs.0": "neck_p2_lateral", "neck.lateral_convs.3": "neck_p5_lateral",
    "neck.fpn_convs.0": "neck_p2_output", "neck.fpn_convs.3": "neck_p5_output",
    "decode_head.scale_heads.0.0": "decoder_p2_1", "decode_head.scale_heads.1.0": "decoder_p3_1",
    "decode_head.scale_heads.2.0": "decoder_p4_1", "decode_head.scale_heads.2.2": "decoder_p4_2",
    "decode_head.scale_heads.3.0": "decoder_p5_1", "decode_head.scale_heads.3.2": "decoder_p5_2",
    "decode_head.scale_heads.3.4": "decoder_p5_3", "decode_head.conv_seg": "head",
    "backbone.patch_embed4.norm": "stage4_embedding/norm", "backbone.block3.0.attn.kv":
    "stage3_block1/mixer/key_value",
}  # fmt: skip


def their_array(array):
    """Keras' layout to PyTorch's."""
    return np.transpose(array, (3, 2, 0, 1)) if array.ndim == 4 else array.T


def their_state(model, modules):
    """({their name: array}, {our path: array}) of random numbers for the listed modules of a model."""
    rng, state, expected = np.random.default_rng(0), {}, {}
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    for theirs, ours in modules.items():
        names = {f"{ours}/kernel": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}
        names |= {f"{ours}_conv/kernel": f"{theirs}.conv.weight"}
        if theirs.startswith("neck."):
            names = {f"{ours}/kernel": f"{theirs}.conv.weight", f"{ours}/bias": f"{theirs}.conv.bias"}
        names |= {f"{ours}_norm/{keras}": f"{theirs}.bn.{torch}" for torch, keras in NORM.items()}
        names |= {f"{ours}/{keras}": f"{theirs}.{torch}" for torch, keras in NORM.items()}
        found = [path for path in names if path in shapes]
        if theirs.endswith("convs.0") and theirs.startswith("aux"):
            found = [path for path in found if path.startswith("head_auxiliary_")]
        elif theirs.endswith("conv_seg"):
            found = [path for path in found if path.startswith(f"{ours}/")]
        assert found, theirs
        for path in found:
            expected[path] = rng.normal(size=shapes[path]).astype("float32")
            state[names[path]] = their_array(expected[path])
        if any("norm" in path for path in found):
            state[f"{theirs}.bn.num_batches_tracked"] = np.array(3)
    return state, expected


@pytest.mark.parametrize(
    ("name", "options", "modules"),
    [
        ("upernet_swin_tiny", UPERNET | {"auxiliary": True}, UPERNET_MODULES),
        ("semantic_fpn_pvt_tiny", SEMANTIC, SEMANTIC_MODULES),
    ],
)
def test_names_of_mmsegmentation(name, options, modules):
    model = tfvt.create_model(name, num_classes=3, input_shape=SHAPE, **options)
    state, expected = their_state(model, modules)
    anchors = {
        "backbone.layers.0.blocks.0.attn.relative_position_bias_table": "stage1_block1/mixer/bias_table",
        "backbone.patch_embed1.proj.weight": "stage1_embedding/projection/kernel",
    }
    before = weights(model)
    for theirs, ours in anchors.items():
        if ours in before:
            state[theirs] = before[ours] if before[ours].ndim == 2 else their_array(before[ours])
            expected[ours] = before[ours]
    report = tfvt.load_checkpoint(model, state, strict=False)
    assert report.unused == ()
    assert set(report.loaded) == set(expected)
    after = weights(model)
    for path, array in expected.items():
        np.testing.assert_array_equal(after[path], array)


def test_positions_of_a_published_pvt_are_resampled_without_the_class_tokens():
    """Its table for 7x7 patches and a class token that nothing reads, into a model with 4x2 patches and none."""
    model = tfvt.create_model("semantic_fpn_pvt_tiny", num_classes=3, input_shape=(128, 64, 3), **SEMANTIC)
    table = np.concatenate([np.full((1, 1, 64), 9.0), np.full((1, 49, 64), 2.0)], axis=1).astype("float32")
    kernel = their_array(weights(model)["stage1_embedding/projection/kernel"])
    state = {"backbone.patch_embed1.proj.weight": kernel, "backbone.pos_embed4": table}
    report = tfvt.load_checkpoint(model, state, strict=False)
    assert report.resampled == ("stage4_positions/patch_positions",)
    assert report.unused == ()
    np.testing.assert_allclose(weights(model)["stage4_positions/patch_positions"], np.full((4, 2, 64), 2.0))


def test_an_auxiliary_head_is_left_where_the_model_has_none():
    options = {"num_classes": 3, "input_shape": SHAPE, **UPERNET}
    trained = tfvt.create_model("upernet_swin_tiny", auxiliary=True, **options)
    model = tfvt.create_model("upernet_swin_tiny", **options)
    arrays = {path: array for path, array in weights(trained).items() if "seed" not in path}
    report = tfvt.load_checkpoint(model, arrays)
    assert {path.partition("_")[2].partition("/")[0] for path in report.unused} == {
        "auxiliary", "auxiliary_conv", "auxiliary_norm",
    }  # fmt: skip
    assert report.fresh == ()
    images = contracts.random_images((1, *SHAPE))
    expected = contracts.arrays(trained(images)["logits"])[0]
    np.testing.assert_allclose(contracts.arrays(model(images))[0], expected, atol=1e-5)


def test_other_families_are_named():
    model = tfvt.create_model("swin_tiny", input_shape=SHAPE, width=16, head_dim=8, depths=(1,))
    state = {"backbone.layers.0.blocks.0.attn.relative_position_bias_table": np.zeros((169, 2))}
    with pytest.raises(ValueError, match=r"of the family UPerNet \(mmsegmentation\), swin_tiny is not"):
        tfvt.load_checkpoint(model, state)


# Each with what its classifier alone has.
CLASSIFIERS = [
    pytest.param("resnet50", RESNET, {"head/kernel", "head/bias"}, marks=pytest.mark.slow),
    pytest.param("swin_tiny", SWIN, {"head/kernel", "head/bias", "norm/gamma", "norm/beta"}, marks=pytest.mark.slow),
    ("pvt_tiny", PVT | {"class_token": True}, {
        "head/kernel", "head/bias", "norm/gamma", "norm/beta", "stage4_positions/token",
        "stage4_positions/token_position",
    }),
]  # fmt: skip


@pytest.mark.parametrize(
    ("backbone", "options", "unused"), CLASSIFIERS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_classifiers_file_fills_the_backbone(backbone, options, unused, tmp_path):
    trained = tfvt.create_model(backbone, num_classes=5, input_shape=(64, 64, 3), **options)
    trained.save(tmp_path / "model.keras")
    options = options | {"class_token": False} if "class_token" in options else options
    dense = {"backbone": backbone, "backbone_options": options, "pyramid_channels": 24, "head_channels": 16}
    model = tfvt.create_model("semantic_fpn_pvt_tiny", num_classes=5, input_shape=(96, 64, 3), **dense)
    report = tfvt.load_checkpoint(model, tmp_path / "model.keras")
    assert set(report.unused) == unused
    assert all(path.startswith(("neck_", "decoder_", "head/")) for path in report.fresh)
    weights = {w.path: contracts.arrays(w)[0] for w in model.weights}
    for weight in trained.weights:
        if weight.path in report.loaded and weight.path not in report.resampled:
            np.testing.assert_array_equal(weights[weight.path], contracts.arrays(weight)[0])
    assert len(report.loaded) == len(trained.weights) - len(unused) - sum("seed" in w.path for w in trained.weights)
