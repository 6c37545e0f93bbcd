"""ViT weights of every source into a ViT and a Funnel-ViT. Logits against the sources' own code: tests/parity."""

import json
import pickle

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import tests.contracts as contracts
import tfvt
from tests.checkpoints import vit_states
from tfvt.checkpoints.positions import resample_grid
from tfvt.models.vit import Block

LAYOUTS = {
    "vit": (Block(3, 16, 24),),
    "funnel": (Block(1, 16, 24), Block(1, 16, 24, stride=2), Block(1, 16, 24, stride=2)),
}
POSITIONS = "embedding/patch_positions"


def create(layout="vit", size=(64, 64), num_classes=5, **options):
    options = {"blocks": LAYOUTS[layout], "head_dim": 8} | options
    return tfvt.create_model("vit_tiny16", input_shape=(*size, 3), num_classes=num_classes, **options)


def weights(model):
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


def check_equal(model, expected, but=()):
    for path, value in weights(model).items():
        if path not in but:
            np.testing.assert_array_equal(value, expected[path], err_msg=path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", vit_states.SOURCES)
def test_every_tensor_is_loaded_bit_for_bit(source, layout, caplog):
    make_state, gelu, _ = vit_states.SOURCES[source]
    model = create(layout, gelu=gelu, num_classes=5)
    before = {w.path for w in model.weights}
    with caplog.at_level("WARNING", logger="tfvt"):
        report = tfvt.load_checkpoint(model, make_state())
    assert (set(report.loaded), report.resampled, report.fresh, report.unused) == (before, (), (), ())
    expected = vit_states.our_state()
    if source == "big_vision":  # the class token's position is folded into the token
        expected["embedding/class_position"] = np.zeros((1, 1, 16), "float32")
    check_equal(model, expected)
    assert ("pixel statistics" in caplog.text) == (source == "timm")
    assert ("pixel_mean=(123.675, 116.28, 103.53)" in caplog.text) == (source == "tfm")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", vit_states.SOURCES)
def test_another_resolution_and_number_of_classes(source, layout, caplog):
    make_state, gelu, kernel = vit_states.SOURCES[source]
    model = create(layout, size=(96, 48), gelu=gelu, num_classes=7)
    head = weights(model)["head/kernel"]
    with caplog.at_level("WARNING", logger="tfvt"):
        report = tfvt.load_checkpoint(model, make_state())
    assert report.resampled == (POSITIONS,)
    assert report.fresh == ("head/kernel", "head/bias")
    assert len(report.unused) == 2
    assert "the head is left fresh" in caplog.text
    assert "vit_tiny16: resampled embedding/patch_positions to 6x3" in caplog.text
    expected = vit_states.our_state()
    np.testing.assert_array_equal(weights(model)["head/kernel"], head)
    np.testing.assert_array_equal(
        weights(model)[POSITIONS], resample_grid(expected[POSITIONS], (6, 3), kernel), err_msg=kernel
    )
    np.testing.assert_array_equal(
        weights(model)["encoder_layer2/mlp_in/kernel"], expected["encoder_layer2/mlp_in/kernel"]
    )


def test_a_body_of_transformers_alone():
    """`ViTModel` has no prefix, and a pooler that a classifier on the token does not read."""
    body = {name.removeprefix("vit."): array for name, array in vit_states.huggingface().items()}
    body = {name: array for name, array in body.items() if not name.startswith("classifier.")}
    body |= {"pooler.dense.weight": np.ones((16, 16)), "pooler.dense.bias": np.ones(16)}
    model = create()
    report = tfvt.load_checkpoint(model, body)
    assert report.fresh == ("head/kernel", "head/bias")
    assert set(report.unused) == {"pooler.dense.weight", "pooler.dense.bias"}
    check_equal(model, vit_states.our_state(), but=report.fresh)


def test_the_kernel_can_be_chosen():
    model = create(size=(96, 48))
    tfvt.load_checkpoint(model, vit_states.timm(), resample="zoom")
    expected = resample_grid(vit_states.our_state()[POSITIONS], (6, 3), "zoom")
    np.testing.assert_array_equal(weights(model)[POSITIONS], expected)
    with pytest.raises(ValueError, match="resample='nearest': expected one of 'source', 'bilinear'"):
        tfvt.load_checkpoint(model, vit_states.timm(), resample="nearest")


def test_a_grid_that_is_no_square():
    state = vit_states.timm(grid=(2, 6))
    report = tfvt.load_checkpoint(create(size=(32, 96)), state)
    assert report.resampled == ()
    with pytest.raises(ValueError, match=r"pos_embed \(12, 16\) for embedding/patch_positions \(3, 3, 16\)"):
        tfvt.load_checkpoint(create(size=(48, 48)), state)


def test_pre_logits():
    state = vit_states.google(pre_logits=True)
    model = create(gelu="tanh", representation_dim=16)
    assert tfvt.load_checkpoint(model, state).fresh == ()
    check_equal(model, vit_states.our_state(pre_logits=True))
    report = tfvt.load_checkpoint(create(gelu="tanh"), state)  # its head reads the pre-logits: not ours
    assert report.fresh == ("head/kernel", "head/bias")
    assert set(report.unused) == {"pre_logits/kernel", "pre_logits/bias", "head/kernel", "head/bias"}
    body = create(gelu="tanh", include_top=False)
    assert tfvt.load_checkpoint(body, vit_states.google()).unused == ("head/kernel", "head/bias")


@pytest.mark.parametrize(("first", "second"), [("vit", "funnel"), ("funnel", "vit"), ("funnel", "funnel")])
def test_our_own_files_pass_both_ways_and_to_other_resolutions(first, second, tmp_path):
    """The four set-ups of Funnel-ViT's Table 1, less ViT to ViT."""
    trained = create(first, size=(64, 48))
    trained.save(tmp_path / "run.keras")
    expected = weights(trained)
    same = create(second, size=(64, 48), weights=tmp_path / "run.keras")
    check_equal(same, expected)
    larger = create(second, size=(96, 80), num_classes=3)
    report = tfvt.load_checkpoint(larger, tmp_path / "run.keras")
    assert (report.resampled, report.fresh) == ((POSITIONS,), ("head/kernel", "head/bias"))
    expected[POSITIONS] = resample_grid(expected[POSITIONS], (6, 5), "bilinear")
    check_equal(larger, expected, but=report.fresh)
    images = contracts.random_images((2, 96, 80, 3))
    logits = contracts.arrays(larger(images))[0]
    assert np.isfinite(logits).all()
    assert np.abs(logits - contracts.arrays(create(second, size=(96, 80), num_classes=3)(images))[0]).max() > 1e-3


@pytest.mark.parametrize("source", ["google", "timm"])
def test_another_gelu_is_refused_and_the_argument_named(source, tmp_path):
    make_state, gelu, _ = vit_states.SOURCES[source]
    other = {"erf": "tanh", "tanh": "erf"}[gelu]
    model = create(gelu=other)
    with pytest.raises(ValueError, match=f"build the model with gelu='{gelu}'"):
        tfvt.load_checkpoint(model, make_state())
    create(gelu=gelu).save(tmp_path / "run.keras")
    with pytest.raises(ValueError, match=f"build the model with gelu='{gelu}'"):
        tfvt.load_checkpoint(model, tmp_path / "run.keras")


def test_what_a_configuration_beside_the_file_says(tmp_path, caplog):
    save_file(vit_states.huggingface(), tmp_path / "model.safetensors")
    config = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    with pytest.raises(ValueError, match="build the model with gelu='tanh'"):
        tfvt.load_checkpoint(create(), tmp_path / "model.safetensors")
    with caplog.at_level("WARNING", logger="tfvt"):
        tfvt.load_checkpoint(create(gelu="tanh"), tmp_path / "model.safetensors")
    assert "has layer_norm_epsilon=1e-06, the checkpoint was trained with 1e-12" in caplog.text
    assert "pixel_mean=(123.675" in caplog.text
    caplog.clear()
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(ValueError, match=r"hidden_act in config.json='relu': expected one of 'gelu', 'gelu_new'"):
        tfvt.load_checkpoint(create(), tmp_path / "model.safetensors")
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config.json, beside the checkpoint, (is not JSON|holds no JSON object)"):
            tfvt.load_checkpoint(create(), tmp_path / "model.safetensors")
    save_file(vit_states.timm(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    with caplog.at_level("WARNING", logger="tfvt"):
        tfvt.load_checkpoint(create(), tmp_path / "model.safetensors")
    assert caplog.text == ""


def change(state, **changes):
    for name, value in changes.items():
        name = name.replace("__", ".")
        state.pop(name) if value is None else state.update({name: value})
    return state


NO_NORM = change(vit_states.timm(), blocks__1__norm1__bias=None)
DISTILLED = change(vit_states.timm(), dist_token=np.zeros((1, 1, 16)))
REFUSED = [
    (NO_NORM, r"no tensor for 1 weight.*encoder_layer2/attention_norm/beta"),
    (DISTILLED, r"1 tensor\(s\) that vit_tiny16 has no weight for: dist_token"),
    (
        {n: a for n, a in vit_states.huggingface().items() if not n.endswith("layer.2.attention.attention.key.bias")},
        r"no tensor for 1 weight.*encoder_layer3/attention/qkv_bias.*2 tensor\(s\).*query.bias.*value.bias",
    ),
    (
        change(vit_states.timm(), blocks__0__mlp__fc1__weight=np.zeros((25, 16))),
        r"blocks.0.mlp.fc1.weight \(16, 25\) for encoder_layer1/mlp_in/kernel \(16, 24\)",
    ),
    ({"conv1.weight": np.zeros((8, 3, 7, 7))}, r"of the family ResNet \(torchvision\), vit_tiny16 is not"),
    ({"blocks.0.norm1.weight": np.zeros(3)}, r"cannot tell the source .* blocks.0.norm1.weight"),
    (vit_states.timm() | {"pos_embed": np.zeros((1, 1, 16))}, r"pos_embed \(0, 16\) for embedding/patch_positions"),
    (vit_states.our_state() | {"embedding/patch_positions": np.float32(1)}, r"\(\) for embedding/patch_positions"),
    ({"MixerBlock_0/LayerNorm_0/scale": np.zeros(3)}, r"no tensor .* fits vit_tiny16: it has MixerBlock_0/"),
]


@pytest.mark.parametrize(("state", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_does_not_fit_is_refused_and_nothing_is_written(state, message):
    model = create()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        tfvt.load_checkpoint(model, state)
    check_equal(model, before)


def test_a_vit_is_no_resnet_and_other_widths_print_both_shapes():
    resnet = tfvt.create_model("resnet18", input_shape=(64, 64, 3), width=8, depths=(1,))
    with pytest.raises(ValueError, match=r"the checkpoint is of the family ViT \(google\), resnet18 is not"):
        tfvt.load_checkpoint(resnet, vit_states.google())
    with pytest.raises(ValueError, match=r"\(16, 24\) for encoder_layer1/mlp_in/kernel \(16, 32\)"):
        tfvt.load_checkpoint(create(blocks=(Block(3, 16, 32),)), vit_states.timm())
    with pytest.raises(ValueError, match="source='google', but the checkpoint has no ViT under that source's names"):
        tfvt.load_checkpoint(create(), vit_states.timm(), source="google")


def test_strict_false_loads_what_fits():
    deeper = create(blocks=(Block(3, 16, 24), Block(1, 16, 24, stride=2)))
    with pytest.raises(ValueError, match=r"no tensor for 12 weight\(s\).*encoder_layer4"):
        tfvt.load_checkpoint(deeper, vit_states.timm())
    report = tfvt.load_checkpoint(deeper, vit_states.timm(), strict=False)
    assert {path.split("/")[0] for path in report.fresh} == {"encoder_layer4"}


def test_npz_files(tmp_path):
    """A whole file loads; a cut one, a pickled one and a web page each say what they are."""
    model, path = create(gelu="tanh"), tmp_path / "vit.npz"
    np.savez(path, **vit_states.google())
    tfvt.load_checkpoint(model, path)
    check_equal(model, vit_states.our_state())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"vit.npz cannot be read.*cut off or damaged"):
        tfvt.load_checkpoint(model, path)
    path.write_bytes(b"<!DOCTYPE html>\n<html><body>Not found</body></html>")
    with pytest.raises(ValueError, match=r"vit.npz is a web page and not a checkpoint"):
        tfvt.load_checkpoint(model, path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"vit.npz cannot be read.*it is not an .npz file"):
        tfvt.load_checkpoint(model, path)
    path.write_bytes(pickle.dumps({"embedding/kernel": [1, 2]}))
    with pytest.raises(ValueError, match=r"vit.npz cannot be read.*pickled"):
        tfvt.load_checkpoint(model, path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"vit.npz cannot be read.*it is an .npy file"):
        tfvt.load_checkpoint(model, path)
    np.savez(path, **{"embedding/kernel": np.array({"a": 1}, dtype=object)})
    with pytest.raises(ValueError, match=r"vit.npz cannot be read.*pickled"):
        tfvt.load_checkpoint(model, path)
    check_equal(model, vit_states.our_state())
